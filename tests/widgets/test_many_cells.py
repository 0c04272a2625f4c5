"""Views of more cells than a page is sent: pictures of what is in sight, counts, and selections found in the kernel."""

from __future__ import annotations

import io

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from matplotlib.path import Path
from PIL import Image
from widgets.pages import click, nothing_raised, wait_until

from scarches_widgets.widgets import EmbeddingView, Session, SpatialMapper, cell_view
from scarches_widgets.widgets.raster import Sight, painted
from scarches_widgets.widgets.spatial_placing import Placed

N = 500
PALETTE = ["#ff0000", "#00ff00", "#0000ff"]
SQUARE = {"x": [-1.0, 1.0, 1.0, -1.0], "y": [-1.0, -1.0, 1.0, 1.0]}


@pytest.fixture(autouse=True)
def few_are_many(monkeypatch):
    monkeypatch.setattr(cell_view, "MOST_CELLS", 100)


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    adata = ad.AnnData(rng.poisson(1.0, (N, 4)).astype(np.float32))
    adata.obs["type"] = pd.Categorical(rng.choice(["a", "b", "c"], N))
    adata.obs["depth"] = np.where(np.arange(N) % 10, rng.normal(size=N), np.nan)
    adata.obs["slide"] = pd.Categorical(np.where(np.arange(N) < 200, "one", "two"))
    adata.obsm["X_umap"] = rng.normal(size=(N, 2)).astype(np.float32)
    adata.obsm["spatial"] = rng.normal(size=(N, 2)) * 2
    return adata


@pytest.fixture
def view(cells):
    return EmbeddingView(cells, "umap", "type")


def look(view, pane="picture", number=1, colours=None, **asked):
    """What a page does to see a part of the plane, and the picture that it gets."""
    colours = {"own": PALETTE} if colours is None else colours
    asked = {"x": [-3, 3], "y": [3, -3], "width": 60, "height": 50, **asked}
    click(view, "look", pane=pane, view="a page", number=number, colours=colours, **asked)
    wait_until(lambda: getattr(view, pane).get("number") == number, seconds=120)
    return np.array(Image.open(io.BytesIO(getattr(view, pane)["png"])))


def test_the_page_gets_no_cells_but_counts(view, cells):
    assert view.by_kernel and view.coloring["names"] == ["a", "b", "c"]
    assert view.positions == view.names == view.selected == view.coloring["values"] == b""
    counts = cells.obs["type"].value_counts()[["a", "b", "c"]].tolist()
    assert view.tally == {"n": 0, "all": counts, "selected": [0, 0, 0]}
    low, high = cells.obsm["X_umap"].min(0), cells.obsm["X_umap"].max(0)
    assert view.axes["extent"] == {"x": [low[0], high[0]], "y": [low[1], high[1]]}
    view.selection = cells.obs["type"] == "b"
    assert view.tally == {"n": counts[1], "all": counts, "selected": [0, counts[1], 0]}
    view.color = "depth"
    depth = cells.obs["depth"].dropna().astype(np.float32)
    assert view.tally["all"] == pytest.approx(
        {"n": 450, "min": depth.min(), "median": depth.median(), "mean": depth.mean(), "max": depth.max()}, rel=1e-5
    )
    assert view.tally["selected"]["n"] == depth[cells.obs["type"] == "b"].size
    view.color = None
    assert view.tally == {"n": counts[1]}


def test_the_part_of_the_plane_in_sight_is_drawn_in_the_pages_colours(view, cells):
    drawn = look(view)
    assert (view.picture["x"], view.picture["y"], view.picture["view"]) == ((-3.0, 3.0), (-3.0, 3.0), "a page")
    colours = {"own": cell_view.rgb_of(PALETTE)}
    np.testing.assert_array_equal(drawn, painted(view._layers_in("picture", colours), Sight((-3, 3), (-3, 3), 60, 50)))
    before = view.edition
    view.selection = cells.obs["type"] == "c"
    assert view.edition > before, "the page is told to ask again"
    selected = look(view, number=2)
    opaque = selected[..., 3] == 255
    assert opaque.any() and (selected[opaque] == [0, 0, 255, 255]).all()
    view.color = "depth"
    grey = look(view, number=3, colours={"own": ["#000000", "#ffffff", "#123456"]})
    assert len(np.unique(grey[..., :3].reshape(-1, 3), axis=0)) <= 4
    with nothing_raised():
        click(view, "look", pane="selection", view="a page", number=4, colours={"own": PALETTE}, x=[0, 1])
        click(view, "look", pane="picture", view="a page", number=4, colours={"own": ["red"]}, x=[0, 1], y=[0, 1])
        click(view, "look", pane="picture")
    assert view.picture["number"] == 3


