"""Cells with several modalities: how they are put side by side, and what is said of those that do not fit."""

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scarches_widgets as sca
from scarches_widgets.data.multimodal import (
    align_modalities,
    as_one_anndata,
    check_modalities,
    mask_of,
    measured_modalities,
    modalities_of,
    organize_multimodal_anndatas,
)
from scarches_widgets.data.names import DataError
from scarches_widgets.data.schema import DataSchema


def cells(n, features, names=None, seed=0, **obs):
    X = np.random.default_rng(seed).poisson(1.0, (n, len(features))).astype(np.float32) + 1
    names = [f"c{i}" for i in range(n)] if names is None else names
    return ad.AnnData(sp.csr_matrix(X), pd.DataFrame(obs, index=names), pd.DataFrame(index=list(features)))


@pytest.fixture
def parts():
    """RNA and peaks of four cells; of these in another order, and with a peak's columns in another order."""
    rna = cells(4, ["g1", "g2", "g3"], batch="a")
    atac = cells(4, ["p1", "p2"], seed=1)[[2, 0, 1, 3], [1, 0]].copy()
    return rna, atac


def test_datasets_with_different_modalities_become_one_with_a_mask(parts):
    rna, atac = parts
    alone = cells(3, ["g3", "g1", "g2"], ["x", "y", "c0"], batch="b")
    adata = organize_multimodal_anndatas([[rna, alone], [atac, None]], modalities=["rna", "atac"])
    assert adata.obs_names.tolist() == ["c0-0", "c1", "c2", "c3", "x", "y", "c0-1"]
    assert adata.obs["group"].tolist() == ["0"] * 4 + ["1"] * 3 and adata.obs["batch"].tolist() == [*"aaaabbb"]
    assert adata.uns["modality_lengths"] == [3, 2] and adata.var["modality"].tolist() == ["rna"] * 3 + ["atac"] * 2
    assert adata.obsm["modality_mask"].to_numpy().tolist() == [[True, True]] * 4 + [[True, False]] * 3
    found = adata.to_df()
    np.testing.assert_array_equal(found.iloc[:4, :3], rna.to_df())
    np.testing.assert_array_equal(found.iloc[:4][atac.var_names], atac[["c0", "c1", "c2", "c3"]].to_df())
    np.testing.assert_array_equal(found.iloc[4:][["g3", "g1", "g2"]], alone.to_df())
    assert not found.iloc[4:, 3:].any(axis=None)
    assert sca.models.organize_multiome_anndatas is sca.models.organize_multimodal_anndatas


def test_layers_are_read_where_they_are_named(parts):
    rna, atac = parts
    rna.layers["counts"] = rna.X * 2
    adata = organize_multimodal_anndatas([[rna], [atac]], [["counts"], [None]])
    np.testing.assert_array_equal(adata[:, :3].X.toarray(), 2 * rna.X.toarray())
    assert adata.obsm["modality_mask"].columns.tolist() == ["rna", "modality1"]


def test_datasets_that_do_not_fit_are_refused_with_what_does_not(parts):
    rna, atac = parts
    with pytest.raises(DataError, match="with 1, 2 datasets"):
        organize_multimodal_anndatas([[rna], [atac, None]])
    with pytest.raises(DataError, match="modalities 1 names"):
        organize_multimodal_anndatas([[rna], [atac]], modalities=["rna"])
    with pytest.raises(DataError, match=r"Dataset 0 is not paired: 2 of 4 cells have 'rna' and no 'atac', 0 "):
        organize_multimodal_anndatas([[rna], [atac[:2]]], modalities=["rna", "atac"])
    with pytest.raises(DataError, match="Dataset 1 has no modality at all"):
        organize_multimodal_anndatas([[rna, None], [atac, None]])
    with pytest.raises(DataError, match="No dataset has 'atac'"):
        organize_multimodal_anndatas([[rna], [None]], modalities=["rna", "atac"])
    other = cells(2, ["p1", "chr1:5-9"], ["x", "y"])
    with pytest.raises(DataError, match=r"same features of 'atac': 2 \(p2, p1\) and 2 \(p1, chr1:5-9\), 1 of them"):
        organize_multimodal_anndatas([[rna, None], [atac, other]], modalities=["rna", "atac"])
    atac.var_names = ["p1", "g2"]
    with pytest.raises(DataError, match=r"1 feature is there twice \(g2; 'g2' in 'rna', 'atac'\).*'adt_'"):
        organize_multimodal_anndatas([[rna], [atac]], modalities=["rna", "atac"])


def test_a_mudata_may_be_a_mosaic_with_its_rna_first(parts):
    rna, atac = parts
    both = mudata.MuData({"atac": atac, "rna": rna[:3].copy()})
    both.obs["donor"] = [*"uvwx"]
    adata = as_one_anndata(both)
    assert adata.var["modality"].cat.categories.tolist() == ["rna", "atac"]
    mask = adata.obsm["modality_mask"].loc[["c0", "c1", "c2", "c3"]]
    assert mask["rna"].tolist() == [True] * 3 + [False] and mask["atac"].all()
    assert adata.obs["donor"].equals(both.obs["donor"].loc[adata.obs_names])
    np.testing.assert_array_equal(adata[["c3"], ["p1", "p2"]].X.toarray(), atac[["c3"], ["p1", "p2"]].X.toarray())
    assert as_one_anndata(rna) is rna


