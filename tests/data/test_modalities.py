"""Proteins are found, refused when they are no counts, and dealt out by name, however they are stored."""

from __future__ import annotations

import re
from pathlib import Path

import anndata as ad
import dask.array as da
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from storage import contents

import scarches_widgets as sca
from scarches_widgets.data import modalities
from scarches_widgets.data.minibatches import Cells
from scarches_widgets.data.modalities import (
    announce_differences,
    as_anndata,
    check_proteins,
    protein_table,
    the_protein_key,
)
from scarches_widgets.data.names import DataError
from scarches_widgets.data.schema import DataSchema

KEY = "protein_expression"


@pytest.fixture(scope="module")
def cite():
    return sca.datasets.cite_seq(120, 40, n_proteins=6, n_batches=2, n_types=4)


def with_proteins(cite, values) -> ad.AnnData:
    cells = cite.copy()
    cells.obsm[KEY] = values
    return cells


def findings(cite, values, **options):
    cells = with_proteins(cite, values)
    return check_proteins(protein_table(cells, KEY), cells.obs["batch"], cells.obs_names, **options)


def changed(cite, value, rows=3, column=2) -> pd.DataFrame:
    table = cite.obsm[KEY].astype(float)
    table.iloc[rows, column] = value
    return table


# ------------------------------------------------------------------------------------------------------ where they are


def test_the_one_table_of_counts_is_found_among_others(cite):
    assert {"protein_foreground", "protein_expected", "X_truth"} < set(cite.obsm)
    assert the_protein_key(cite) == KEY


def test_of_several_tables_of_counts_none_is_chosen_and_all_are_listed(cite):
    cells = cite.copy()
    cells.obsm["hto"] = cite.obsm[KEY] * 2
    with pytest.raises(DataError, match=r"2 tables in obsm hold counts \('protein_expression', 'hto'\).*protein_key="):
        the_protein_key(cells)


def test_without_a_table_of_counts_what_obsm_has_is_listed(cite):
    cells = cite.copy()
    del cells.obsm[KEY]
    with pytest.raises(DataError, match=r"No table in obsm holds counts of proteins\. obsm has: X_truth, .*DataFrame"):
        the_protein_key(cells)


def test_an_array_needs_names_for_its_columns(cite):
    cells = with_proteins(cite, cite.obsm[KEY].to_numpy())
    with pytest.raises(DataError, match=r"is an array, whose columns have no names.*protein_names_key"):
        protein_table(cells, KEY)
    cells.uns["names"] = list("abcde")
    with pytest.raises(DataError, match=r"uns\['names'\] has 5 names for the 6 columns"):
        protein_table(cells, KEY, "names")
    cells.uns["names"] = list("abcdef")
    assert protein_table(cells, KEY, "names").names == tuple("abcdef")


# --------------------------------------------------------------------------------------------- what is wrong with them


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (-1, "negative-proteins"),
        (0.5, "fractional-proteins"),
        (np.inf, "infinite-proteins"),
        (np.nan, "missing-proteins"),
    ],
)
def test_values_that_are_no_counts_are_errors(cite, value, code):
    (finding,) = findings(cite, changed(cite, value)).errors
    assert finding.code == code and str(finding).startswith("obsm['protein_expression'] has ")


def test_a_protein_may_be_missing_from_a_whole_batch_only(cite):
    batch = np.flatnonzero(cite.obs["batch"] == "batch1")
    assert findings(cite, changed(cite, np.nan, batch)).ok
    (finding,) = findings(cite, changed(cite, np.nan, batch[:2])).errors
    assert "NaN for Protein03 in 2 of the" in finding.what and "measured in all cells of a batch" in finding.why


def test_cells_without_any_protein_are_no_reference_and_may_be_a_query(cite):
    for values in (cite.obsm[KEY] * 0, cite.obsm[KEY] * np.nan):
        assert [finding.code for finding in findings(cite, values).errors] == ["no-proteins"]
        assert findings(cite, values, for_training=False).ok


def test_a_protein_that_stands_twice_is_an_error_and_one_without_counts_a_warning(cite):
    table = cite.obsm[KEY]
    (finding,) = findings(cite, table.rename(columns={"Protein02": "Protein01"})).errors
    assert finding.code == "duplicated-proteins" and "more than once (Protein01)" in finding.what
    (finding,) = findings(cite, changed(cite, 0, slice(None))).warnings
    assert finding.code == "unseen-proteins" and "without any count (Protein03)" in finding.what


def test_every_code_of_the_file_is_tested_here():
    codes = set(re.findall(r"\b(?:error|warning)\(\s*\"([a-z-]+)\"", Path(modalities.__file__).read_text()))
    here = Path(__file__).read_text()
    assert len(codes) == 7
    assert [code for code in codes if f'"{code}"' not in here] == []


def test_sound_counts_pass_in_any_type(cite):
    for dtype in (np.uint16, np.int64, np.float32, "Int32"):
        assert not findings(cite, cite.obsm[KEY].astype(dtype))


# ---------------------------------------------------------------------------------------------------- how they are read


