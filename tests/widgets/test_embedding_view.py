"""Views of cells without a browser: what they would tell a page, and what a page, or a forger, may tell them."""

import gzip
import json
from unittest import mock
from xml.etree import ElementTree

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

import scarches_widgets as sca
from scarches_widgets.data.names import DataError
from scarches_widgets.mapping.pictures import palette
from scarches_widgets.widgets import EmbeddingView, Session, cell_view
from scarches_widgets.widgets.coloring import coloring_of

HOSTILE = '<img src=x onerror="alert(1)"> @c0{x} $index'


@pytest.fixture
def cells():
    """Ten cells at known places, with every kind of column."""
    obs = pd.DataFrame(
        {
            "type": pd.Categorical(list("aabbbccccc"), categories=["c", "a", "b"]),
            "cluster": ["10", "2", "2", "1", "10", "1", "2", "1", "1", "1"],
            "doublet": [True, False] * 5,
            "depth": np.arange(10) / 2,
            "partly": pd.Categorical(["x", None, *["y"] * 8]),
        },
        index=[f"cell{i}" for i in range(10)],
    )
    adata = ad.AnnData(sparse.csr_matrix(np.arange(30, dtype=np.float32).reshape(10, 3)), obs=obs)
    adata.var_names = ["CD3D", "depth", "NKG7"]
    adata.obsm["X_umap"] = np.stack([np.arange(10), np.arange(10) ** 2, np.ones(10)], axis=1)
    adata.obsm["spatial"] = adata.obsm["X_umap"][:, :2] * 100
    return adata


@pytest.fixture
def view(cells):
    return EmbeddingView(cells, "umap", "type")


def bits(*chosen, n=10):
    mask = np.zeros(n, dtype=bool)
    mask[list(chosen)] = True
    return np.packbits(mask, bitorder="little").tobytes()


def click(view, **content):
    view._handle_msg({"content": {"data": {"method": "custom", "content": content}}, "buffers": []})


def sent_by(send):
    """Names of the traits in each update that was sent; bytes travel beside the state."""
    messages = [call.args[0] for call in send.call_args_list if call.args[0]["method"] == "update"]
    return [{*message["state"], *(path[0] for path in message["buffer_paths"])} for message in messages]


def values_sent(view):
    return np.frombuffer(view.coloring["values"], dtype=view.coloring["dtype"])


# Selecting in Python


@pytest.mark.parametrize(
    "given_",
    [
        [7, 2],
        np.array([2, 7, 7], dtype=np.uint8),
        np.isin(np.arange(10), [2, 7]),
        pd.Series(np.isin(np.arange(10), [2, 7])),
        ["cell7", "cell2"],
        pd.Index(["cell2", "cell7"]),
    ],
    ids=["positions", "repeated positions", "mask", "series", "names", "index of names"],
)
def test_cells_are_selected_by_position_mask_or_name(view, given_):
    view.selection = given_
    assert view.selection.tolist() == [2, 7] and view.selection.dtype == np.int64
    assert view.obs_names.tolist() == ["cell2", "cell7"]
    assert np.flatnonzero(view.mask).tolist() == [2, 7]
    assert view.selected == bits(2, 7)


@pytest.mark.parametrize("nothing", [None, [], np.zeros(10, dtype=bool), np.array([])], ids=repr)
def test_nothing_can_be_selected(view, nothing):
    view.selection = [1]
    view.selection = nothing
    assert len(view.selection) == 0 and view.selected == bits()


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ([3, 10, -1], r"2 of 3 positions do not exist \(10, -1\). They count from 0 to 9"),
        (["cell1", "cel2"], r"1 of 2 names are not in adata.obs_names \(cel2\). Did you mean 'cell"),
        (np.ones(9, dtype=bool), "The mask has 9 values, and there are 10 cells"),
        ([1.0, 2.0], "float64 is neither positions nor names nor a mask"),
        ([[1, 2]], "one dimension, not 2"),
    ],
    ids=str,
)
def test_a_selection_that_makes_no_sense_is_refused_and_the_old_one_kept(view, given_, message):
    view.selection = [4]
    with pytest.raises(DataError, match=message):
        view.selection = given_
    assert view.selection.tolist() == [4]