def test_a_mudata_whose_cells_share_no_name_is_not_paired(parts):
    rna, atac = parts
    atac.obs_names += "-1"
    with pytest.raises(DataError, match=r"not paired: none of its 8 cells has two of rna, atac.*suffix such as '-1'"):
        as_one_anndata(mudata.MuData({"rna": rna, "atac": atac}))


def test_var_says_whose_every_feature_is(parts):
    rna, atac = parts
    adata = organize_multimodal_anndatas([[rna], [atac]], modalities=["rna", "atac"])
    shuffled = adata[:, ["p1", "g3", "g1", "p2", "g2"]].copy()
    assert {name: columns.tolist() for name, columns in modalities_of(shuffled).items()} == {
        "atac": [0, 3], "rna": [1, 2, 4]
    }  # fmt: skip
    with pytest.raises(DataError, match=r"no column 'modalty'.*Did you mean 'modality'.*organize_multimodal_anndatas"):
        modalities_of(adata, "modalty")
    adata.var["modality"] = adata.var["modality"].astype(object).where(adata.var_names != "g2", None)
    with pytest.raises(DataError, match=r"does not say what 1 features are \(g2\)"):
        modalities_of(adata)


def test_what_was_measured_is_said_by_the_mask_and_never_guessed_from_sums(parts):
    rna, atac = parts
    atac.X = np.array([[-1, 1], [0, 0], [-3, -1], [2, 2]], dtype=np.float32)  # rows that sum to zero, or below
    adata = organize_multimodal_anndatas([[rna], [atac]], modalities=["rna", "atac"])
    schema = DataSchema(tuple(adata.var_names), modalities=(("rna", 3), ("atac", 2)))
    assert measured_modalities(adata, schema, None).all()
    del adata.obsm["modality_mask"]
    assert measured_modalities(adata, schema, None).all()
    adata.obsm["modality_mask"] = pd.DataFrame({"atac": [1, 0, 1, 1]}, index=adata.obs_names)
    assert measured_modalities(adata, schema, None).tolist() == [[True, bool(i != 1)] for i in range(4)]
    peaks = np.array([-1, -1, -1, 3, 4])
    with pytest.raises(DataError, match=r"1 of 4 cells have none of the model's modalities \(rna, atac\).*c1"):
        measured_modalities(adata, schema, peaks)
    adata.obsm["modality_mask"] = pd.DataFrame({"atac": [1, 2, 1, 1]}, index=adata.obs_names)
    with pytest.raises(DataError, match="other values than True and False"):
        mask_of(adata, ["rna", "atac"])
    adata.obsm["modality_mask"] = np.ones((4, 2))
    with pytest.raises(DataError, match=r"must be a DataFrame.*\(rna, atac\), and is none"):
        mask_of(adata, ["rna", "atac"])


def test_features_are_matched_within_each_modality_and_one_that_is_missing_asks_for_none():
    features, modalities = (*"abcd", *"wxyz"), (("rna", 4), ("atac", 4))

    def aligned(names):
        return align_modalities(features, modalities, pd.DataFrame(index=list(names)), None, 0.5)

    assert aligned("abcdwxyz")[0] is None
    columns, report = aligned("dc!ba")
    assert columns.tolist() == [3, 2, -1, 1, 0] and report.n_reference == 4 and report.overlap == 1
    columns, report = aligned("zywabd")
    assert columns.tolist() == [7, 6, 4, 0, 1, 3] and report.n_reference == 8 and report.missing == ("c", "x")
    with pytest.raises(DataError, match=r"3 of the reference's 4 features of 'atac' are.*min_gene_overlap=0\.25"):
        aligned("abcdx")
    with pytest.raises(DataError, match=r"3 of the reference's 4 features are missing.*fill the missing features"):
        aligned("x")


def test_a_modality_that_no_cell_has_and_zeros_that_may_be_no_measurement_are_reported(parts):
    rna, atac = parts
    adata = organize_multimodal_anndatas([[rna], [atac]], modalities=["rna", "atac"])
    assert len(check_modalities(adata, None, None)) == 0
    adata.obsm["modality_mask"]["atac"] = [True, True, False, True]
    (finding,) = check_modalities(adata, None, None)
    assert (finding.level, finding.code) == ("warning", "masked-values")
    assert "1 cell (c2) with values of 'atac'" in str(finding)
    adata.X = adata.X.toarray()
    adata.X[:2, 3:] = 0
    adata.obsm["modality_mask"]["atac"] = True
    (finding,) = check_modalities(adata, None, None)
    assert (finding.level, finding.code) == ("warning", "empty-modality")
    assert "2 of 4 cells have nothing but zeros of 'atac' (c0, c1)" in str(finding)
    adata.X[:, 3:] = 0
    assert [finding.code for finding in check_modalities(adata, None, None)] == ["missing-modality"]
    with pytest.raises(DataError, match="No cell has a value other than zero of 'atac'"):
        check_modalities(adata, None, None).raise_errors()
    adata.obsm["modality_mask"]["atac"] = False
    with pytest.raises(DataError, match=r"obsm\['modality_mask'\] says of none that it was measured"):
        check_modalities(adata, None, None).raise_errors()
