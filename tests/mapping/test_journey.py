"""A query on its reference: labels, scores against a baseline, and the report."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from small import QUICK, SMALL

import scarches_widgets as sca
from scarches_widgets.data.names import DataError
from scarches_widgets.mapping import metrics
from scarches_widgets.mapping.hierarchy.tree import REJECTIONS
from scarches_widgets.mapping.journey import BASELINE, EMBEDDING, map_onto
from scarches_widgets.mapping.report import write_report


@pytest.fixture
def mapped(trained, query_cells):
    return map_onto(trained, query_cells, labels_key="cell_type", n_neighbors=15, train=QUICK)


def test_every_query_cell_gets_a_label_of_the_reference_and_an_uncertainty(mapped, reference_cells, query_cells):
    query = mapped.cells.obs[mapped.cells.obs["role"] == "query"]
    assert list(query.index) == list(query_cells.obs_names)
    assert set(query["predicted"]) <= set(reference_cells.obs["cell_type"])
    assert query["uncertainty"].between(0, 1).all()
    assert mapped.cells.obs.loc[mapped.cells.obs["role"] == "reference", "uncertainty"].isna().all()


def test_scores_are_those_of_the_metrics_and_stand_beside_the_baseline(mapped, query_cells):
    query = mapped.cells.obs[mapped.cells.obs["role"] == "query"]
    accuracy = (query["predicted"].to_numpy() == query_cells.obs["cell_type"].astype(str).to_numpy()).mean()
    assert mapped.scores.loc["surgery + kNN", "accuracy"] == pytest.approx(accuracy)
    for method, key in (("surgery + kNN", EMBEDDING), ("PCA + kNN", BASELINE)):
        mixing = metrics.batch_mixing_within_types(
            mapped.cells.obsm[key], mapped.cells.obs["label"], mapped.cells.obs["batch"]
        )
        assert mapped.scores.loc[method, "mixing_within_types"] == pytest.approx(mixing)


def test_reference_cells_keep_their_latents(mapped, trained):
    is_reference = (mapped.cells.obs["role"] == "reference").to_numpy()
    np.testing.assert_array_equal(mapped.cells.obsm[EMBEDDING][is_reference], trained.get_latent_representation())


def test_labels_of_the_query_do_not_influence_the_mapping(mapped, trained, query_cells):
    query_cells.obs["cell_type"] = "secret"
    again = map_onto(trained, query_cells, labels_key="cell_type", n_neighbors=15, train=QUICK)
    np.testing.assert_array_equal(again.cells.obsm[EMBEDDING], mapped.cells.obsm[EMBEDDING])
    assert list(again.cells.obs["predicted"]) == list(mapped.cells.obs["predicted"])
    assert "accuracy" not in again.scores


def test_a_query_without_labels_is_labelled_and_only_what_can_be_known_is_scored(trained, query_cells):
    del query_cells.obs["cell_type"]
    mapped = map_onto(trained, query_cells, labels_key="cell_type", train=QUICK)
    assert (mapped.cells.obs.loc[mapped.cells.obs["role"] == "query", "predicted"] != "").all()
    assert "accuracy" not in mapped.scores


def test_types_that_the_reference_lacks_are_told_by_their_uncertainty(reference_cells, query_cells):
    novel = query_cells.obs["cell_type"].astype(str).value_counts().index[0]
    known = reference_cells[reference_cells.obs["cell_type"] != novel].copy()
    reference = sca.models.SCVI(known, batch_key="batch", **SMALL)
    reference.train(max_epochs=40, batch_size=64, progress=False)
    mapped = map_onto(reference, query_cells, labels_key="cell_type", n_neighbors=15, train=QUICK)
    assert 0 <= mapped.scores.loc["surgery + kNN", "auroc_unknown_types"] <= 1


def test_a_tree_is_learned_from_the_references_batches_and_names_the_query(mapped, trained, query_cells):
    obs = trained.adata.obs
    obs["said"] = obs["cell_type"].astype(str).mask(obs["batch"] == "batch1", obs["type_level2"].astype(str))
    with_tree = map_onto(trained, query_cells, labels_key="cell_type", tree_key="said", n_neighbors=15, train=QUICK)
    tree, cells = with_tree.tree, with_tree.cells
    is_query = cells.obs["role"] == "query"
    assert tree.counted_labels()["n_cells"].sum() == (~is_query).sum()
    assert tree.find("CD4 naive T", "batch0") is not None, "the batch of the finer labels comes first"
    assert set(cells.obs.loc[is_query, "named"]) <= {node.name for node in tree} | set(REJECTIONS)
    assert (cells.obs.loc[~is_query, "named"] == "").all()
    assert cells.obs.loc[is_query, "path_probability"].between(0, 1).all()
    np.testing.assert_array_equal(cells.obsm[EMBEDDING], mapped.cells.obsm[EMBEDDING])
    assert mapped.tree is None and "named" not in mapped.cells.obs


def test_a_tree_of_labels_that_the_reference_does_not_have_is_refused(trained, query_cells):
    with pytest.raises(DataError, match="No cell of the reference has a 'lineage'"):
        map_onto(trained, query_cells, tree_key="lineage", train=QUICK)


class Strict(HTMLParser):
    """Collects what a browser would load or run."""

    def __init__(self):
        super().__init__()
        self.loads, self.tags = [], set()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.loads += [value for name, value in attributes if name in ("src", "href")]
        assert not [name for name, _ in attributes if name.startswith("on")]


def test_the_report_opens_offline_runs_nothing_and_shows_hostile_names_as_text(trained, query_cells, tmp_path):
    hostile = "<img src=x onerror=alert(1)>"
    for adata in (trained.adata, query_cells):
        adata.obs["said"] = adata.obs["cell_type"].astype(str).replace("Naive B", f"{hostile} $x^2$ & B")
    query_cells.obs["batch"] = hostile
    query_cells.obs["cell_type"] = hostile
    mapped = map_onto(trained, query_cells, labels_key="cell_type", tree_key="said", train=QUICK)
    write_report(tmp_path / "report.html", f"{hostile} on atlas", mapped, trained)
    page = (tmp_path / "report.html").read_text()
    parser = Strict()
    parser.feed(page)
    assert parser.loads and all(source.startswith("data:image/") for source in parser.loads)
    assert "script" not in parser.tags
    assert hostile not in page and "&lt;img src=x" in page
    assert len(parser.loads) == 4
    query = mapped.cells.obs[mapped.cells.obs["role"] == "query"]
    assert f"{(query['named'] == query['tree_label']).mean():.1%} named as given in the data" in page
    rows = re.findall(r"<tr><th>(?:&emsp;)*([^<]*)</th><td class=\"left\">[^<]*</td><td>([\d,]+)</td></tr>", page)
    assert sum(int(n) for _, n in rows) == len(query)
    assert dict(rows)["CD4 naive T"] == str((query["named"] == "CD4 naive T").sum())
    assert re.search(r"Content-Security-Policy\" content=\"default-src 'none'", page)


def test_the_report_of_a_mapping_without_labels_says_so_by_leaving_scores_out(trained, query_cells, tmp_path):
    mapped = map_onto(trained, query_cells, train=QUICK)
    write_report(tmp_path / "report.html", "query", mapped, trained)
    assert "Scores" not in (tmp_path / "report.html").read_text()
