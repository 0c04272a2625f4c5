"""Trees learned from measured data, in latent spaces that the package makes: blood of six donors, and cell lines."""

import anndata as ad
import numpy as np
import pytest

import scarches_widgets as sca

pytestmark = [pytest.mark.slow, pytest.mark.realdata]
FIRST, SECOND = "donor1015", "donor1244"
COARSE = {
    "CD4 T cells": "T cells",
    "CD8 T cells": "T cells",
    "CD14+ Monocytes": "Monocytes",
    "FCGR3A+ Monocytes": "Monocytes",
}


def embedded(adata: ad.AnnData, batch_key: str) -> ad.AnnData:
    """Cells with their latent coordinates alone."""
    model = sca.models.SCVI(adata, batch_key=batch_key, seed=0)
    model.train(seed=0, progress=False)
    return ad.AnnData(obs=adata.obs.astype(str), obsm={"X_scvi": model.get_latent_representation()})


@pytest.fixture(scope="module")
def blood(real_data) -> ad.AnnData:
    cells = embedded(ad.read_h5ad(real_data / "pbmc_kang_donors.h5ad"), "donor")
    cells.obs["coarse"] = [COARSE.get(label, label) for label in cells.obs["cell_type"]]
    return cells


def learned(cells: ad.AnnData, labels: np.ndarray, order=(FIRST, SECOND)) -> sca.hierarchy.Hierarchy:
    cells = cells.copy()
    cells.obs["label"] = labels
    return sca.hierarchy.learn_tree(cells, "donor", list(order), "label", use_rep="X_scvi")[0]


@pytest.mark.parametrize("coarse_donor", [FIRST, SECOND])
def test_fine_labels_of_one_donor_come_below_the_coarse_ones_of_the_other(blood, coarse_donor):
    is_coarse = blood.obs["donor"] == coarse_donor
    tree = learned(blood, np.where(is_coarse, blood.obs["coarse"], blood.obs["cell_type"]))
    fine_donor = SECOND if coarse_donor == FIRST else FIRST
    for fine, coarse in COARSE.items():
        assert tree.find(fine, fine_donor).parent is tree.find(coarse, coarse_donor)
    for same in ("B cells", "NK cells"):
        assert tree.find(same, FIRST) is tree.find(same, SECOND)


def test_the_same_labels_of_two_donors_are_found_to_be_the_same_types(blood):
    """scHPL 1.0.5 finds six of the eight in such a latent space (tests/benchmarks/bench_hierarchy.py)."""
    tree = learned(blood, blood.obs["cell_type"].to_numpy())
    types = blood.obs["cell_type"].unique()
    assert sum(tree.find(label, FIRST) is tree.find(label, SECOND) for label in types) >= 6
    others = [alias for node in tree for alias in node.aliases if alias.name not in node.names[0].split("@")[0]]
    assert others == [], "two different types were taken for the same"


def test_cells_of_another_donor_are_named_by_the_learned_tree(blood):
    tree = learned(blood, blood.obs["cell_type"].to_numpy())
    query = blood[~blood.obs["donor"].isin([FIRST, SECOND])]
    predictions = sca.hierarchy.predict_labels(query, tree, use_rep="X_scvi")
    assert np.mean(predictions.labels == query.obs["cell_type"].to_numpy()) > 0.8
    assert sca.hierarchy.hierarchical_f1(query.obs["cell_type"], predictions.labels, tree) > 0.85


def test_a_type_of_blood_that_the_first_donor_lacks_becomes_a_new_node(blood):
    is_left_out = (blood.obs["donor"] == FIRST) & (blood.obs["cell_type"] == "B cells")
    cells = blood[~is_left_out]
    tree = learned(cells, cells.obs["cell_type"].to_numpy())
    node = tree.find("B cells", SECOND)
    assert node.parent.is_root and node.is_leaf and node.aliases[0].match == "new"


def test_cell_lines_that_the_first_data_sets_lack_become_new_nodes(real_data):
    adata = ad.read_h5ad(real_data / "celllines_5batches.h5ad")
    variance = np.asarray(adata.X.power(2).mean(0) - np.square(adata.X.mean(0))).ravel()
    cells = embedded(adata[:, np.argsort(-variance)[:3000]].copy(), "batch")
    order = ["sc_celseq2", "sc_dropseq", *sorted(set(cells.obs["batch"]) - {"sc_celseq2", "sc_dropseq"})]
    tree, _ = sca.hierarchy.learn_tree(cells, "batch", order, "cell_type", use_rep="X_scvi")
    for line in ("A549", "H838"):
        assert tree[line].parent.is_root and tree[line].aliases[0].match == "new"