def test_a_selection_cannot_be_changed_behind_the_view(view):
    view.selection = [4]
    with pytest.raises(ValueError, match="read-only"):
        view.selection[0] = 5


def test_observers_hear_of_a_selection_once_and_not_of_the_same_again(view):
    heard = []
    view.observe(lambda change: heard.append(change["new"].tolist()), "selection")
    view.selection = [1, 2]
    view.selection = ["cell2", "cell1"]
    view.selection = [1]
    assert heard == [[1, 2], [1]]


# Sessions


def test_views_of_one_session_share_selection_and_colour(cells):
    session = Session()
    umap, space = EmbeddingView(cells, session=session), EmbeddingView(cells, "spatial", session=session)
    heard = []
    for holder in (umap, space, session):
        holder.observe(lambda change: heard.append(change["owner"]), "selection")
    umap.selection = [3]
    assert space.selection.tolist() == session.selection.tolist() == [3] and space.selected == bits(3)
    assert len(heard) == 3, "each is told once, in no circle"
    session.selection = ["cell5"]
    assert umap.selection.tolist() == space.selection.tolist() == [5]
    space.color = "type"
    assert umap.color == session.color == "type" and umap.coloring == space.coloring
    session.color = None
    assert umap.color is None and space.coloring["kind"] == "none"


def test_a_later_view_takes_what_its_session_has(cells):
    session = Session(selection=[1, 2], color="type", adata=cells)
    view = EmbeddingView(cells, session=session)
    assert view.selection.tolist() == [1, 2] and view.selected == bits(1, 2)
    assert view.color == "type" and view.coloring["key"] == "type"
    assert session.obs_names.tolist() == ["cell1", "cell2"] and session.mask.sum() == 2
    EmbeddingView(cells, color="cluster", session=session)
    assert view.color == "cluster"


def test_views_without_a_session_are_apart(cells):
    one, other = EmbeddingView(cells), EmbeddingView(cells)
    one.selection, one.color = [1], "type"
    assert len(other.selection) == 0 and other.color is None


def test_a_closed_view_no_longer_follows(cells):
    session = Session()
    one, other = EmbeddingView(cells, session=session), EmbeddingView(cells, session=session)
    one.close()
    one.close()
    other.selection = [1]
    assert len(one.selection) == 0


def test_a_session_refuses_other_cells_and_what_its_cells_have_not(cells):
    session = Session(adata=cells)
    with pytest.raises(DataError, match="already has an AnnData"):
        EmbeddingView(cells[:5].copy(), session=session)
    with pytest.raises(DataError, match="Did you mean 'type'"):
        session.color = "tpye"
    with pytest.raises(DataError, match="do not exist"):
        session.selection = [10]
    with pytest.raises(DataError, match="do not exist"):
        EmbeddingView(cells, session=Session(selection=[99]))
    with pytest.raises(DataError, match="names cannot be found"):
        Session(selection=["cell1"])
    with pytest.raises(ValueError, match="no cells yet"):
        Session(selection=[1]).obs_names  # noqa: B018


# Positions


def test_positions_are_sent_once_as_float32_x_before_y(view, cells):
    sent = np.frombuffer(view.positions, dtype="<f4").reshape(2, 10)
    np.testing.assert_array_equal(sent.T, cells.obsm["X_umap"][:, :2].astype(np.float32))
    assert json.loads(gzip.decompress(view.names)) == cells.obs_names.tolist()
    with mock.patch.object(view, "_send") as send:
        view.color = "depth"
        view.selection = [1]
    assert sent_by(send) == [{"coloring"}, {"selected"}]


def test_a_basis_is_found_with_and_without_its_prefix(cells):
    assert EmbeddingView(cells, "umap").basis == EmbeddingView(cells, "X_umap").basis == "X_umap"
    assert EmbeddingView(cells, "umap").label == "UMAP"
    assert EmbeddingView(cells, "spatial").basis == "spatial"
    cells.obsm["frame"] = pd.DataFrame(cells.obsm["spatial"], index=cells.obs_names)
    assert EmbeddingView(cells, "frame").positions == EmbeddingView(cells, "spatial").positions


