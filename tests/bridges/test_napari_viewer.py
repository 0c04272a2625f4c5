import builtins
from types import SimpleNamespace

import numpy as np
import pytest
import traitlets

import scarches_widgets as sca
from scarches_widgets.data.names import DataError
from scarches_widgets.mapping.layers import layers_of


@pytest.fixture
def tissue():
    cells = sca.datasets.tissue(120, 12, n_types=3, n_regions=3, n_sections=1, seed=1)
    factors = {"tissue_hires_scalef": 0.05, "spot_diameter_fullres": 30.0}
    images = {"hires": np.zeros((50, 50, 3)), "segmentation": np.ones((1000, 1000), dtype=int)}
    cells.uns["spatial"] = {"section0": {"images": images, "scalefactors": factors}}
    return cells


class Signal:
    """An event of napari's, as far as it is used."""

    def __init__(self):
        self.callbacks = []

    def connect(self, callback):
        self.callbacks.append(callback)

    def emit(self):
        for callback in self.callbacks:
            callback(SimpleNamespace())


class FakeLayer:
    """A layer of napari's: its properties tell when they change, and its selection is a set that does."""

    def __init__(self, data=(), **options):
        self.data, self.options = list(data), options
        self.visible, self.opacity = options.get("visible", True), options.get("opacity", 1.0)
        self.events = SimpleNamespace(visible=Signal(), opacity=Signal())
        self.shape_type = []
        self._selected = Selected()

    @property
    def selected_data(self):
        return self._selected

    @selected_data.setter
    def selected_data(self, rows):
        self._selected.replace(rows)

    def refresh(self):
        pass

    def click(self, name, value):
        """As a user changes it."""
        setattr(self, name, value)
        getattr(self.events, name).emit()

    def draw(self, corners, kind="polygon"):
        self.data.append(np.asarray(corners, dtype=float))
        self.shape_type.append(kind)


class Selected(set):
    def __init__(self):
        super().__init__()
        self.events = SimpleNamespace(items_changed=Signal())

    def replace(self, rows):
        self.clear()
        self.update(rows)
        self.events.items_changed.emit()


class FakeViewer:
    def __init__(self):
        self.layers, self.is_open = {}, True

    def add(self, data=(), **options):
        self.layers[options["name"]] = FakeLayer(data, **options)
        return self.layers[options["name"]]

    add_image = add_labels = add_points = add_shapes = add_vectors = add

    def close(self):
        self.is_open = False


class Mapper(traitlets.HasTraits):
    """A SpatialMapper, as far as the bridge knows it."""

    selection = traitlets.Instance(np.ndarray)

    def __init__(self, reference, query=None, locations=None):
        super().__init__(selection=np.zeros(0, dtype=np.int64))
        self.reference, self.query, self.locations = reference, query, locations
        self.values, self.model, self.section = {"spatial_key": "spatial", "section_key": None}, None, None
        self.layers, self.refreshed = layers_of(reference), 0

    def refresh(self):
        self.refreshed += 1


def test_layers_are_turned_to_naparis_order_of_axes_and_have_the_colours_of_their_cells(tissue):
    tissue.uns["cell_type_colors"] = ["#ff0000", "#00ff00", "#0000ff"]
    viewer = FakeViewer()
    sca.napari.open_viewer(tissue, viewer=viewer, color="cell_type", region_key="region")
    assert list(viewer.layers) == ["image", "segmentation", "cells", "regions", "drawn"]
    cells = viewer.layers["cells"]
    np.testing.assert_array_equal(np.array(cells.data), tissue.obsm["spatial"][:, ::-1])
    np.testing.assert_array_equal(cells.options["face_color"][:, :3], np.eye(3)[tissue.obs["cell_type"].cat.codes])
    assert cells.options["size"] == 30 and viewer.layers["image"].options["scale"] == (20, 20)
    assert len(viewer.layers["regions"].options["features"]["name"]) == len(viewer.layers["regions"].data)


def test_what_is_selected_visible_and_coloured_is_shared_with_napari_both_ways(tissue):
    viewer = FakeViewer()
    opened = sca.napari.open_viewer(tissue, viewer=viewer)
    opened.selection = [5, 3, 3]
    assert viewer.layers["cells"].selected_data == {3, 5} and opened.selection.tolist() == [3, 5]
    viewer.layers["cells"].selected_data = {7}
    assert opened.selection.tolist() == [7]
    opened.layers["cells"].visible = False
    assert not viewer.layers["cells"].visible
    viewer.layers["cells"].click("visible", True)
    viewer.layers["image"].click("opacity", 0.5)
    assert opened.layers["cells"].visible and opened.layers["image"].opacity == 0.5
    for color in ("Gene0003", "library_size", "region", "#ff0000"):
        opened.layers["cells"].color = color
        assert viewer.layers["cells"].face_color.shape == (tissue.n_obs, 4)
    with pytest.raises(DataError, match="'Gene3' is neither"):
        opened.layers["cells"].color = "Gene3"
    with pytest.raises(traitlets.TraitError, match="beyond the 120 cells"):
        opened.selection = [120]
    opened.close()
    assert not viewer.is_open


