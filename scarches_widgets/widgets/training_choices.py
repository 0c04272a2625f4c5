"""What the form of a training lets choose: matrices, tables, columns and levels of the cells, and devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from ..data.matrix import layer_names, matrix_of, where_is
from ..data.names import shown
from .form import Choice, as_entry

if TYPE_CHECKING:
    from anndata import AnnData

SAYS_UNLABELED = {"unknown", "unlabeled", "unlabelled", "unassigned", "notassigned", "unclassified", "nan", "na"}
MANY_LEVELS = 100  # of a column whose levels are offered as the unlabelled category


def levels_of(adata: AnnData | None) -> list[Choice]:
    """Every name that might stand for "not labelled", those that say so first."""
    found = {}
    for name in () if adata is None else adata.obs.columns:
        column = adata.obs[name]
        if isinstance(column, pd.Series) and not pd.api.types.is_numeric_dtype(column):
            levels = pd.unique(column.dropna().astype(str))
            found |= {level: name for level in levels if len(levels) <= MANY_LEVELS and as_entry(level) == level}
    unlabelled = [level for level in found if "".join(filter(str.isalpha, level)).casefold() in SAYS_UNLABELED]
    others = [Choice(level, shown(level), f"Levels of {shown(found[level])}") for level in sorted(found)]
    return [
        Choice(None, "none: all are labels"),
        *(Choice(level, shown(level)) for level in unlabelled),
        *(choice for choice in others if choice.value not in unlabelled),
    ]


def matrices(adata: AnnData) -> list[Choice]:
    """X and the layers, each with the type of its values."""
    types = {name: getattr(matrix_of(adata, name).stored, "dtype", None) for name in (None, *layer_names(adata))}
    return [Choice(name, where_is(name) + (f", {dtype}" if dtype else "")) for name, dtype in types.items()]


def tables(adata: AnnData | None) -> list[Choice]:
    """The tables in obsm whose columns have names."""
    found = {} if adata is None else {key: value for key, value in adata.obsm.items() if hasattr(value, "columns")}
    choices = (Choice(key, f"{shown(key)}, {len(table.columns)} columns") for key, table in found.items())
    return [Choice(None, "the only one"), *choices]


def columns_of_var(adata: AnnData | None) -> list[Choice]:
    """The columns of var that are no numbers."""
    columns = () if adata is None else adata.var.select_dtypes(exclude="number").columns
    return [Choice(None, "modality"), *(Choice(name, shown(name)) for name in map(str, columns))]


def devices() -> list[str]:
    """What a run can be computed on here."""
    import torch

    found = ["auto", "cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    return [*found, "mps"] if torch.backends.mps.is_available() else found
