# ruff: noqa: E501  (FAULTS is a table, a row per fault)
"""Every fault of the catalogue is found, named with the user's own values, and nothing is touched."""

from __future__ import annotations

import hashlib
import re
import sys
import time
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import anndata as ad
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from scarches_widgets.data import check_obs, check_values
from scarches_widgets.data.check_obs import CATEGORY_CHECKS
from scarches_widgets.data.check_values import VALUE_CHECKS
from scarches_widgets.data.findings import Finding, Findings
from scarches_widgets.data.names import DataError
from scarches_widgets.data.validate import CHECKS, validate

GENES = ["CD3D", "NKG7", "MS4A1", "LYZ", "GNLY", "CD8A", "CD4", "PPBP", "FCER1A", "IL7R"]
N_CELLS = 40
EVERY_KEY = {
    "batch_key": "sample",
    "labels_key": "cell_type",
    "size_factor_key": "depth",
    "categorical_covariate_keys": ["chemistry"],
    "continuous_covariate_keys": ["age"],
    "unlabeled_category": "Unknown",
}


def clean() -> ad.AnnData:
    """Counts with no fault at all; every gene and cell is seen."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(2, (N_CELLS, len(GENES)))
    counts[np.arange(N_CELLS), np.arange(N_CELLS) % len(GENES)] += 1
    obs = pd.DataFrame(
        {
            "sample": pd.Categorical(np.repeat(["lung", "liver"], N_CELLS // 2)),
            "cell_type": np.resize(["T cell", "B cell", "NK cell"], N_CELLS),
            "chemistry": pd.Categorical(np.resize(["v2", "v3"], N_CELLS)),
            "age": np.linspace(20, 80, N_CELLS),
            "depth": counts.sum(axis=1) / counts.sum(axis=1).mean(),
        },
        index=[f"AAAC-{i}" for i in range(N_CELLS)],
    )
    return ad.AnnData(sp.csr_matrix(counts.astype(np.float32)), obs=obs, var=pd.DataFrame(index=GENES))


# ------------------------------------------------------------------------------------------------- ways to spoil data


def with_value(value: float, cell: int = 3, gene: str = "LYZ", dtype: str = "float32"):
    """The count of one gene in one cell replaced."""

    def spoil(adata):
        X = adata.X.toarray().astype(dtype)
        X[cell, GENES.index(gene)] = value
        adata.X = sp.csr_matrix(X)

    return spoil


def with_X(change: Callable[[np.ndarray], Any]):
    """X replaced by what `change` makes of the dense counts."""

    def spoil(adata):
        adata.X = change(adata.X.toarray())

    return spoil


def with_obs(column: str, change: Callable[[pd.Series], Any]):
    def spoil(adata):
        adata.obs[column] = change(adata.obs[column])

    return spoil


def with_first(column: str, *values):
    """The first cells of a column replaced."""
    return with_obs(column, lambda old: pd.Series([*values, *old.astype(object)[len(values) :]], old.index, object))


def with_gene_names(*names):
    def spoil(adata):
        adata.var.index = pd.Index([*names, *GENES[len(names) :]], dtype=object)

    return spoil


def with_attribute(name: str, change: Callable[[np.ndarray], np.ndarray], of: str = "csr"):
    """One array inside the sparse matrix replaced, without its own checks."""

    def spoil(adata):
        adata.X = adata.X.asformat(of)
        object.__setattr__(adata.X, name, change(getattr(adata.X, name).copy()))

    return spoil


def changed(position: int, value: float):
    def change(array):
        array[position] = value
        return array

    return change


def all_of(*spoilers):
    def spoil(adata):
        for one in spoilers:
            one(adata)

    return spoil


def counts_in_layer(adata):
    adata.layers["raw_counts"] = adata.X.copy()


def counts_in_raw(adata):
    adata.raw = adata.copy()


def log_normalised(X):
    return sp.csr_matrix(np.log1p(X / X.sum(axis=1, keepdims=True) * 1e4))


def normalised(X):
    return sp.csr_matrix(X / X.sum(axis=1, keepdims=True) * 1e4)


def scaled(X):
    return (X - X.mean(axis=0)) / X.std(axis=0)


def without_column(X, gene="GNLY"):
    X[:, GENES.index(gene)] = 0
    return sp.csr_matrix(X)


def without_row(X, cell=7):
    X[cell] = 0
    return sp.csr_matrix(X)


def with_explicit_zeros(X):
    X = sp.csr_matrix(X)
    X.data[:4] = 0
    return X


def with_duplicates(X):
    """Each entry twice, half the value each time."""
    X = sp.csr_matrix(X)
    return sp.csr_matrix((np.repeat(X.data / 2, 2), np.repeat(X.indices, 2), X.indptr * 2), X.shape)


def out_of_order(X):
    X = sp.csr_matrix(X)
    order = np.concatenate([np.arange(a, b)[::-1] for a, b in zip(X.indptr, X.indptr[1:])])
    return sp.csr_matrix((X.data[order], X.indices[order], X.indptr), X.shape)


def hidden(X):
    """X in a container that AnnData itself lets through."""
    return lambda adata: put(adata, X(adata.X.toarray()))


def put(adata, X):
    """X past the checks of AnnData."""
    if hasattr(adata, "_X"):
        adata._X = X
    else:  # anndata 0.13 and later
        adata._layers[None] = X


class Fault(NamedTuple):
    what: str  # a sentence's subject: the test's id
    spoil: Callable[[ad.AnnData], None]
    code: str
    level: str
    says: str  # a fragment of the message, with the user's own values
    arguments: dict = {}  # noqa: RUF012  (a NamedTuple's default is never modified)


FAULTS = [
    # values of X
    Fault("a negative count", with_value(-1), "negative-values", "error", "1 negative value (lowest -1 at cell 'AAAC-3', gene 'LYZ')"),
    Fault("a negative value, for normalised ones", all_of(with_X(log_normalised), with_value(-0.5)), "negative-values", "error", "gives no value below zero", {"expects": "normalized"}),
    Fault("counts, for normalised values", with_value(3), "counts-not-normalized", "warning", "whole numbers only", {"expects": "normalized"}),
    Fault("a negative count, the counts in a layer", all_of(counts_in_layer, with_value(-1)), "negative-values", "error", "pass layer='raw_counts'"),
    Fault("a negative count, the counts in raw", all_of(counts_in_raw, with_value(-1)), "negative-values", "error", "adata.raw.to_adata()"),
    Fault("a negative count and no counts elsewhere", with_value(-1), "negative-values", "error", "adata.layers['counts'] = adata.X.copy()"),
    Fault("scaled values", with_X(scaled), "negative-values", "error", "looks scaled"),
    Fault("scaled values once more", with_X(scaled), "fractional-values", "error", "looks scaled"),
    Fault("log-normalised values", with_X(log_normalised), "fractional-values", "error", "log1p, row sums of expm1 constant near 10,000"),
    Fault("normalised values", with_X(normalised), "fractional-values", "error", "normalised, not log: row sums constant near 10,000"),
    Fault("normalised values of some genes", with_X(lambda X: sp.csr_matrix(normalised(X).toarray() * np.linspace(1, 2, 10))), "fractional-values", "error", "looks normalised, not log"),
    Fault("log values of some genes", with_X(lambda X: sp.csr_matrix(np.log1p(X))), "fractional-values", "error", "log-transformed: no value above"),
    Fault("one value of a half", with_value(0.5), "fractional-values", "error", "X has 1 value with a fraction, 0.282 % of the nonzero ones (0.5 at cell 'AAAC-3', gene 'LYZ')"),
    Fault("some counts that were corrected", with_value(0.5), "fractional-values", "error", "estimated or corrected (RSEM, SoupX)"),
    Fault("counts with float noise", with_value(2.0000005, dtype="float64"), "nearly-whole-values", "warning", "2.0000005 at cell 'AAAC-3', gene 'LYZ'"),
    Fault("a NaN", with_value(np.nan), "nan-values", "error", "1 NaN (the first at cell 'AAAC-3', gene 'LYZ')"),
    Fault("a NaN, for any values", with_value(np.nan), "nan-values", "error", "cell 'AAAC-3'", {"expects": "any"}),
    Fault("an infinite value", with_value(np.inf), "infinite-values", "error", "1 infinite value (the first, inf, at cell 'AAAC-3'"),
    Fault("a negative infinite value", with_value(-np.inf, gene="CD4"), "infinite-values", "error", "-inf, at cell 'AAAC-3', gene 'CD4'"),
    Fault("an infinite value, for any values", with_value(np.inf), "infinite-values", "error", "gene 'LYZ'", {"expects": "any"}),
    Fault("an empty cell", with_X(without_row), "empty-cells", "warning", "X holds nothing but zeros for 1 of 40 cells (AAAC-7)"),
    Fault("an empty gene", with_X(without_column), "empty-genes", "warning", "X holds nothing but zeros for 1 of 10 genes (GNLY)"),
    Fault("nothing but zeros", with_X(lambda X: sp.csr_matrix(X * 0)), "all-zero", "error", "All 40 × 10 values of X are zero"),
    Fault("nothing but stored zeros", with_X(lambda X: X * 0), "all-zero", "error", "All 40 × 10"),
    Fault("a count of two million", with_value(2e6), "huge-counts", "warning", "2e+06 at cell 'AAAC-3', gene 'LYZ'"),
    Fault("a count above 2^24", with_value(2**24 + 2, dtype="int64"), "inexact-counts", "error", "1.67772e+07 at cell 'AAAC-3'"),
    Fault("a count of 3e38", with_value(3e38), "inexact-counts", "error", "3e+38"),
    Fault("an int32 that overflowed", with_value(-(2**31), dtype="int32"), "overflowed-values", "error", "-2.14748e+09 at cell 'AAAC-3', gene 'LYZ'"),
    Fault("an int32 that overflowed, for any values", with_value(-(2**31) + 9, dtype="int32"), "overflowed-values", "error", "int32: overflow upstream?", {"expects": "any"}),
    Fault("an int32 that overflowed, out of order, for any values", all_of(with_value(-(2**31), dtype="int32"), with_X(out_of_order)), "overflowed-values", "error", "-2.14748e+09 at cell 'AAAC-3', gene 'LYZ'", {"expects": "any"}),
    Fault("boolean X", with_X(lambda X: sp.csr_matrix(X > 0)), "boolean-values", "error", "X is boolean"),
    Fault("boolean X, for any values", with_X(lambda X: X > 0), "boolean-values", "warning", "read as 0 and 1", {"expects": "any"}),
    Fault("float16 with large counts", with_X(lambda X: (X + 3000).astype(np.float16)), "half-precision", "warning", "float16 and holds counts up to 3,0"),
    Fault("X of Python objects", with_X(lambda X: X.astype(object)), "not-numbers", "error", "X has the type object"),
    Fault("X of text", with_X(lambda X: X.astype(str)), "not-numbers", "error", "X has the type <U"),
    Fault("complex X", with_X(lambda X: X.astype(complex)), "not-numbers", "error", "X has the type complex128"),
    Fault("X of dates", with_X(lambda X: X.astype("M8[s]")), "not-numbers", "error", "datetime64[s]"),
    Fault("a masked array", hidden(lambda X: np.ma.masked_equal(X, 0)), "unreadable-type", "error", "X is a numpy.MaskedArray"),
    Fault("a np.matrix", hidden(lambda X: X.view(np.matrix)), "unreadable-type", "error", "X is a numpy.matrix"),
    Fault("a DataFrame", hidden(pd.DataFrame), "unreadable-type", "error", "X is a pandas.DataFrame"),
    Fault("a COO matrix", hidden(sp.coo_matrix), "unreadable-type", "error", "X is a scipy.coo_matrix"),
    Fault("a list", hidden(np.ndarray.tolist), "unreadable-type", "error", "X is a builtins.list"),
    Fault("no X at all", hidden(lambda X: None), "no-matrix", "error", "adata.X is empty"),
    Fault("no X, but a layer of counts", all_of(counts_in_layer, hidden(lambda X: None)), "no-matrix", "error", "pass layer='raw_counts'"),
    # sparse matrices, damaged or untidy
    Fault("a gene index out of range", with_attribute("indices", changed(5, 99)), "malformed-matrix", "error", "position 99 among 10 genes"),
    Fault("a negative gene index", with_attribute("indices", changed(5, -3)), "malformed-matrix", "error", "position -3 among 10 genes"),
    Fault("a cell index out of range in CSC", with_attribute("indices", changed(5, 10**6), "csc"), "malformed-matrix", "error", "position 1,000,000 among 40 cells"),
    Fault("an indptr that falls", with_attribute("indptr", changed(2, 300)), "malformed-matrix", "error", "indptr falls from 300 to"),
    Fault("an indptr too short", with_attribute("indptr", lambda a: a[:-1]), "malformed-matrix", "error", "indptr has 40 entries, not 41"),
    Fault("an indptr that points past the end", with_attribute("indptr", changed(-1, 10**9)), "malformed-matrix", "error", "indptr ends at 1,000,000,000"),
    Fault("an indptr that does not start at zero", with_attribute("indptr", changed(0, 1)), "malformed-matrix", "error", "indptr starts at 1"),
    Fault("fewer indices than values", with_attribute("indices", lambda a: a[:-1]), "malformed-matrix", "error", "values and"),
    Fault("indices that are no whole numbers", with_attribute("indices", lambda a: a.astype(float)), "malformed-matrix", "error", "of type float64"),
    Fault("a matrix of another shape", hidden(lambda X: sp.csr_matrix(X[:-1])), "malformed-matrix", "error", "it is 39 × 10, but obs and var make it 40 × 10"),
    Fault("explicit zeros", with_X(with_explicit_zeros), "untidy-sparse", "note", "4 explicit zeros"),
    Fault("duplicate entries", with_X(with_duplicates), "untidy-sparse", "note", "duplicate entries"),
    Fault("entries out of order", with_X(out_of_order), "untidy-sparse", "note", "entries out of order"),
    # shape and names
    Fault("a duplicated gene", with_gene_names("NKG7"), "duplicated-genes", "error", "uses 1 name more than once (NKG7)"),
    Fault("a gene called None", with_gene_names(None), "unnamed-genes", "error", "1 gene without a name (position 0)"),
    Fault("a gene called NaN", with_gene_names("A", np.nan), "unnamed-genes", "error", "1 gene without a name (position 1)"),
    Fault("genes called nothing", with_gene_names("", "A", " "), "unnamed-genes", "error", "2 genes without a name (position 0, 2)"),
    Fault("a gene name in bytes", with_gene_names(b"CD3D"), "binary-names", "error", "1 name in bytes, not text (b'CD3D')"),
    Fault("a gene name that is a number", with_gene_names(5), "names-not-text", "warning", "1 name of type int, not text (5)"),
    Fault("a duplicated cell", lambda a: setattr(a, "obs_names", ["AAAC-1", *a.obs_names[1:]]), "duplicated-cells", "warning", "(AAAC-1)"),
    # keys
    Fault("a misspelt batch_key", lambda a: None, "missing-key", "error", "no column 'sampel' (batch_key). Did you mean 'sample'? Its columns: sample, cell_type", {"batch_key": "sampel"}),
    Fault("a labels_key in another case", lambda a: None, "missing-key", "error", "Did you mean 'cell_type'?", {"labels_key": "Cell_Type"}),
    Fault("a prefix of a column's name", lambda a: None, "missing-key", "error", "no column 'cell_t'", {"labels_key": "cell_t"}),
    Fault("a missing covariate", lambda a: None, "missing-key", "error", "(categorical_covariate_keys)", {"categorical_covariate_keys": "sex"}),
    Fault("a missing size factor", lambda a: None, "missing-key", "error", "no column 'size' (size_factor_key)", {"size_factor_key": "size"}),
    Fault("a misspelt layer", counts_in_layer, "missing-layer", "error", "no layer 'raw_count'. Did you mean 'raw_counts'? Its layers: raw_counts", {"layer": "raw_count"}),
    Fault("a layer where there is none", lambda a: None, "missing-layer", "error", "It has no layers at all", {"layer": "counts"}),
    Fault("batch and label from one column", lambda a: None, "repeated-key", "warning", "'sample' is given 2 times, as batch_key and labels_key", {"labels_key": "sample"}),
    Fault("two columns of one name", lambda a: setattr(a, "obs", pd.concat([a.obs, a.obs[["sample"]]], axis=1)), "ambiguous-key", "error", "2 columns called 'sample'"),
    # batches and other categories
    Fault("a cell without a batch", with_first("sample", None), "missing-values", "error", "obs['sample'] has no batch for 1 of 40 cells (AAAC-0)"),
    Fault("a cell without a covariate", with_first("chemistry", np.nan), "missing-values", "error", "obs['chemistry'] has no category for 1 of 40 cells"),
    Fault("a single batch", with_obs("sample", lambda old: "lung"), "one-category", "warning", "same batch for all cells, 'lung'"),
    Fault("a batch of two cells", with_first("sample", "kidney", "kidney"), "small-categories", "warning", "obs['sample'] has one or two cells in 1 of 3 batches (kidney)"),
    Fault("unused batches", with_obs("sample", lambda old: old.cat.add_categories(["skin"])), "unused-categories", "note", "obs['sample'] has 1 category without cells (skin)"),
    Fault("batches that differ by a blank", with_first("sample", *["lung "] * 5), "look-alike-categories", "warning", "'lung' (15 cells) and 'lung ' (5 cells)"),
    Fault("batches that differ by case", with_first("sample", *["LUNG"] * 5), "look-alike-categories", "warning", "Did you mean one?"),
    Fault("boolean batches", with_obs("sample", lambda old: old == "lung"), "read-as-text", "note", "bool values"),
    Fault("numeric batches", with_obs("sample", lambda old: (old == "lung").astype(int) + 7), "read-as-text", "note", "'8' for the first"),
    Fault("dates as batches", with_obs("sample", lambda old: np.where(old == "lung", np.datetime64("2024-05-06"), np.datetime64("2024-07-08"))), "read-as-text", "note", "2024-05-06"),
    Fault("intervals as batches", with_obs("sample", lambda old: pd.cut(np.arange(N_CELLS), [-1, 9, 39])), "read-as-text", "note", "Interval values ((-1, 9], (9, 39])"),
    Fault("batches 1, '1' and 1.0 in one column", with_first("sample", 1, "1", 1.0), "mixed-types", "error", "1.0 (float)"),
    Fault("categories of mixed types", with_obs("sample", lambda old: old.cat.rename_categories([1, "1"])), "mixed-types", "error", "1 (int), '1' (str)"),
    Fault("batches that are lists", with_obs("sample", lambda old: [["lung"]] * N_CELLS), "not-categories", "error", "['lung'] (list)"),
    Fault("barcodes as batches", with_obs("sample", lambda old: old.index), "one-category-per-cell", "error", "40 batches for 40 cells (AAAC-0"),
    # labels
    Fault("a cell without a label", with_first("cell_type", np.nan), "missing-labels", "note", "obs['cell_type'] has no label for 1 of 40 cells (AAAC-0). They are taken as unlabelled, as 'Unknown'"),
    Fault("a label of one cell", with_first("cell_type", "platelet"), "small-categories", "warning", "has a single cell in 1 of 4 labels (platelet)"),
    Fault("cells with the unlabelled name", with_first("cell_type", "Unknown", "Unknown"), "unlabelled-cells", "note", "is 'Unknown' for 2 of 40 cells"),
    Fault("the unlabelled name in another case", with_first("cell_type", "unknown", "unknown"), "look-alike-categories", "warning", "'Unknown' (0 cells) and 'unknown' (2 cells)"),
    Fault("no cell with a label", with_obs("cell_type", lambda old: "Unknown"), "nothing-labelled", "error", "None of the 40 cells has a label other than 'Unknown'"),
    # numbers per cell
    Fault("a covariate with NaN", with_first("age", np.nan), "not-numeric", "error", "obs['age'] holds object values"),
    Fault("a float covariate with NaN", with_obs("age", lambda old: old.where(old > 20)), "covariate-not-finite", "error", "adata.obs['age'] is NaN or infinite for 1 of 40 cells (nan for 'AAAC-0')"),
    Fault("an infinite covariate", with_obs("age", lambda old: old.where(old > 20, np.inf)), "covariate-not-finite", "error", "(inf for 'AAAC-0')"),
    Fault("a constant covariate", with_obs("age", lambda old: 42.0), "constant-covariate", "warning", "adata.obs['age'] is 42 in every cell"),
    Fault("a covariate in words", with_obs("age", lambda old: "old"), "not-numeric", "error", "(old), not numbers"),
    Fault("a covariate of lists", with_obs("age", lambda old: [["old"]] * N_CELLS), "not-numeric", "error", "(['old']), not numbers"),
    Fault("a size factor of zero", with_obs("depth", lambda old: old.where(old > old.min(), 0)), "bad-size-factors", "error", "is not above zero for 1 of 40 cells (0.0 for 'AAAC-"),
    Fault("a negative size factor", with_obs("depth", lambda old: -old), "bad-size-factors", "error", "adata.obs['depth'] is not above zero for 40 of 40 cells"),
    Fault("a size factor that is NaN", with_obs("depth", lambda old: old.where(old > old.min())), "bad-size-factors", "error", "(nan for"),
    Fault("size factors in words", with_obs("depth", lambda old: "deep"), "not-numeric", "error", "(deep), not numbers"),
]  # fmt: skip


def as_ids(fault: Fault) -> str:
    return fault.what


@pytest.mark.parametrize("fault", FAULTS, ids=as_ids)
def test_a_fault_is_found_and_named_with_the_users_own_values(fault):
    adata = clean()
    fault.spoil(adata)
    found = [finding for finding in validate(adata, **(EVERY_KEY | fault.arguments)) if finding.code == fault.code]
    assert found, "not found"
    assert any(fault.says in str(finding) for finding in found), "\n".join(map(str, found))
    assert {finding.level for finding in found} == {fault.level}
    assert all(finding.count >= 1 and len(finding.examples) <= 3 and finding.where for finding in found)


@pytest.mark.parametrize("fault", FAULTS, ids=as_ids)
def test_looking_at_faulty_data_changes_nothing_and_warns_of_nothing(fault):
    adata = clean()
    fault.spoil(adata)
    before = fingerprint(adata)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        validate(adata, **(EVERY_KEY | fault.arguments))
    assert fingerprint(adata) == before


def fingerprint(adata: ad.AnnData) -> str:
    """A hash of all that `validate` looks at, down to the flags that SciPy keeps on a sparse matrix."""
    digest = hashlib.sha256()
    for matrix in (adata.X, *adata.layers.values()):
        parts = vars(matrix) if sp.issparse(matrix) else {"dense": matrix}
        for name, part in sorted(parts.items()):
            digest.update(f"{name} {part.tobytes() if isinstance(part, np.ndarray) else part}".encode())
    for frame in (adata.obs, adata.var):
        columns = [frame.iloc[:, i] for i in range(frame.shape[1])]
        digest.update(repr([list(frame.index), *((list(c), c.name, repr(c.dtype)) for c in columns)]).encode())
    digest.update(repr(dict(adata.uns)).encode())
    return digest.hexdigest()


def codes(findings: Findings) -> set[str]:
    return {finding.code for finding in findings}


def test_clean_counts_have_no_finding():
    assert list(validate(clean(), **EVERY_KEY)) == []
    assert validate(clean()).ok


def test_scaled_and_log_values_are_fine_for_a_normal_likelihood():
    for change in (scaled, log_normalised, normalised):
        adata = clean()
        with_X(change)(adata)
        assert list(validate(adata, expects="any", **EVERY_KEY)) == []


def test_several_faults_are_all_reported_at_once():
    adata = clean()
    all_of(
        with_value(np.nan),
        with_value(-2, gene="CD4"),
        with_value(0.5, gene="CD8A"),
        with_first("sample", None),
        with_first("cell_type", "Unknown"),
        with_gene_names("NKG7"),
    )(adata)
    findings = validate(adata, **(EVERY_KEY | {"size_factor_key": "dept"}))
    expected = {
        "nan-values",
        "negative-values",
        "fractional-values",
        "missing-values",
        "duplicated-genes",
        "missing-key",
    }
    assert codes(findings.errors) == expected
    assert codes(findings.notes) == {"unlabelled-cells"}
    with pytest.raises(DataError) as raised:
        findings.raise_errors()
    for number, finding in enumerate(findings.errors, start=1):
        assert f"{number}. {finding}" in str(raised.value)


def test_the_lowest_value_is_named_not_the_first():
    adata = clean()
    with_value(-1, cell=2)(adata)
    with_value(-5, cell=9, gene="IL7R")(adata)
    (finding,) = validate(adata).errors
    assert "2 negative values (lowest -5 at cell 'AAAC-9', gene 'IL7R')" in str(finding)
    assert finding.examples == ("cell 'AAAC-2', gene 'LYZ'", "cell 'AAAC-9', gene 'IL7R'")


# ------------------------------------------------------------------------------------------------------- containers


def in_file(X, tmp_path, **options):
    adata = clean()
    adata.X = X
    adata.write_h5ad(tmp_path / "cells.h5ad", **options)
    return ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")


def memmap(X, tmp_path):
    np.save(tmp_path / "X.npy", X)
    return np.load(tmp_path / "X.npy", mmap_mode="r")


def read_only(X):
    X = sp.csr_matrix(X)
    for part in (X.data, X.indices, X.indptr):
        part.flags.writeable = False
    return X


def wide_indices(X):
    X = sp.csr_matrix(X)
    object.__setattr__(X, "indices", X.indices.astype(np.int64))
    object.__setattr__(X, "indptr", X.indptr.astype(np.int64))
    return X


CONTAINERS = {
    "CSR": lambda X, _: sp.csr_matrix(X),
    "CSC": lambda X, _: sp.csc_matrix(X),
    "csr_array": lambda X, _: sp.csr_array(X),
    "csc_array": lambda X, _: sp.csc_array(X),
    "CSR, read-only": lambda X, _: read_only(X),
    "CSR, 64-bit indices": lambda X, _: wide_indices(X),
    "dense": lambda X, _: X,
    "dense, Fortran order": lambda X, _: np.asfortranarray(X),
    "dense, non-contiguous": lambda X, _: np.repeat(X, 2, axis=1)[:, ::2],
    "dense, memmap": memmap,
    "float64": lambda X, _: X.astype(np.float64),
    "dask, dense": lambda X, _: da.from_array(X, chunks=(14, 5)),
    "dask, CSR": lambda X, _: da.from_array(X, chunks=(14, 10)).map_blocks(sp.csr_matrix),
    "dask, CSC": lambda X, _: da.from_array(X, chunks=(25, 10)).map_blocks(sp.csc_matrix),
}


def faulty_values() -> np.ndarray:
    """A value of each kind that a scan has to find, several times."""
    X = clean().X.toarray()
    X[5, 2] = X[30, 1] = X[12, 7] = X[13, 0] = np.nan
    X[11, 3] = np.inf
    X[20, 4], X[4, 8], X[4, 6] = -1, -3, -3
    X[21, 4], X[33, 0] = 0.5, 1.25
    X[22, 5] = 3e6
    X[17], X[:, 9] = 0, 0
    return X


@pytest.fixture(params=[64, 2**18], ids=["small blocks", "one block"])
def block_size(request, monkeypatch):
    monkeypatch.setattr("scarches_widgets.data.matrix.VALUES_PER_BLOCK", request.param)


@pytest.mark.usefixtures("block_size")
@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_gives_the_same_findings(name, tmp_path):
    adata = clean()
    adata.X = faulty_values()
    expected = validate(adata, **EVERY_KEY)
    assert len(expected) == 7
    adata.X = CONTAINERS[name](faulty_values(), tmp_path)
    assert validate(adata, **EVERY_KEY) == expected
    adata.layers["again"] = adata.X
    assert [finding.code for finding in validate(adata, layer="again")] == [finding.code for finding in expected]


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_view_gives_the_same_findings_as_its_copy(name, tmp_path, monkeypatch):
    adata = clean()
    adata.X = CONTAINERS[name](faulty_values(), tmp_path)
    dense = clean()
    dense.X = faulty_values()
    monkeypatch.setattr("scarches_widgets.data.matrix.VALUES_PER_BLOCK", 64)
    rng = np.random.default_rng(1)
    views = [
        np.s_[5:31],
        np.s_[::-2, ::-1],
        np.s_[rng.permutation(N_CELLS)[:33], rng.permutation(10)[:8]],
        np.s_[:, ["LYZ", "CD4", "GNLY"]],
        np.s_[(np.arange(N_CELLS) % 3 > 0), :],
    ]
    for selection in views:
        view = adata[selection]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            findings = validate(view)
        assert view.is_view
        assert findings == validate(dense[selection].copy())


@pytest.mark.usefixtures("block_size")
@pytest.mark.parametrize("stored", [sp.csr_matrix, np.asarray], ids=["CSR", "dense"])
def test_a_backed_file_gives_the_same_findings_and_stays_as_it_is(stored, tmp_path):
    dense = clean()
    dense.X = faulty_values()
    backed = in_file(stored(faulty_values()), tmp_path, compression="gzip")
    path = Path(backed.filename)
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    assert validate(backed, **EVERY_KEY) == validate(dense, **EVERY_KEY)
    for selection in (np.s_[5:31], np.s_[[30, 4, 5, 17], ::-1], np.s_[:, [3, 8, 2]]):
        assert validate(backed[selection]) == validate(dense[selection].copy())
    backed.file.close()
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before


def test_a_file_stored_gene_by_gene_is_refused_for_training_only(tmp_path):
    backed = in_file(sp.csc_matrix(clean().X), tmp_path)
    assert codes(validate(backed).errors) == {"stored-by-gene"}
    assert validate(backed, for_training=False).ok


def test_a_damaged_file_is_reported_not_followed(tmp_path):
    import h5py

    in_file(clean().X, tmp_path).file.close()
    with h5py.File(tmp_path / "cells.h5ad", "r+") as file:
        file["X/indices"][4] = 10**6
    for adata in (backed := ad.read_h5ad(tmp_path / "cells.h5ad", backed="r"), backed[:10, ["LYZ", "CD4"]]):
        (finding,) = validate(adata).errors
        assert finding.code == "malformed-matrix" and "1,000,000" in str(finding)


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int16", "int32", "int64", "uint64", "float16", "float64"]
)
def test_counts_of_every_numeric_type_are_clean(dtype):
    for stored in (sp.csr_matrix, np.asarray):
        adata = clean()
        with_X(lambda X, stored=stored: stored(X.astype(dtype)) if dtype != "float16" else X.astype(dtype))(adata)
        assert list(validate(adata)) == []


def test_duplicate_entries_are_summed_without_overflow():
    halves = sp.csr_matrix(([200, 100] * 10, np.repeat(np.arange(10), 2), [0, 20]), (1, 10), dtype=np.uint8)
    adata = clean()[:1].copy()
    put(adata, halves)
    (finding,) = validate(adata, for_training=False).notes
    assert "10 duplicate entries" in str(finding)
    assert halves.nnz == 20


def test_dask_is_computed_block_by_block():
    asked = []

    def load(block_info=None):
        (rows, columns) = block_info[None]["array-location"]
        asked.append((rows[1] - rows[0], columns[1] - columns[0]))
        return np.ones((rows[1] - rows[0], columns[1] - columns[0]), np.float32)

    X = da.map_blocks(load, chunks=((100,) * 50, (30,)), dtype=np.float32, meta=np.empty((0, 0), np.float32))
    adata = ad.AnnData(X)
    asked.clear()
    assert validate(adata).ok
    assert asked == [(100, 30)] * 50


# ------------------------------------------------------------------------------------------------ size, speed, memory


@pytest.fixture(scope="module")
def ten_million_values() -> sp.csr_matrix:
    n_cells, n_genes, per_cell = 10_000, 2_000, 1_000
    columns = np.tile(np.arange(0, n_genes, n_genes // per_cell, dtype=np.int32), (n_cells, 1))
    columns += (np.arange(n_cells, dtype=np.int32) % 2)[:, None]  # every gene is seen
    data = np.random.default_rng(0).integers(1, 9, n_cells * per_cell).astype(np.float32)
    return sp.csr_matrix((data, columns.reshape(-1), np.arange(n_cells + 1) * per_cell), (n_cells, n_genes))


@pytest.mark.parametrize("position", [0, 2**18, 9_999_999])
def test_one_nan_among_ten_million_values_is_found(ten_million_values, position):
    X = ten_million_values.copy()
    X.data[position] = np.nan
    cell, gene = position // 1000, X.indices[position]
    adata = ad.AnnData(X)
    (finding,) = validate(adata)
    assert finding.code == "nan-values" and finding.count == 1
    assert finding.examples == (f"cell '{cell}', gene '{gene}'",)


def test_ten_million_values_take_little_time_and_memory(ten_million_values):
    adata = ad.AnnData(ten_million_values)
    started = time.process_time()
    assert validate(adata).ok
    assert time.process_time() - started < 2.0  # 0.1 s on an idle core
    tracemalloc.start()
    validate(adata)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32e6


# ------------------------------------------------------------------------------------------------- cells and categories


def test_no_cells_and_no_genes_are_refused():
    assert codes(validate(clean()[:0], batch_key="sample", labels_key="cell_type").errors) == {"no-cells"}
    assert codes(validate(clean()[:, :0]).errors) == {"no-genes"}


def test_a_single_cell_can_be_mapped_but_not_trained_on():
    one = clean()[:1]
    (finding,) = validate(one, batch_key="sample").errors
    assert finding.code == "one-cell" and "AAAC-0" in str(finding)
    assert codes(validate(one, batch_key="sample", for_training=False)) == {"one-cell"}
    assert validate(one, batch_key="sample", for_training=False).ok


def test_a_query_of_one_batch_and_one_label_is_fine_when_it_is_only_looked_at():
    query = clean()[:2]
    assert list(validate(query, batch_key="sample", labels_key="cell_type", for_training=False)) == []


def test_unlabelled_cells_alone_are_fine_when_they_are_only_looked_at():
    adata = clean()
    adata.obs["cell_type"] = "Unknown"
    assert validate(adata, **EVERY_KEY, for_training=False).ok
    adata.obs["cell_type"] = np.nan
    assert codes(validate(adata, **EVERY_KEY).errors) == {"nothing-labelled"}
    assert codes(validate(adata, **EVERY_KEY).notes) == {"missing-labels"}


def test_two_thousand_batches_come_with_an_estimate_of_memory():
    adata = ad.AnnData(np.ones((6000, 2), np.float32))
    adata.obs["well"] = np.arange(6000) % 2000
    (finding,) = (f for f in validate(adata, batch_key="well").warnings if f.code == "many-categories")
    assert "2,000 batches" in str(finding) and re.search(r"about \d+ MB", str(finding))


def test_the_unlabelled_cells_are_no_label_of_their_own():
    adata = clean()
    with_first("cell_type", "Unknown")(adata)
    assert codes(validate(adata, **EVERY_KEY)) == {"unlabelled-cells"}


def test_columns_with_odd_names_are_read_like_any_other():
    adata = clean()
    for name in ("index", "_index", "__class__", "a/b,c\t#", "شريحة 🧬"):
        adata.obs[name] = adata.obs["sample"]
        assert list(validate(adata, batch_key=name)) == []
        adata.obs[name] = "lung"
        assert codes(validate(adata, batch_key=name)) == {"one-category"}


def test_a_name_of_ten_thousand_letters_is_shown_short():
    adata = clean()
    with_gene_names("G" * 10_000, "G" * 10_000)(adata)
    (finding,) = validate(adata).errors
    assert len(str(finding)) < 400


def test_other_objects_than_anndata_are_refused_with_advice(tmp_path):
    with pytest.raises(TypeError, match=r"given a str.*sca\.read\('atlas\.h5ad'\)"):
        validate("atlas.h5ad")
    with pytest.raises(TypeError, match=r"sca\.read"):
        validate(tmp_path / "atlas.h5ad")
    with pytest.raises(TypeError, match=r"given a ndarray.*anndata\.AnnData"):
        validate(np.ones((3, 2)))
    with pytest.raises(TypeError, match=r"batch_key takes names .*\['sample'\] is none"):
        validate(clean(), batch_key=["sample"])
    with pytest.raises(ValueError, match="expects='count'"):
        validate(clean(), expects="count")


# ------------------------------------------------------------------------------------------------------- the report


def test_findings_are_listed_errors_first_and_convert_to_a_table():
    adata = clean()
    all_of(with_X(without_row), with_value(np.nan), with_obs("sample", lambda old: old.cat.add_categories(["skin"])))(
        adata
    )
    findings = validate(adata, **EVERY_KEY)
    assert [finding.level for finding in findings] == ["error", "warning", "note"]
    assert list(findings.frame()["code"]) == ["nan-values", "empty-cells", "unused-categories"]
    assert findings.frame().columns[0] == "level"
    assert str(findings).splitlines()[0] == "1 error, 1 warning, 1 note"
    assert findings[1:] == Findings([*findings.warnings, *findings.notes])
    assert not findings.ok and findings.warnings.ok


def test_a_single_error_is_raised_as_its_own_message():
    adata = clean()
    with_value(-1)(adata)
    with pytest.raises(DataError, match=r"^X has 1 negative value"):
        validate(adata).raise_errors()


def test_no_finding_is_said_in_words():
    assert str(Findings()) == "no fault found"
    assert Findings().frame().empty
    Findings().raise_errors()


def test_names_in_the_data_cannot_run_in_the_browser():
    attack = "<img src=x onerror=alert(1)>"
    adata = clean()
    with_gene_names(attack, attack)(adata)
    all_of(with_first("sample", attack, None), with_value(np.nan, gene="CD4"))(adata)
    adata.obs_names = [attack, *adata.obs_names[1:]]
    adata.layers[attack] = faulty_values()
    for layer in (None, attack):
        findings = validate(adata, **(EVERY_KEY | {"labels_key": attack, "layer": layer}))
        html = findings._repr_html_()
        assert attack in str(findings)
        assert "<img" not in html and "&lt;img src=x onerror=alert(1)&gt;" in html
        tags = {tag.strip("</>").removesuffix(' scope="col"') for tag in re.findall(r"<[^>]*>", html)}
        assert tags == {"table", "caption", "thead", "tbody", "tr", "td", "th"}


def test_every_check_stands_in_a_table_so_that_it_runs():
    modules = [check_obs, check_values, sys.modules["scarches_widgets.data.validate"]]
    listed = {check.__name__ for table in (CHECKS, VALUE_CHECKS, CATEGORY_CHECKS) for check in table}
    named = {name for module in modules for name in vars(module) if name.startswith("check_")}
    assert named == listed | {"check_one_type"}


def test_every_code_of_the_package_is_tested():
    """By a fault in this file; or, if it is of data that few models take, in the tests of the file that finds it."""
    here = {fault.code for fault in FAULTS} | {"one-cell", "stored-by-gene", "many-categories", "malformed-matrix"}
    n_codes = 0
    for path in Path(check_obs.__file__).parent.glob("*.py"):
        codes = set(re.findall(r"\b(?:error|warning|note|found)\(\s*\"([a-z-]+)\"", path.read_text()))
        n_codes += len(codes)
        tests = Path(__file__).with_name(f"test_{path.stem}.py")
        there = set(re.findall(r"\"([a-z-]+)\"", tests.read_text())) if tests.exists() else set()
        assert codes <= here | there, path.name
    assert n_codes > 40


# ------------------------------------------------------------------------------------------------- planted at random


PLANTS = {
    "nan-values": np.nan,
    "infinite-values": -np.inf,
    "negative-values": -4,
    "fractional-values": 0.25,
    "nearly-whole-values": 1.0000001,
    "huge-counts": 1e6 + 1,
    "inexact-counts": 2.0**24 + 2,
}


@settings(max_examples=50, deadline=None)
@given(
    shape=st.tuples(st.integers(2, 9), st.integers(1, 7)),
    code=st.sampled_from(sorted(PLANTS)),
    container=st.sampled_from(sorted(set(CONTAINERS) - {"dense, memmap"})),
    block=st.integers(1, 20),
    data=st.data(),
)
def test_a_planted_value_is_found_wherever_it_is(shape, code, container, block, data):
    n_cells, n_genes = shape
    cell, gene = data.draw(st.integers(0, n_cells - 1)), data.draw(st.integers(0, n_genes - 1))
    counts = data.draw(st.lists(st.integers(0, 9), min_size=n_cells * n_genes, max_size=n_cells * n_genes))
    X = np.array(counts, np.float64).reshape(shape)
    X[cell, gene] = PLANTS[code]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scarches_widgets.data.matrix.VALUES_PER_BLOCK", block)
        X = CONTAINERS[container](X, None)
        findings = validate(ad.AnnData(X, obs=pd.DataFrame(index=[f"cell {i}" for i in range(n_cells)])))
    found: list[Finding] = [finding for finding in findings if finding.code == code]
    assert [finding.examples for finding in found] == [(f"cell 'cell {cell}', gene '{gene}'",)]
    assert codes(findings) <= {code, "empty-cells", "empty-genes"}