def dealt(cells, proteins, names_key=None):
    schema = DataSchema(
        genes=tuple(cells.var_names), protein_key=KEY, protein_names_key=names_key, proteins=tuple(proteins)
    )
    return np.concatenate([minibatch.proteins.numpy().copy() for minibatch in Cells(cells, schema).in_order(50)])


STORED = {
    "DataFrame": lambda values: pd.DataFrame(values, columns=list("abcdef")),
    "nullable": lambda values: pd.DataFrame(values, columns=list("abcdef")).astype("Int64"),
    "of several types": lambda values: pd.DataFrame(values, columns=list("abcdef")).astype({"a": np.float32}),
    "array": np.asarray,
    "csr": sp.csr_matrix,
    "csc": sp.csc_matrix,
    "dask": lambda values: da.from_array(values, chunks=(50, 4)),
}


@pytest.mark.parametrize("stored", STORED)
def test_counts_come_by_name_whatever_holds_them_in_a_view_and_in_a_file(cite, tmp_path, stored):
    values = cite.obsm[KEY].to_numpy()
    held = STORED[stored](values)
    if isinstance(held, pd.DataFrame):
        held = held.set_axis(cite.obs_names)
    cells = with_proteins(cite, held)
    cells.uns["names"] = list("abcdef")
    del cells.uns["truth"]
    expected = np.column_stack([values[:, 3], values[:, 0], np.zeros(120), values[:, 5]])
    rows = np.arange(119, 20, -3)
    np.testing.assert_array_equal(dealt(cells, "da?f", "names"), expected)
    np.testing.assert_array_equal(dealt(cells[rows], "da?f", "names"), expected[rows])
    cells.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    np.testing.assert_array_equal(dealt(backed, "da?f", "names"), expected)
    np.testing.assert_array_equal(dealt(backed[rows], "da?f", "names"), expected[rows])


def test_rna_alone_has_no_protein_counts(cite):
    cells = cite.copy()
    del cells.obsm[KEY]
    schema = DataSchema(genes=tuple(cells.var_names), protein_key=KEY, proteins=("a", "b"))
    (minibatch,) = Cells(cells, schema).in_order(200)
    assert minibatch.proteins is None


def test_a_protein_is_measured_in_a_batch_in_which_any_cell_has_it(cite):
    table = changed(cite, 0, np.flatnonzero(cite.obs["batch"] == "batch1"), 4)
    measured = protein_table(with_proteins(cite, table), KEY).measured(
        cite.obs["batch"].cat.codes.to_numpy(), 2, ["Protein02", "Control1", "absent"]
    )
    assert measured.tolist() == [[True, True, False], [True, False, False]]


def test_proteins_of_a_query_are_compared_by_name(cite):
    table = protein_table(cite, KEY)
    assert list(announce_differences(table, table.names)) == []
    missing, extra = announce_differences(table, ("Protein01", "CD3"))
    assert "1 of the model's 2 proteins are not in" in missing and "5 proteins of" in extra
    with pytest.raises(DataError, match=r"None of the model's 1 proteins.*Rename the columns"):
        list(announce_differences(table, ("CD3",)))


# --------------------------------------------------------------------------------------------------------------- MuData


def multimodal(cite, order=slice(None), **others) -> mudata.MuData:
    rna = ad.AnnData(cite.X.copy(), obs=cite.obs[["cell_type"]].copy(), var=cite.var.copy())
    proteins = ad.AnnData(sp.csr_matrix(cite.obsm[KEY].to_numpy(np.float32)), obs=cite.obs[[]].copy())
    proteins.var_names = cite.obsm[KEY].columns
    data = mudata.MuData({"rna": rna, "prot": proteins[order].copy(), **others})
    data.obs["batch"] = cite.obs["batch"]
    return data


def test_a_mudata_is_read_as_rna_with_its_proteins_cell_by_cell(cite):
    data = multimodal(cite, np.random.default_rng(0).permutation(120))
    before = {name: contents(part) for name, part in data.mod.items()}
    cells = as_anndata(data)
    assert list(cells.obs_names) == list(cite.obs_names) and list(cells.obs) == ["cell_type", "batch"]
    np.testing.assert_array_equal(cells.obsm["prot"], cite.obsm[KEY])
    assert (cells.X != cite.X).nnz == 0 and list(cells.obs["batch"]) == list(cite.obs["batch"])
    assert {name: contents(part) for name, part in data.mod.items()} == before


def test_an_unpaired_mudata_is_refused_with_its_numbers(cite):
    with pytest.raises(DataError, match="not paired: 20 of 120 cells have RNA and no 'prot', 0 have 'prot' and no RNA"):
        as_anndata(multimodal(cite, slice(0, 100)))


def test_modalities_of_unknown_names_are_to_be_named(cite):
    data = multimodal(cite)
    data = mudata.MuData({"rna": data["rna"], "epitopes": data["prot"]})
    with pytest.raises(DataError, match=r"holds proteins cannot be told.*\(rna, epitopes\)\. Pass protein_key="):
        as_anndata(data)
    assert list(as_anndata(data, "epitopes").obsm) == ["epitopes"]
    assert list(as_anndata(mudata.MuData({"rna": data["rna"]})).obsm) == []


def test_an_anndata_stays_what_it_is(cite):
    assert as_anndata(cite) is cite