def test_a_basis_that_cannot_be_drawn_is_refused_with_the_reason(cells):
    with pytest.raises(DataError, match=r"no 'umpa'. Did you mean 'X_umap'\? There are: X_umap, spatial"):
        EmbeddingView(cells, "umpa")
    cells.obsm["line"] = np.ones((10, 1))
    with pytest.raises(DataError, match=r"shape \(10, 1\), and two columns"):
        EmbeddingView(cells, "line")
    cells.obsm["X_umap"][2:5, 1] = np.nan
    cells.obsm["X_umap"][7, 0] = np.inf
    with pytest.raises(DataError, match="4 of 10 cells have no finite position"):
        EmbeddingView(cells)
    with pytest.raises(DataError, match="It is empty; compute one first"):
        EmbeddingView(ad.AnnData(np.ones((2, 2))))
    with pytest.raises(DataError, match="no cells"):
        EmbeddingView(cells[:0].copy(), "spatial")


def test_a_view_that_needs_every_cell_in_the_page_refuses_too_many_with_the_way_out(cells, monkeypatch):
    monkeypatch.setattr(cell_view, "MOST_CELLS", 9)
    with pytest.raises(DataError, match=r"10 cells are more than the 9 .* `sc.pp.sample\(adata, n=9"):
        cell_view.CellView(cells)


# Colours


def test_categories_keep_their_order_and_other_text_sorts_as_people_count(view, cells):
    assert view.coloring["names"] == ["c", "a", "b"] and values_sent(view).tolist() == [1, 1, 2, 2, 2, 0, 0, 0, 0, 0]
    view.color = "cluster"
    assert view.coloring["names"] == ["1", "2", "10"]
    view.color = "doublet"
    assert view.coloring["names"] == ["False", "True"] and values_sent(view).tolist() == [1, 0] * 5


def test_numbers_have_a_scale_and_cells_without_one_are_told(view, cells):
    view.color = "depth"
    assert (view.coloring["kind"], view.coloring["low"], view.coloring["high"]) == ("numbers", 0, 4.5)
    assert view.coloring["dtype"] == "float32" and values_sent(view).tolist() == cells.obs["depth"].tolist()
    cells.obs["holes"] = pd.array([1, None, *range(8)], dtype="Int64")
    cells.obs.loc["cell9", "depth"] = np.inf
    holes = coloring_of(cells, "holes")
    assert np.isnan(holes.values[1]) and (holes.low, holes.high) == (0, 7) and holes.note.startswith("1 cells")
    depth = coloring_of(cells, "depth")
    assert np.isnan(depth.values[9]) and depth.high == 4


def test_cells_without_a_category_are_one_more_group(view):
    view.color = "partly"
    assert view.coloring["names"] == ["x", "y", "no value"] and view.coloring["has_missing"]
    assert values_sent(view).tolist() == [0, 2, *[1] * 8]


@pytest.mark.parametrize(
    "kind", [sparse.csr_matrix, sparse.csc_matrix, lambda x: x.toarray()], ids=["csr", "csc", "dense"]
)
def test_a_gene_has_the_values_that_x_holds(cells, kind):
    cells.X = kind(cells.X)
    coloring = coloring_of(cells, "NKG7")
    assert coloring.values.tolist() == list(range(2, 30, 3)) and coloring.label == "NKG7, as in X"
    assert coloring_of(cells, "depth").label == "depth", "columns come before genes"


def test_a_gene_of_a_backed_file_and_of_a_view_has_the_same_values(cells, tmp_path):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    assert coloring_of(backed, "NKG7").values.tolist() == coloring_of(cells, "NKG7").values.tolist()
    assert coloring_of(cells[::2], "NKG7").values.tolist() == list(range(2, 30, 6))


