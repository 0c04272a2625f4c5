"""Differential expression: its statistics against numpy, its choices of groups, and genes whose truth is known."""

import numpy as np
import pandas as pd
import pytest
import torch
from small import QUICK, SMALL
from storage import STORAGE

import scarches_widgets as sca
from scarches_widgets.data.names import DataError
from scarches_widgets.mapping.metrics import auroc
from scarches_widgets.models import differential
from scarches_widgets.models.differential import Comparison, Draws, found_at, mask_of

SCVI = sca.models.SCVI


@pytest.fixture(scope="module")
def fitted(atlas):
    model = SCVI(atlas.copy(), batch_key="batch", **SMALL)
    model.train(**{**QUICK, "max_epochs": 20})
    return model


def draws_of(model, groupby, group, n=400, **options):
    """ρ of both groups, (draws, genes), and the log fold changes with their pseudocounts."""
    values = model.adata.obs[groupby].astype(str).to_numpy()
    draws = Draws(model, model.adata, n, options.get("batch_correction", False), seed=0)
    shares = [draws.of(mask, side) for side, mask in enumerate((values == group, values != group))]
    return [part.of(slice(0, part.n_genes)) for part in shares]


# ---------------------------------------------------------------------------------------------------------- statistics


@pytest.mark.parametrize("block", [7, 256])
def test_the_table_holds_the_published_statistics_of_the_draws(fitted, monkeypatch, block):
    monkeypatch.setattr(differential, "GENES_AT_ONCE", block)
    rho1, rho2 = draws_of(fitted, "cell_type", "Naive B")
    np.testing.assert_allclose(rho1.sum(1), 1, rtol=1e-5)
    c = 1e-4
    table = fitted.differential_expression(
        groupby="cell_type", group1="Naive B", n_samples=400, pseudocount=c, delta=0.3
    ).loc[fitted.adata.var_names]
    lfc = np.log2(rho1 + c) - np.log2(rho2 + c)
    up, down = (lfc >= 0.3).mean(0), (lfc < -0.3).mean(0)
    p = np.maximum(up, down)
    np.testing.assert_allclose(table["proba_de"], p, atol=0.006)  # a draw at the edge may fall to either side
    np.testing.assert_allclose(table["proba_not_de"], 1 - table["proba_de"])
    expected = np.log(table["proba_de"] + 1e-8) - np.log(1 - table["proba_de"] + 1e-8)
    np.testing.assert_allclose(table["bayes_factor"], expected)
    lfc = np.log2(rho1 + 1e-3 * c) - np.log2(rho2 + 1e-3 * c)
    for name, values in {
        "lfc_mean": lfc.mean(0), "lfc_median": np.median(lfc, 0), "lfc_std": lfc.std(0), "lfc_min": lfc.min(0),
        "lfc_max": lfc.max(0), "scale1": rho1.mean(0), "scale2": rho2.mean(0),
    }.items():  # fmt: skip
        np.testing.assert_allclose(table[name], values, rtol=1e-3, atol=1e-3, err_msg=name)
    two = fitted.differential_expression(
        groupby="cell_type", group1="Naive B", n_samples=400, pseudocount=c, delta=0.3, test_mode="two"
    ).loc[fitted.adata.var_names]
    np.testing.assert_allclose(two["proba_de"], up + down, atol=0.006)


def test_vanilla_counts_how_often_the_first_group_has_more(fitted):
    rho1, rho2 = draws_of(fitted, "cell_type", "Naive B")
    table = fitted.differential_expression(groupby="cell_type", group1="Naive B", n_samples=400, mode="vanilla")
    assert (np.diff(table["bayes_factor"]) <= 0).all()
    table = table.loc[fitted.adata.var_names]
    np.testing.assert_allclose(table["proba_m1"], (rho1 > rho2).mean(0), atol=0.006)
    np.testing.assert_allclose(table["proba_m1"] + table["proba_m2"], 1)