def test_of_several_questions_the_last_is_answered(view):
    gate = view._painter._publish
    view._painter._publish = lambda: None
    for number in range(5):
        asked = {"x": [0, number + 1], "y": [0, 1], "width": 9, "height": 9}
        click(view, "look", pane="picture", view="a page", number=number, colours={"own": PALETTE}, **asked)
    gate()
    assert view.picture["number"] == 4 and view.picture["x"] == (0.0, 5.0)


def test_cells_are_selected_by_category_number_and_line_and_linked_views_follow(cells):
    session = Session()
    view = EmbeddingView(cells, "umap", "type", session)
    beside = EmbeddingView(cells, "spatial", session=session)
    click(view, "choose", code=1)
    assert (view.mask == (cells.obs["type"] == "b")).all() and beside.tally["n"] == len(view.selection)
    click(view, "choose", code=2, mode="add")
    click(view, "choose", what="inverse", mode="replace")
    assert (view.mask == (cells.obs["type"] == "a")).all()
    inside = Path(np.array(list(zip(*SQUARE.values())))).contains_points(cells.obsm["X_umap"])
    click(view, "surround", pane="picture", **SQUARE, mode="subtract")
    assert (view.mask == (cells.obs["type"] == "a") & ~inside).all()
    click(view, "surround", pane="picture", **SQUARE)
    assert (beside.mask == inside).all() and 0 < inside.sum() < N
    view.color = "depth"
    click(view, "choose", low=0.5, high=None)
    assert (view.mask == (cells.obs["depth"] >= 0.5)).all()
    for what, n in (("all", N), ("none", 0)):
        click(view, "choose", what=what)
        assert len(session.selection) == n
    with nothing_raised():
        click(view, "surround", pane="picture", x=[0, 1], y=[0, 1])
        click(view, "choose", what="some")
        view.set_state({"selected": bytes([255] * 63)})
    assert len(view.selection) == 0


def test_a_mapper_of_many_cells_draws_the_section_in_sight_and_selects_no_cell_that_is_hidden(cells):
    mapper = SpatialMapper(cells, section_key="slide", color="type")
    assert mapper.by_kernel and mapper.tissue == mapper.positions == b"" and mapper.basis == "X_umap"
    assert look(mapper, "tissue_picture").any() and look(mapper).any()
    mapper.section = "one"
    click(mapper, "surround", pane="tissue_picture", **SQUARE)
    inside = Path(np.array(list(zip(*SQUARE.values())))).contains_points(cells.obsm["spatial"])
    assert (mapper.mask == inside & (cells.obs["slide"] == "one")).all() and mapper.mask.any()
    mapper.layers["cells"].visible = False
    assert not look(mapper, "tissue_picture", number=2).any()
    mapper.layers["graph"].visible = mapper.layers["regions"].visible = True
    assert mapper.graph["lines"] and mapper.outlines["lines"], "of few cells in sight, lines are drawn"


def test_a_few_cells_in_a_large_tissue_are_drawn_over_it_without_those_below_the_threshold(cells):
    query = cells[:50].copy()
    del query.obsm["spatial"]
    mapper = SpatialMapper(cells, query, region_key="type")
    assert mapper.by_kernel and len(mapper.reference_cells["names"]) == 3
    assert mapper.reference_cells["positions"] == mapper.reference_cells["values"] == b""
    places = pd.DataFrame({"x": 0.0, "y": 0.0, "confidence": np.linspace(0, 1, 50)}, index=query.obs_names)
    places["uncertainty"] = 1.0
    mapper.placed = Placed("neighbours", places, None)
    mapper._show_placed()
    colours = {"own": ["#ff00ff", "#ff00ff", "#000000"], "reference": PALETTE}
    mapper.layers["predicted"].size = 0.5
    over = look(mapper, "tissue_picture", colours=colours)
    assert (over == [255, 0, 255, 255]).all(-1).any()
    mapper.layers["cells"].visible = False
    alone = look(mapper, "tissue_picture", number=2, colours=colours)
    assert 0 < (alone[..., 3] > 0).sum() < (over[..., 3] > 0).sum()
    mapper.threshold = 0.6
    click(mapper, "surround", pane="tissue_picture", **SQUARE)
    assert (mapper.mask == mapper.is_assigned).all() and 0 < mapper.mask.sum() < 50
    mapper.layers["predicted"].visible = False
    assert not look(mapper, "tissue_picture", number=3, colours=colours).any()


def test_a_saved_notebook_and_code_have_the_same_as_of_few_cells(view, cells):
    view.selection = cells.obs["type"] == "a"
    assert view.snapshot("png").data[:4] == b"\x89PNG" and "500 cells, coloured by type (3 groups)" in view._summary()
    names = {"adata": cells}
    exec(view.code(), names)
    assert (names["view"].mask == view.mask).all() and names["view"].by_kernel