def test_colours_of_scanpy_are_used_if_there_is_a_valid_one_for_each_category(cells):
    cells.uns["type_colors"] = np.array(["red", "#00ff0080", "#0000FF", "unused"])
    assert coloring_of(cells, "type").colours == ("#ff0000", "#00ff00", "#0000ff")
    for unfit in (["red"], ["red", "green", "no colour"], "#ff0000", 3, None):
        cells.uns["type_colors"] = unfit
        assert coloring_of(cells, "type").colours == tuple(palette(3))


def test_many_categories_share_colours_and_say_so_and_too_many_are_refused(view, cells):
    cells = ad.AnnData(np.ones((1200, 1), dtype=np.float32))
    cells.obsm["X_umap"] = np.ones((1200, 2))
    cells.obs["fine"] = [str(i % 300) for i in range(1200)]
    cells.obs["name"] = [str(i) for i in range(1200)]
    fine = coloring_of(cells, "fine")
    assert fine.values.dtype == np.uint16 and fine.values.max() == 299
    assert fine.note == "300 categories share 40 colours; the list tells them apart by name."
    with pytest.raises(DataError, match=r"1,200 different values, more than the 1,000"):
        EmbeddingView(cells, color="name")
    assert EmbeddingView(cells).columns == ["fine"]
    assert not coloring_of(cells[:40], "fine").note and len(set(palette(40))) == 40


def test_a_colour_that_is_not_there_is_refused_and_the_old_one_kept(view, cells):
    with pytest.raises(DataError, match=r"'tpye' is neither a column .* nor a gene .* Did you mean 'type'\?"):
        view.color = "tpye"
    assert view.color == view.session.color == view.coloring["key"] == "type"
    cells.var_names = ["CD3D", "CD3D", "NKG7"]
    with pytest.raises(DataError, match="the name of 2 genes"):
        view.color = "CD3D"


def test_new_columns_are_found_and_the_anndata_is_not_changed(view, cells):
    before = cells.copy()
    view.color = "cluster"
    view.selection = [1]
    view.snapshot()
    assert cells.uns == before.uns and cells.obs.equals(before.obs) and cells.obsm.keys() == before.obsm.keys()
    cells.obs["leiden"] = pd.Categorical(list("0123401234"))
    view.color = "leiden"
    assert "leiden" in view.columns
    cells.obs["leiden"] = pd.Categorical(list("0000000001"))
    view.refresh()
    assert view.coloring["names"] == ["0", "1"]


# What the browser may do


def test_the_browser_selects_cells_and_linked_views_and_python_follow(cells):
    session = Session()
    one, other = EmbeddingView(cells, session=session), EmbeddingView(cells, session=session)
    heard = []
    one.observe(lambda change: heard.append(change["new"].tolist()), "selection")
    with mock.patch.object(one, "_send") as back, mock.patch.object(other, "_send") as onward:
        one.set_state({"selected": memoryview(bits(0, 9))})
    assert heard == [[0, 9]] and session.selection.tolist() == [0, 9]
    assert sent_by(back) == [], "nothing comes back to the page that said it"
    assert sent_by(onward) == [{"selected"}]


@pytest.mark.parametrize(
    "forged",
    [b"", b"\x01", bytes(3), bytes(10**6), b"\x00\x04", b"\xff\xff", "\x00\x00", 3, None, [0, 0], {"0": 1}, True],
    ids=lambda value: repr(value)[:20],
)
def test_bits_that_fit_no_selection_are_ignored(view, forged):
    view.selection = [4]
    with mock.patch.object(view, "send_state") as send_state:
        view.set_state({"selected": forged})
    assert view.selection.tolist() == [4] and view.selected == bits(4) and view.error is None
    send_state.assert_called_once_with(["selected"])


@given(st.binary(max_size=4))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_bytes_come_the_selection_is_of_cells_that_exist(view, forged):
    view.set_state({"selected": forged})
    assert view.selection.size == 0 or (view.selection.min() >= 0 and view.selection.max() < 10)
    assert view.selected == bits(*view.selection)