def test_the_raw_statistics_are_those_of_the_counts(fitted):
    table = fitted.differential_expression(groupby="cell_type", group1="Naive B", n_samples=50)
    table = table.loc[fitted.adata.var_names]
    X = fitted.adata.X.toarray()
    mask = (fitted.adata.obs["cell_type"] == "Naive B").to_numpy()
    for side, cells in ((1, X[mask]), (2, X[~mask])):
        np.testing.assert_allclose(table[f"raw_mean{side}"], cells.mean(0), rtol=1e-5)
        np.testing.assert_allclose(table[f"non_zeros_proportion{side}"], (cells > 0).mean(0), rtol=1e-5)
        per_10k = cells / cells.sum(1, keepdims=True) * 1e4
        np.testing.assert_allclose(table[f"raw_normalized_mean{side}"], per_10k.mean(0), rtol=1e-4)


def test_the_pseudocount_comes_from_genes_that_are_hardly_seen(atlas):
    cells = atlas.copy()
    X = cells.X.toarray()
    X[:, :4] = 0
    X[5, 2] = 1
    cells.X = X
    model = SCVI(cells, batch_key="batch", **SMALL)
    model.train(**QUICK)
    rho = draws_of(model, "cell_type", "Naive B")
    mask = (cells.obs["cell_type"] == "Naive B").to_numpy()
    expected = [np.quantile(part.max(0)[X[m].mean(0) < 0.01], 0.9) / 40 for part, m in zip(rho, (mask, ~mask))]
    table = model.differential_expression(groupby="cell_type", group1="Naive B", n_samples=400)
    np.testing.assert_allclose(table["pseudocounts"], max(expected), rtol=1e-4)


def test_a_fold_change_that_counts_as_large_can_be_chosen_from_the_genes(fitted):
    delta = fitted.differential_expression(groupby="cell_type", group1="Naive B", n_samples=400, delta=None)["delta"]
    assert delta.nunique() == 1 and 0.1 <= delta.iloc[0] < 3


def test_discoveries_are_as_many_as_keep_the_expected_share_of_false_ones_below_the_target():
    p = np.array([0.5, 0.99, 0.9, 0.97, 0.2])
    assert found_at(p, 0.05).tolist() == [False, True, True, True, False]  # (0.01 + 0.03 + 0.1) / 3
    assert found_at(p, 0.04).tolist() == [False, True, False, True, False]
    assert found_at(p, 0.001).sum() == 0 and found_at(np.ones(3), 0.05).all()


# -------------------------------------------------------------------------------------------------------------- groups


def test_groups_can_be_named_in_every_way(fitted, atlas):
    mask = (atlas.obs["cell_type"] == "Naive B").to_numpy()
    options = {"n_samples": 100, "all_stats": False}
    by_name = fitted.differential_expression(groupby="cell_type", group1="Naive B", **options)
    for idx1 in (mask, np.flatnonzero(mask), mask.tolist(), pd.Series(mask), "cell_type == 'Naive B'"):
        table = fitted.differential_expression(idx1=idx1, **options)
        np.testing.assert_array_equal(table["proba_de"], by_name["proba_de"])
        assert set(table["comparison"]) == {"One vs Rest"}
    two = fitted.differential_expression(idx1=mask, idx2="cell_type == 'CD4 naive T'", **options)
    named = fitted.differential_expression(groupby="cell_type", group1="Naive B", group2="CD4 naive T", **options)
    np.testing.assert_array_equal(two["proba_de"], named["proba_de"])
    assert set(named["comparison"]) == {"Naive B vs CD4 naive T"}


def test_every_group_is_compared_with_the_rest_if_none_is_named(fitted):
    seen = []
    table = fitted.differential_expression(
        groupby="cell_type", n_samples=50, on_progress=lambda done, total: seen.append((done, total))
    )
    assert len(table) == 4 * 40 and seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert set(table["group2"]) == {"Rest"} and table["group1"].nunique() == 4


