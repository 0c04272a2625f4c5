import numpy as np
import pandas as pd
import pytest
import traitlets
from scipy import sparse

import scarches_widgets as sca
from scarches_widgets.data.names import DataError
from scarches_widgets.mapping.layers import Layer, category_colors, cells_within, layers_of, outlines, spacing


@pytest.fixture
def tissue():
    """Two slides, of which the first has an image and a segmentation."""
    cells = sca.datasets.tissue(200, 20, n_types=3, n_regions=3, seed=1)
    images = {"hires": np.zeros((50, 40, 3)), "segmentation": np.zeros((1000, 1000), dtype=int)}
    factors = {"tissue_hires_scalef": 0.05, "spot_diameter_fullres": 30.0}
    cells.uns["spatial"] = {"section0": {"images": images, "scalefactors": factors}, "section1": {}}
    cells.obsp["spatial_connectivities"] = sparse.csr_matrix(np.eye(200, k=2) + np.eye(200, k=-2))
    return cells


def test_a_slide_has_its_image_cells_of_true_size_its_graph_and_regions(tissue):
    layers = layers_of(tissue, color="cell_type", region_key="region", library_key="section", library="section0")
    assert list(layers) == ["image", "segmentation", "graph", "cells", "regions"]
    cells = layers["cells"]
    is_there = (tissue.obs["section"] == "section0").to_numpy()
    np.testing.assert_array_equal(cells.cells, np.flatnonzero(is_there))
    np.testing.assert_array_equal(cells.coordinates, tissue.obsm["spatial"][is_there])
    assert (cells.kind, cells.size, cells.color, cells.visible) == ("points", 30.0, "cell_type", True)
    assert layers["image"].pixel_size == 20 and layers["image"].image.shape == (50, 40, 3)
    kept = tissue.obsp["spatial_connectivities"][is_there][:, is_there]
    assert layers["graph"].coordinates.shape == (kept.nnz // 2, 2, 2) and not layers["graph"].visible
    assert set(layers["regions"].names) <= set(tissue.obs["region"].cat.categories)
    plain = layers_of(tissue, library_key="section", library="section1")
    assert list(plain) == ["graph", "cells"] and 0 < plain["cells"].size < 100  # by how far apart cells are


def test_layers_change_as_naparis_do_and_a_view_can_observe_them(tissue):
    layers = layers_of(tissue, library_key="section")
    seen = []
    layers["cells"].observe(lambda change: seen.append((change["name"], change["new"])), ["visible", "opacity"])
    layers["cells"].visible = False
    layers["cells"].opacity = 0.25
    assert seen == [("visible", False), ("opacity", 0.25)]
    assert repr(layers["cells"]) == "Layer('cells', points, 100, hidden)"
    with pytest.raises(traitlets.TraitError):
        layers["cells"].opacity = 2.0
    layers.add(Layer("cells", "points", coordinates=np.zeros((1, 2))))
    assert len(layers["cells"].coordinates) == 1 and len(layers) == 4
    with pytest.raises(KeyError, match=r"no layer 'cels'\. Did you mean 'cells'"):
        layers["cels"]
    with pytest.raises(ValueError, match="kind='dots' is not known"):
        Layer("dots", "dots")


def test_predicted_places_are_a_layer_also_of_cells_without_coordinates(tissue):
    at = pd.DataFrame({"x": 1.0, "y": np.arange(200.0), "uncertainty": 9.0}, index=tissue.obs_names)
    layers = layers_of(tissue, library_key="section", locations=at[::-1])
    assert not layers["predicted"].visible  # beside the true places
    np.testing.assert_array_equal(layers["predicted"].coordinates[:, 1], layers["predicted"].cells)
    del tissue.obsm["spatial"], tissue.uns["spatial"]
    layers = layers_of(tissue, locations=at, color="cell_type")
    assert list(layers) == ["predicted"] and layers["predicted"].visible and layers["predicted"].size == 1.0
    with pytest.raises(DataError, match=r"The AnnData has no obsm\['spatial'\]"):
        layers_of(tissue)


def test_faults_name_what_there_is(tissue):
    with pytest.raises(DataError, match=r"has 2 libraries \(section0, section1\)"):
        layers_of(tissue)
    with pytest.raises(DataError, match=r"no column 'secton'\. Did you mean 'section'"):
        layers_of(tissue, library_key="secton")
    with pytest.raises(DataError, match="No cell is of library 'section7'"):
        layers_of(tissue, library_key="section", library="section7")
    with pytest.raises(DataError, match="no library 'section7'"):
        layers_of(tissue, library="section7")
    with pytest.raises(DataError, match="no column 'regoin' with regions"):
        layers_of(tissue, library_key="section", region_key="regoin")


def test_an_outline_encloses_its_region_and_no_other():
    grid = np.stack(np.meshgrid(np.arange(12.0), np.arange(10.0)), axis=-1).reshape(-1, 2)
    around = np.abs(grid - [5.5, 4.5]).max(1) > 2.6  # a frame around a block
    found = outlines(grid, around.astype(int))
    assert [code for code, _ in found] == [0, 1, 1]  # the frame has an inner outline too
    (_, block), *frame = found
    assert cells_within(grid, block * 1.001 - 0.005).sum() == pytest.approx((~around).sum(), abs=6)
    largest = max((ring for _, ring in frame), key=np.ptp)
    np.testing.assert_array_equal([largest.min(0), largest.max(0)], [[0, 0], [11, 9]])
    far = np.concatenate([grid, grid + 100])
    assert len(outlines(far, np.zeros(len(far), dtype=int))) == 2  # one region in two parts
    assert outlines(grid[:2], np.zeros(2, dtype=int)) == [] and outlines(grid, -np.ones(120, dtype=int)) == []


def test_cells_within_a_polygon():
    inside = cells_within([[1, 1, 9], [3, 1, -5], [1, 3, 0]], [[0, 0], [2, 0], [2, 2], [0, 2]])
    assert inside.tolist() == [True, False, False]


def test_points_have_the_size_at_which_they_nearly_touch():
    assert spacing(np.array([[0.0, 0], [0, 0], [3, 4], [6, 8]])) == 5
    assert spacing(np.zeros((3, 2))) == 1


def test_the_users_colours_are_kept_if_they_fit(tissue):
    assert len(set(category_colors(tissue, "cell_type"))) == 3
    tissue.uns["cell_type_colors"] = ["red", "#00FF00", "blue"]
    assert category_colors(tissue, "cell_type") == ["#ff0000", "#00ff00", "#0000ff"]
    tissue.uns["cell_type_colors"] = ["red"]
    assert len(category_colors(tissue, "cell_type")) == 3
