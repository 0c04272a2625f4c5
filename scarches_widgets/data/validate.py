"""Every fault of an AnnData that would spoil a model, found in one pass and reported at once.

    validate(adata, batch_key="batch").raise_errors()

A check is a small function that yields a `Finding` for each fault it sees. To add one, write it and name it in the
table of its kind; nothing else changes:

    CHECKS           here             (asked)              anything about the AnnData in the request
    VALUE_CHECKS     check_values.py  (asked, scan)        the values, by what one pass over all of them counted
    CATEGORY_CHECKS  check_obs.py     (asked, categories)  a column of batches, labels or another categorical covariate
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import pandas as pd

from .check_obs import (
    check_categorical,
    check_cell_names,
    check_continuous,
    check_gene_names,
    check_keys,
    check_shape,
    check_size_factors,
)
from .check_values import VALUE_CHECKS
from .counts import find_counts
from .findings import Finding, Findings, error
from .matrix import Unreadable, layer_names, matrix_of, where_is
from .names import did_you_mean, listed, shown
from .scan import Scan

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True)
class Request:
    """The arguments of `validate`, as every check receives them."""

    adata: AnnData
    batch_key: str | None
    labels_key: str | None
    layer: str | None
    size_factor_key: str | None
    categorical_covariate_keys: tuple[str, ...]
    continuous_covariate_keys: tuple[str, ...]
    unlabeled_category: str | None
    expects: Literal["counts", "normalized", "any"]
    for_training: bool

    @property
    def where(self) -> str:
        """The matrix to read, as messages call it."""
        return where_is(self.layer)

    @property
    def keys(self) -> list[tuple[str, str]]:
        """Each argument that names a column of obs, and the column."""
        one = [(argument, getattr(self, argument)) for argument in ("batch_key", "labels_key", "size_factor_key")]
        several = ("categorical_covariate_keys", "continuous_covariate_keys")
        more = [(argument, key) for argument in several for key in getattr(self, argument)]
        return [(argument, key) for argument, key in [*one, *more] if key is not None]

    def columns(self, argument: str) -> list[pd.Series]:
        """The columns of obs that an argument names, as far as they exist."""
        obs = self.adata.obs
        keys = dict.fromkeys(key for named_by, key in self.keys if named_by == argument)
        return [obs[key] for key in keys if list(obs.columns).count(key) == 1]

    @cached_property
    def counts_elsewhere(self) -> str:
        """How to read counts from another matrix of this AnnData; empty if there are none."""
        return find_counts(self.adata, self.layer)


def validate(
    adata: AnnData,
    *,
    batch_key: str | None = None,
    labels_key: str | None = None,
    layer: str | None = None,
    size_factor_key: str | None = None,
    categorical_covariate_keys: Iterable[str] | None = (),
    continuous_covariate_keys: Iterable[str] | None = (),
    unlabeled_category: str | None = None,
    expects: Literal["counts", "normalized", "any"] = "counts",
    for_training: bool = True,
) -> Findings:
    """Look at all of the data for faults that would spoil a model, and report every one of them.

    Every value is read once; memory stays bounded whatever the size of the matrix; the AnnData is not modified.

    Parameters
    ----------
    adata
        Cells × genes. X may be dense, CSR, CSC, dask, or in a file (backed); a view is fine.
    batch_key, labels_key
        Columns of `adata.obs` with the experimental batch and the cell type.
    layer
        Layer to read in place of X.
    size_factor_key
        Column of `adata.obs` with a positive number per cell.
    categorical_covariate_keys, continuous_covariate_keys
        Further columns of `adata.obs` that the model conditions on.
    unlabeled_category
        Label of the cells whose type is not known, such as `"Unknown"`.
    expects
        `"counts"`: raw counts, whole numbers ≥ 0. `"normalized"`: log-normalised values, ≥ 0, for a squared error.
        `"any"`: any finite numbers, for a normal likelihood.
    for_training
        False where a fitted model only looks at the cells: a single cell, batch or label is then no fault.

    Returns
    -------
    Every finding, errors first. `findings.ok` says whether work can start, `findings.raise_errors()` stops if not.

    Raises
    ------
    TypeError
        If `adata` is not an AnnData, or a key not a name.

    Examples
    --------
    >>> findings = sca.validate(adata, batch_key="batch", labels_key="cell_type")  # doctest: +SKIP
    >>> findings.frame()[["level", "where", "what"]]  # doctest: +SKIP
    """
    _refuse_other_than_anndata(adata)
    if expects not in ("counts", "normalized", "any"):
        raise ValueError(f"expects={expects!r} is not known. Pass 'counts', 'normalized' or 'any'.")
    categorical, continuous = _as_keys(categorical_covariate_keys), _as_keys(continuous_covariate_keys)
    unlabeled = None if unlabeled_category is None else str(unlabeled_category)
    asked = Request(
        adata, batch_key, labels_key, layer, size_factor_key, categorical, continuous, unlabeled, expects, for_training
    )
    for argument, key in asked.keys:
        if not isinstance(key, Hashable):
            raise TypeError(f"{argument} takes names of columns in adata.obs, one for each; {key!r} is none.")
    return Findings(finding for check in CHECKS for finding in check(asked))


def _refuse_other_than_anndata(adata: object) -> None:
    from anndata import AnnData

    if isinstance(adata, AnnData):
        return
    if isinstance(adata, str) or hasattr(adata, "__fspath__"):
        mend = f"Read the file first: sca.validate(sca.read({str(adata)!r}), …)."
    elif hasattr(adata, "mod"):
        mend = f"Pass one modality, such as mdata['{next(iter(adata.mod), 'rna')}']."
    else:
        mend = "Wrap the matrix: anndata.AnnData(X, obs=…, var=…)."
    raise TypeError(f"validate() looks at an AnnData and was given a {type(adata).__name__}. {mend}")


def _as_keys(keys: Iterable[str] | None) -> tuple[str, ...]:
    """A tuple of column names; one name alone stands for itself, not for its letters."""
    return (keys,) if isinstance(keys, str) else tuple(keys or ())


def check_matrix(asked: Request) -> Iterator[Finding]:
    """All that concerns the matrix: found, readable, and its values as the model expects them."""
    layers = layer_names(asked.adata)
    if asked.layer is not None and asked.layer not in layers:
        yield error("missing-layer", asked.where)(
            f"adata has no layer '{shown(asked.layer)}'.{did_you_mean(asked.layer, layers)}",
            f"Its layers: {listed(layers, limit=10)}." if layers else "It has no layers at all.",
            "Pass layer= with one of them." if layers else "Leave `layer` out to read adata.X.",
        )
        return
    matrix = matrix_of(asked.adata, asked.layer)
    if matrix.stored is None:
        mend = asked.counts_elsewhere or "Pass the layer that holds the counts as layer=."
        yield error("no-matrix", "X")("adata.X is empty (None).", "There is nothing to read in it.", mend)
    elif 0 not in asked.adata.shape:
        try:
            scan = Scan(matrix, asked.adata.shape, asked.expects)
        except Unreadable as unreadable:
            yield from unreadable.args
            return
        for check in VALUE_CHECKS:
            yield from check(asked, scan)


CHECKS: tuple[Callable[[Request], Iterator[Finding]], ...] = (
    check_shape,
    check_gene_names,
    check_cell_names,
    check_matrix,
    check_keys,
    check_categorical,
    check_continuous,
    check_size_factors,
)