def test_a_drawn_polygon_becomes_a_region_in_obs(tissue):
    viewer = FakeViewer()
    opened = sca.napari.open_viewer(tissue, viewer=viewer)
    drawn, x, y = viewer.layers["drawn"], *tissue.obsm["spatial"].T
    with pytest.raises(DataError, match="Nothing is drawn in the layer 'drawn'"):
        opened.assign("part")
    drawn.draw([[0, 0], [0, 500], [1000, 500], [1000, 0]])  # y, x: the left half
    drawn.draw([[700, 200], [700, 800], [900, 800], [900, 200]], "ellipse")
    left, oval = x < 500, ((x - 500) / 300) ** 2 + ((y - 800) / 100) ** 2 <= 1
    written = opened.assign("part")
    assert written == [f"obs['part'] = 'drawn {n}' for {m.sum()} cells" for n, m in ((1, left), (2, oval))]
    assert (tissue.obs["part"] == "drawn 2").tolist() == oval.tolist()
    assert (tissue.obs["part"] == "drawn 1").tolist() == (left & ~oval).tolist()
    assert tissue.obs["part"].isna().tolist() == (~left & ~oval).tolist()
    before = tissue.obs["region"].astype(str)
    opened.assign("region", "mine")
    assert (tissue.obs["region"].astype(str) == before.where(~(left | oval), "mine")).all()
    with pytest.raises(DataError, match="holds numbers, not regions"):
        opened.assign("library_size")
    drawn.draw([[0, 0], [1, 1]], "line")
    with pytest.raises(DataError, match="A line in the layer 'drawn' has no inside"):
        opened.assign("part")


def test_a_mappers_selection_and_layers_are_naparis_too(tissue):
    query = tissue[:40].copy()
    locations = query.obs[[]].assign(x=np.arange(40.0), y=1.0, uncertainty=1.0)
    mapper, viewer = Mapper(tissue, query, locations), FakeViewer()
    opened = sca.napari.open_viewer(mapper, viewer=viewer)
    assert opened.adata is query and "predicted" in viewer.layers
    mapper.selection = np.array([2, 3])
    assert viewer.layers["predicted"].selected_data == {2, 3} and viewer.layers["cells"].selected_data == set()
    viewer.layers["predicted"].selected_data = {9}
    assert mapper.selection.tolist() == [9]
    mapper.layers["cells"].visible = False
    assert not viewer.layers["cells"].visible
    viewer.layers["cells"].click("opacity", 0.25)
    assert mapper.layers["cells"].opacity == 0.25
    viewer.layers["drawn"].draw([[0, -1], [0, 9.5], [2, 9.5], [2, -1]])
    opened.assign("place", "left")
    assert (query.obs["place"] == "left").sum() == 10 and mapper.refreshed == 1 and "place" not in tissue.obs
    opened.close()
    mapper.selection = np.array([1])
    assert viewer.layers["predicted"].selected_data == {9}


def test_a_mapper_that_has_placed_no_cells_shows_the_reference(tissue):
    viewer = FakeViewer()
    opened = sca.napari.open_viewer(Mapper(tissue, tissue[:40].copy()), viewer=viewer)
    assert "cells" in viewer.layers and "predicted" not in viewer.layers
    viewer.layers["drawn"].draw([[0, 0], [0, 9], [9, 9]])
    with pytest.raises(DataError, match="has not been placed yet"):
        opened.assign("part")
    opened = sca.napari.open_viewer(Mapper(tissue), viewer=FakeViewer())
    assert opened.adata is tissue


def test_without_a_screen_or_without_napari_the_way_out_is_named(tissue, monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RuntimeError, match=r"no screen here .*SpatialMapper"):
        sca.napari.open_viewer(tissue)
    monkeypatch.setenv("DISPLAY", ":7")
    imported = builtins.__import__

    def without_napari(name, *args, **kwargs):
        if name == "napari":
            raise ModuleNotFoundError("No module named 'napari'")
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_napari)
    with pytest.raises(RuntimeError, match=r"pip install 'scarches-widgets\[napari\]'"):
        sca.napari.open_viewer(tissue)


@pytest.mark.napari
def test_a_real_napari_shows_the_layers_and_shares_the_selection(tissue):
    import napari

    tissue.obsp["spatial_connectivities"] = layers_graph(tissue.n_obs)
    opened = sca.napari.open_viewer(tissue, color="cell_type", region_key="region")
    viewer = opened.viewer
    assert isinstance(viewer, napari.Viewer)
    kinds = [(layer.name, type(layer).__name__) for layer in viewer.layers]
    assert kinds == [
        ("image", "Image"),
        ("segmentation", "Labels"),
        ("graph", "Vectors"),
        ("cells", "Points"),
        ("regions", "Shapes"),
        ("drawn", "Shapes"),
    ]
    cells = viewer.layers["cells"]
    np.testing.assert_allclose(cells.data, tissue.obsm["spatial"][:, ::-1])
    opened.selection = [3, 5]
    assert set(cells.selected_data) == {3, 5}
    cells.selected_data = {7, 9}
    assert opened.selection.tolist() == [7, 9]
    opened.layers["cells"].visible = False
    assert not cells.visible
    cells.visible = True
    assert opened.layers["cells"].visible
    viewer.layers["drawn"].add(np.array([[0, 0], [0, 500], [1000, 500], [1000, 0]]), shape_type="polygon")
    opened.assign("part", "left")
    assert (tissue.obs["part"] == "left").tolist() == (tissue.obsm["spatial"][:, 0] < 500).tolist()
    picture = viewer.screenshot(canvas_only=True, flash=False)
    assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 3  # more than background
    opened.close()


def layers_graph(n: int):
    from scipy import sparse

    return sparse.diags([np.ones(n - 1)] * 2, [1, -1]).tocsr()
