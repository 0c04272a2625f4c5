"""Gene programs without a browser: ranking, comparing, renaming, writing, and what a page, or a forger, may ask for."""

import json
import warnings
from unittest import mock
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from pages import click, nothing_raised, wait_until
from small import QUICK

import scarches_widgets as sca
from scarches_widgets.data.names import DataError
from scarches_widgets.widgets import EmbeddingView, GenePrograms, Session

HOSTILE = "<img src=x onerror=h()> $x @y"


@pytest.fixture(scope="module")
def cells():
    """Cells of three batches, and the sets of their programs: two that were simulated, markers, one switched off."""
    adata = sca.datasets.atlas(n_obs=240, n_vars=100, n_types=3, n_programs=3, seed=3)
    adata.obsm["X_umap"] = adata.obsm["X_truth"][:, :2].copy()
    adata.obs["leiden"] = [i % 3 for i in range(240)]
    truth = adata.uns["truth"]
    sets = dict(truth["programs"]) | {f"markers of {name}": genes for name, genes in truth["markers"].items()}
    sets = {name: [*genes, "not measured"] for name, genes in sets.items()}
    sets |= {HOSTILE: adata.var_names[:6].tolist()}
    model = sca.models.EXPIMAP(adata, gene_sets=sets, min_genes=3, hidden_layer_sizes=[16], batch_key="batch")
    omega = [0.0] * (len(model.terms) - 1) + [1.0]
    model.train(max_epochs=12, batch_size=64, progress=False, alpha=1000, omega=omega)
    return adata, model, sets


@pytest.fixture
def model(cells, tmp_path):
    """A copy of the fitted model that a test may rename programs of."""
    adata, model, _ = cells
    folder = tmp_path / "model"
    model.save(folder)
    return sca.models.EXPIMAP.load(folder, adata.copy())


@pytest.fixture
def view(model):
    view = GenePrograms(model)
    assert view.wait(30) == "ready", view.error
    yield view
    view.close()


def asked(view, op, **content):
    """Send a command, and wait for what it starts."""
    with nothing_raised():
        click(view, op, **content)
    view.wait(30)