def test_groups_that_do_not_exist_or_are_empty_are_refused(fitted):
    call = fitted.differential_expression
    with pytest.raises(DataError, match=r"no column 'celltype' \(groupby\).*Did you mean 'cell_type'"):
        call(groupby="celltype")
    with pytest.raises(DataError, match=r"no group 'Naive b'.*Did you mean 'Naive B'"):
        call(groupby="cell_type", group1="Naive b")
    with pytest.raises(DataError, match="'One' of the comparison has no cells"):
        call(idx1="cell_type == 'Plasma'")
    with pytest.raises(ValueError, match="mask of 3 cells, and there are 300"):
        call(idx1=[True, False, True])
    with pytest.raises(ValueError, match="is no query on obs"):
        call(idx1="cell_type ==")
    with pytest.raises(ValueError, match="takes a mask, positions of the 300 cells"):
        call(idx1=[0, 300])
    with pytest.raises(ValueError, match="in one way"):
        call(groupby="cell_type", idx1=[1])
    with pytest.raises(ValueError, match="in one way"):
        call()
    with pytest.raises(ValueError, match=r"mode='chance' is none of change, vanilla.*'change'"):
        call(groupby="cell_type", mode="chance")


def test_models_of_no_counts_refuse(reference_cells):
    reference_cells.X = reference_cells.X.log1p()
    model = SCVI(reference_cells, batch_key="batch", gene_likelihood="normal", **SMALL)
    model.train(**QUICK)
    with pytest.raises(ValueError, match="compares shares of counts"):
        model.differential_expression(groupby="cell_type")


def test_an_empty_mask_of_positions_is_a_mask(atlas):
    assert mask_of(np.array([], dtype=int), atlas.obs, "idx1").sum() == 0
    assert isinstance(Comparison("a", "b", np.ones(2, bool), np.ones(2, bool)), Comparison)


# -------------------------------------------------------------------------------------------------------------- draws


def test_the_seed_fixes_the_table_and_the_process_s_random_state_is_not_moved(fitted):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    call = lambda seed: fitted.differential_expression(groupby="cell_type", group1="Naive B", n_samples=50, seed=seed)  # noqa: E731
    pd.testing.assert_frame_equal(call(3), call(3))
    assert not call(3)["lfc_mean"].equals(call(4)["lfc_mean"])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("storage", STORAGE)
def test_the_table_is_the_same_however_the_cells_are_stored(fitted, atlas, tmp_path, storage):
    adata = STORAGE[storage](atlas, tmp_path)
    tables = [
        fitted.differential_expression(cells, groupby="cell_type", group1="Naive B", n_samples=50)
        for cells in (adata, atlas.copy())
    ]
    pd.testing.assert_frame_equal(*tables)


# --------------------------------------------------------------------------------------------------------------- truth


@pytest.fixture(scope="module", params=["SCVI", pytest.param("SCANVI", marks=pytest.mark.slow)])
def large(request):
    cells = sca.datasets.atlas(n_obs=1500, n_vars=200, n_batches=3, n_types=5, seed=0)
    keys = {"labels_key": "cell_type"} if request.param == "SCANVI" else {}
    model = getattr(sca.models, request.param)(cells, batch_key="batch", gene_likelihood="nb", **keys)
    model.train(progress=False, batch_size=64)
    return model


def test_the_known_markers_of_each_type_are_found(large):
    table = large.differential_expression(groupby="cell_type", batch_correction=True, n_samples=1000)
    scores = []
    for name, markers in large.adata.uns["truth"]["markers"].items():
        of_type = table[table["group1"] == name]
        scores.append(auroc(of_type["lfc_median"].to_numpy(), of_type.index.isin(markers)))
        assert of_type.loc[markers, "proba_de"].mean() > of_type["proba_de"].mean()
    assert np.mean(scores) >= 0.95


def test_correcting_for_batches_finds_fewer_differences_between_the_same_type_in_two_batches(large):
    cells = large.adata.obs
    one = ((cells["cell_type"] == "CD4 naive T") & (cells["batch"] == "batch0")).to_numpy()
    other = ((cells["cell_type"] == "CD4 naive T") & (cells["batch"] == "batch1")).to_numpy()
    as_they_are, corrected = (
        large.differential_expression(idx1=one, idx2=other, batch_correction=correct, n_samples=1000)
        for correct in (False, True)
    )
    assert corrected["lfc_median"].abs().mean() < 0.6 * as_they_are["lfc_median"].abs().mean()