@pytest.mark.parametrize(
    "name", ["color", "positions", "n_cells", "names", "coloring", "columns", "figure", "selection"]
)
def test_the_browser_writes_nothing_else(view, name):
    before = getattr(view, name)
    view.set_state({name: b"x"})
    assert getattr(view, name) is before or getattr(view, name) == before


def test_the_browser_asks_for_a_colour_and_reads_why_there_is_none(view, cells):
    click(view, op="color", key="depth")
    assert view.color == "depth" and view.error is None
    del cells.obs["cluster"]
    click(view, op="color", key="cluster")
    assert view.color == "depth" and "'cluster' is neither" in view.error["what"]
    for forged in (3, ["type"], {"a": 1}):
        click(view, op="color", key=forged)
        assert view.color == "depth"
    click(view, op="color", key="depth")
    assert view.color == "depth" and view.error is None
    click(view, op="color", key=None)
    assert view.color is None


# Code and pictures


@pytest.mark.parametrize("color", ["type", "doublet", "depth", "NKG7", None])
@pytest.mark.parametrize("chosen", [[], [0, 1], [0, 1, 2, 3, 4], [1, 3, 5, 7, 9], [2]], ids=str)
def test_the_code_makes_the_same_view_again(cells, color, chosen, monkeypatch):
    view = EmbeddingView(cells, "umap", color)
    view.selection = chosen
    for listed in (0, 500):
        monkeypatch.setattr(cell_view, "MOST_LISTED", listed)
        names = {"adata": cells}
        exec(view.code(), names)
        assert names["view"].selection.tolist() == chosen and names["view"].color == color
        assert names["view"].basis == "X_umap"


def test_whole_categories_are_named_in_the_code_unless_their_names_are_not_what_obs_holds(view, cells):
    view.selection = [0, 1, 2, 3, 4]
    assert "view.selection = adata.obs['type'].isin(['a', 'b'])" in view.code()
    cells.obs["mixed"] = [1, 1, "1", 2.5, [3], *[None] * 5]
    view.color, view.selection = "mixed", [0, 1, 2]
    assert view.coloring["names"] == ["1", "2.5", "[3]", "no value"] and "isin" not in view.code()


def test_pictures_and_their_text_follow_colour_and_selection(view):
    view.selection = [0, 1]
    assert view._summary() == "UMAP of 10 cells, coloured by type (3 groups); 2 selected (20.0%)."
    assert view.snapshot("png").data.startswith(b"\x89PNG")
    plain = view.snapshot("svg").data
    ElementTree.fromstring(plain)
    view.color = "depth"
    assert view.snapshot("svg").data != plain
    view.color = None
    assert view.snapshot("svg").data and view._summary().startswith("UMAP of 10 cells; 2 selected")
    bundle, _ = view._repr_mimebundle_()
    assert "data:image/png" in bundle["text/html"] and bundle["text/plain"] == view._summary()


def test_hostile_names_are_data_everywhere(cells, tmp_path):
    cells.obs_names = [f"{HOSTILE} {i}" for i in range(10)]
    cells.obs[HOSTILE] = pd.Categorical([f"_{HOSTILE}", "$x$"] * 5)
    cells.obsm[f"X_{HOSTILE}"] = cells.obsm["spatial"]
    view = EmbeddingView(cells, HOSTILE, HOSTILE)
    view.selection = cells.obs_names[:2]
    page = view.export_html(tmp_path / "view.html").read_text()
    assert "<img src=x" not in page and "&lt;img src=x" in page
    ElementTree.fromstring(view.snapshot("svg").data)
    exec(view.code(), {"adata": cells})
    assert HOSTILE not in json.dumps(view.figure["doc"]).replace(f"{HOSTILE} 1", "").replace(f"{HOSTILE} 2", "")


def test_a_real_atlas_is_shown(atlas):
    atlas = atlas.copy()
    atlas.obsm["X_truth2"] = atlas.obsm["X_truth"][:, :2]
    view = sca.widgets.EmbeddingView(atlas, "truth2", "cell_type")
    assert view.coloring["kind"] == "categories" and {"cell_type", "batch"} <= set(view.columns)
    assert len(view._repr_mimebundle_()[0]["text/html"]) < 100_000