def assert_code_makes_the_table(view):
    names = {"model": view.model, "adata": view.adata.copy()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(view.code(), names)
    pd.testing.assert_frame_equal(names["table"], view.table)
    return names


# Ranking


def test_programs_that_vary_most_come_first_and_switched_off_ones_are_left_out(view):
    scores = view.model.get_gene_program_scores()
    table = view.table
    assert table["term"].tolist() == scores.std(ddof=0).drop(HOSTILE).sort_values(ascending=False).index.tolist()
    assert table["genes"].tolist() == [len(view.model.mask_genes()[term]) for term in table["term"]]
    view.with_switched_off = True
    assert view.table["term"].iloc[-1] == HOSTILE and view.table["activity"].iloc[-1] == 0
    rows = view.ranking["rows"]
    assert [view.terms[row["i"]] for row in rows] == view.table["term"].tolist() and not rows[-1]["on"]
    assert view.term == table["term"][0], "the first is open"


def test_a_group_is_compared_to_another_or_to_all_others_as_latent_enrich_does(view):
    first, second = view.groupings["cell_type"][:2]
    view.compare("cell_type", first, second)
    view.wait(30)
    groups = {name: (view.adata.obs["cell_type"] == name).to_numpy() for name in (first, second)}
    expected = view.model.latent_enrich(groups, comparison=second)
    expected = expected[expected["term"] != HOSTILE].reset_index(drop=True)
    pd.testing.assert_frame_equal(view.table[expected.columns.tolist()], expected)
    view.compare("leiden", "0")
    view.wait(30)
    assert view.ranking["first"] == "0" and view.ranking["second"] == "all others" and view.ranking["n"] == [80, 160]


def test_two_selections_are_compared_and_without_b_all_others_stand_for_it(view):
    with pytest.raises(DataError, match="There is no A yet"):
        view.compare_selections()
    with pytest.raises(DataError, match="No cells are selected"):
        view.mark("A")
    view.selection = range(50)
    view.mark("A")
    view.compare_selections()
    view.wait(30)
    assert view.ranking["n"] == [50, 190] and view.marked == {"A": 50, "B": None}
    view.mark("B", range(100, 120))
    view.compare_selections()
    view.wait(30)
    assert view.ranking["n"] == [50, 20]
    assert_code_makes_the_table(view)
    view.mark("B", range(40, 60))
    with pytest.raises(DataError, match="10 cells are in A as well as in B"):
        view.compare_selections()
    view.unmark("B")
    assert view.marked == {"A": 50, "B": None}


def test_warnings_of_the_comparison_are_shown_and_nowhere_else(view):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        view.compare("batch", "batch0", "batch1")
        view.wait(30)
    assert any("cannot be read from this model" in text for text in view.ranking["notes"])
    view.rank_by_activity()
    view.wait(30)
    assert view.ranking["notes"] == []


def test_groups_that_do_not_exist_are_refused_and_the_table_stays(view):
    before = view.table
    for arguments, says in (
        (("cell_typ", "x"), "no column 'cell_typ'.*Did you mean 'cell_type'"),
        (("batch", "batch9"), r"no group 'batch9'.*The groups: batch0, batch1"),
        (("batch", "batch0", "batch0"), "cannot be compared to itself"),
    ):
        with pytest.raises(DataError, match=says):
            view.compare(*arguments)
    pd.testing.assert_frame_equal(view.table, before)


def test_what_is_asked_last_is_what_is_shown(view):
    for group in ("batch0", "batch1", "batch2") * 3:
        view.compare("batch", group)
    view.wait(30)
    assert view.ranking["first"] == "batch2" and view.status == "ready"


# Filters and code


def test_the_code_makes_the_table_that_is_shown(view):
    assert_code_makes_the_table(view)
    gene, group = view.genes["genes"][0], view.groupings["cell_type"][0]
    for filters in ({"search": "MARKERS of ("}, {"least_genes": 7}, {"with_switched_off": True}, {"gene": gene}):
        with view.hold_trait_notifications():
            view.search, view.least_genes, view.with_switched_off, view.gene = "", 0, False, ""
        for name, value in filters.items():
            setattr(view, name, value)
        view.rank_by_activity()
        view.wait(30)
        assert_code_makes_the_table(view)
        view.compare("cell_type", group)
        view.wait(30)
        assert_code_makes_the_table(view)
        assert view.script == view.code()


def test_activities_can_be_read_from_the_latents(view):
    view.of = "latents"
    view.wait(30)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pd.testing.assert_frame_equal(view.scores, view.model.get_gene_program_scores(of="latents"))
    assert_code_makes_the_table(view)
    view.compare("cell_type", view.groupings["cell_type"][0])
    view.wait(30)
    assert "of='latents'" in view.code()
    assert_code_makes_the_table(view)


def test_a_gene_that_the_model_has_not_is_told_at_its_field(view):
    gene = view.genes["genes"][0]
    asked(view, "gene", gene=gene.lower())
    assert view.gene == gene and view.term in view.table["term"].tolist()
    assert view.with_gene["terms"] == [i for i, genes in enumerate(view.model.mask_genes().values()) if gene in genes]
    asked(view, "gene", gene="Gene9999")
    assert view.gene == "" and "no gene 'Gene9999'" in view.with_gene["problem"] and view.error is None
    asked(view, "gene", gene="")
    assert view.with_gene == {}


# One program


def test_an_open_program_tells_its_genes_and_how_much_of_its_set_was_measured(cells):
    adata, model, sets = cells
    view = GenePrograms(model, adata, gene_sets=sets)
    view.wait(30)
    view.term = "Hypoxia"
    opened, table = view.opened, model.term_genes("Hypoxia")
    assert opened["n_annotated"] == len(table) == opened["n_set"] - 1 and opened["n_here"] == len(table)
    assert [row["gene"] for row in opened["genes"]] == table["genes"].tolist()
    turned = table["weights"] * model.latent_directions().loc["Hypoxia", "direction"]
    np.testing.assert_allclose([row["weight"] for row in opened["genes"]], turned, rtol=1e-6)
    json.dumps({name: getattr(view, name) for name in ("opened", "ranking", "sight", "axes", "progress", "groupings")})
    some = GenePrograms(model, adata[:, adata.var_names != table["genes"][0]].copy())
    some.wait(30)
    some.term = "Hypoxia"
    assert some.opened["n_here"] == len(table) - 1 and not some.opened["genes"][0]["here"]
    assert some.opened["n_set"] == 0, "without gene sets it is not known"
    with pytest.raises(DataError, match="Did you mean 'Hypoxia'"):
        view.term = "hypoxia"


def test_a_program_is_renamed_everywhere_and_the_code_can_be_run_again_and_again(view):
    view.term = "Hypoxia"
    view.write_obs()
    with mock.patch.object(view, "send") as send:
        click(view, "rename", id="7", i=view.terms.index("Hypoxia"), name="  low oxygen ")
    send.assert_called_once_with({"op": "renamed", "id": "7", "problem": ""})
    assert "low oxygen" in view.model.terms and view.term == "low oxygen" and "low oxygen" in view.terms
    assert "low oxygen" in view.table["term"].tolist() and "low oxygen" in view.scores
    assert view.opened["old_name"] == "Hypoxia"
    for _ in range(2):
        names = assert_code_makes_the_table(view)
    assert names["adata"].obs["program_Hypoxia"].equals(view.adata.obs["program_Hypoxia"])
    view.rename("low oxygen", "Hypoxia")
    assert "update_terms" not in view.code() and view.opened["old_name"] == ""


def test_an_unfit_name_is_refused_to_the_page_that_asked(view):
    before = view.model.terms
    unfit = {
        "": "at least one",
        " \n": "at least one",
        "a\nb": "can be seen",
        "x" * 201: "200 are the most",
        3: "at least",
    }
    for name, says in unfit.items():
        with mock.patch.object(view, "send") as send:
            click(view, "rename", id="1", i=0, name=name)
        assert says in send.call_args.args[0]["problem"] and view.model.terms == before and view.error is None


def test_two_programs_cannot_have_one_name(view):
    with pytest.raises(DataError, match="Another program is called 'Hypoxia' already"):
        view.rename(view.model.terms[1], "Hypoxia")


# Cells


def test_cells_are_coloured_by_activity_groups_genes_or_columns(view):
    view.term = "Hypoxia"
    values = np.frombuffer(view.coloring["values"], dtype="<f4")
    np.testing.assert_array_equal(values, view.scores["Hypoxia"])
    gene = view.opened["genes"][0]["gene"]
    asked(view, "color", key=gene)
    assert view.paint == "color" and view.coloring["key"] == gene == view.session.color
    asked(view, "color", key=None)
    assert view.paint == "color" and view.coloring["kind"] == "none"
    view.compare("batch", "batch0", "batch1")
    view.wait(30)
    asked(view, "paint", paint="groups")
    assert view.coloring["names"] == ["batch0", "batch1", "neither"]
    asked(view, "paint", paint="activity")
    assert view.coloring["label"] == "Activity of Hypoxia"


def test_cells_lie_at_an_embedding_or_at_the_activities_of_two_programs(view):
    at = lambda: np.frombuffer(view.positions, dtype="<f4").reshape(2, -1)  # noqa: E731
    np.testing.assert_array_equal(at(), view.adata.obsm["X_umap"].T.astype("f4"))
    other = view.model.terms[1] if view.term != view.model.terms[1] else view.model.terms[2]
    asked(view, "look", against=view.terms.index(other))
    np.testing.assert_array_equal(at(), view.scores[[view.term, other]].T)
    assert view.axes["y"] == f"Activity of {other}" and view.basis is None
    asked(view, "look", basis="X_truth")
    assert view.basis == "X_truth" and view.axes["one_scale"]
    del view.adata.obsm["X_umap"], view.adata.obsm["X_truth"]
    bare = GenePrograms(view.model)
    bare.wait(30)
    assert bare.basis is None and len(bare.positions) == 2 * 4 * bare.n_cells


def test_linked_views_share_selection_and_show_what_was_written(model):
    session = Session()
    umap, view = EmbeddingView(model.adata, session=session), GenePrograms(model, session=session)
    view.wait(30)
    umap.selection = [1, 2]
    assert view.selection.tolist() == [1, 2]
    asked(view, "write", what="term", show=True)
    assert umap.color == f"program_{view.term}" and umap.coloring["kind"] == "numbers"
    assert view.written == [f"obs['{umap.color}']"]


def test_scores_are_written_where_it_says_and_the_anndata_stays_as_it_was_before(view):
    before = view.adata.copy()
    view.compare("cell_type", view.groupings["cell_type"][0])
    view.wait(30)
    assert view.adata.obs.equals(before.obs) and set(view.adata.obsm) == set(before.obsm)
    key = view.write_obs()
    np.testing.assert_array_equal(view.adata.obs[key], view.scores[view.term])
    assert view.write_obsm() == "X_expimap_programs"
    pd.testing.assert_frame_equal(view.adata.obsm["X_expimap_programs"], view.scores)
    view.write_obs()
    assert view.written == ["obsm['X_expimap_programs']", f"obs['{key}'] (replaced)"]
    names = assert_code_makes_the_table(view)
    pd.testing.assert_frame_equal(names["adata"].obsm["X_expimap_programs"], view.scores)


# States


def test_a_model_that_is_not_trained_says_so_is_not_trained_unasked_and_can_be(cells):
    adata, _, sets = cells
    model = sca.models.EXPIMAP(adata.copy(), gene_sets=sets, min_genes=3, hidden_layer_sizes=[8], batch_key="batch")
    view = GenePrograms(model)
    assert view.wait(30) == "empty" and view.scores is None and not model.is_trained
    assert view.table.empty and "empty" in view._static_html()
    compile(view.code(), "code", "exec")
    with pytest.raises(DataError, match="not known yet"):
        view.write_obsm()
    model.train(**QUICK)
    wait_until(lambda: view.status == "ready")
    assert len(view.table) and view.term is not None


def test_a_click_trains_and_another_one_stops(cells):
    adata, _, sets = cells
    model = sca.models.EXPIMAP(adata.copy(), gene_sets=sets, min_genes=3, hidden_layer_sizes=[8], batch_key="batch")
    view = GenePrograms(model)
    click(view, "train")
    wait_until(lambda: model.run is not None and model.run.started)
    click(view, "stop")
    wait_until(lambda: view.status == "ready", 60)
    assert model.is_trained and len(view.ranking["rows"]) == len(model.terms)


def test_what_fails_is_told_and_can_be_tried_again(view):
    with mock.patch.object(type(view.model), "latent_enrich", side_effect=MemoryError("No memory. Use fewer.")):
        view.compare("batch", "batch0")
        assert view.wait(30) == "failed"
    assert view.error["what"] == "No memory." and view.ranking["kind"] == "activity"
    asked(view, "retry")
    assert view.status == "ready" and view.error is None and view.ranking["first"] == "batch0"


def test_another_training_is_followed_and_the_table_is_made_anew(view):
    before = view.scores
    view.model.train(**QUICK)
    wait_until(lambda: view.status == "ready" and view.scores is not before and view.scores is not None)
    assert_code_makes_the_table(view)


def test_models_without_programs_and_wrong_bases_are_refused(trained, cells):
    adata, model, _ = cells
    with pytest.raises(TypeError, match=r"given a SCVI\. Make one: sca\.models\.EXPIMAP"):
        GenePrograms(trained)
    with pytest.raises(TypeError, match="given a str"):
        GenePrograms(model, "cells.h5ad")
    with pytest.raises(DataError, match="Did you mean 'X_umap'"):
        GenePrograms(model, adata, basis="umpa")
    with pytest.raises(TypeError, match="bsais"):
        GenePrograms(model, adata, bsais="umap")
    with pytest.raises(DataError, match="Did you mean 'Hypoxia'"):
        GenePrograms(model, adata).term = "Hypoxi"


# Forgers, pictures


FORGED = [
    {"op": "open", "i": -1},
    {"op": "open", "i": 10**9},
    {"op": "open", "i": True},
    {"op": "open", "i": "0"},
    {"op": "rank", "kind": "groups", "column": ["a"], "group": {}},
    {"op": "rank", "kind": 3},
    {"op": "of", "of": "everything"},
    {"op": "mark", "name": "C"},
    {"op": "mark", "name": {"a": 1}},
    {"op": "look", "basis": 3},
    {"op": "look", "against": None},
    {"op": "look", "basis": "__class__"},
    {"op": "paint", "paint": "everything"},
    {"op": "gene", "gene": 7},
    {"op": "write", "what": "/etc/passwd"},
    {"op": "rename"},
    {"op": "code"},
    {"op": "_compute"},
]


def test_forged_commands_change_nothing(view):
    names = ("term", "basis", "against", "of", "paint", "gene", "marked", "contrast", "written", "terms", "ranking")
    before = {name: getattr(view, name) for name in names}
    for content in FORGED:
        asked(view, **content)
        assert {name: getattr(view, name) for name in names} == before, content


def test_the_browser_writes_only_what_it_may(view):
    unfit = {"search": (3, "x" * 1000), "least_genes": (-1, True, "5"), "with_switched_off": ("yes", 1)}
    not_its_own = ("terms", "ranking", "opened", "written", "script", "term", "of", "paint", "status", "positions")
    for name, values in (unfit | dict.fromkeys(not_its_own, ("x",))).items():
        before = getattr(view, name)
        for value in values:
            view.set_state({name: value})
            assert getattr(view, name) == before, (name, value)
    view.set_state({"search": "mark", "least_genes": 5, "with_switched_off": True})
    assert (view.search, view.least_genes, view.with_switched_off) == ("mark", 5, True)


def test_pictures_tables_and_their_text_are_safe_and_follow_what_is_shown(view, tmp_path):
    view.with_switched_off, view.term = True, HOSTILE
    assert view.snapshot("png").data.startswith(b"\x89PNG")
    view.compare("batch", "batch0")
    view.wait(30)
    view.paint, view.basis = "groups", None
    ElementTree.fromstring(view.snapshot("svg").data)
    page = view.export_html(tmp_path / "page.html").read_text()
    assert "<img src=x" not in page and "&lt;img src=x" in page and "batch0 against all others" in page
    view.search = "no such program"
    assert view.table.empty and "none is listed" in view._summary()


def test_a_notebook_saves_a_picture_and_a_table_though_they_take_a_while(model, tmp_path):
    bundle = GenePrograms(model)._static_bundle()
    assert "<img" in bundle["text/html"] and "Hypoxia" in bundle["text/html"]
    assert "Hypoxia" in GenePrograms(model).export_html(tmp_path / "page.html").read_text()


def test_programs_that_a_query_has_learnt_belong_to_no_set_and_can_be_named(model):
    query = model.adata[model.adata.obs["batch"] == "batch2"].copy()
    query.obs["batch"] = "new"
    mapped = sca.models.EXPIMAP.load_query_data(query, model, n_new_terms=1)
    mapped.train(**QUICK)
    view = GenePrograms(mapped)
    assert view.wait(30) == "ready", view.error
    (learnt,) = set(mapped.terms) - set(model.terms)
    view.term = learnt
    assert view.opened["n_annotated"] == 0 and len(view.opened["genes"]) > 50 and view.opened["similar"]
    view.rename(learnt, "seen in the query")
    assert "seen in the query" in mapped.terms and view.opened["old_name"] == learnt
    assert_code_makes_the_table(view)


def test_a_closed_view_follows_neither_model_nor_session(view):
    view.close()
    view.close()
    view.model.train(**QUICK)
    view.session.selection = [1]
    assert len(view.selection) == 0
