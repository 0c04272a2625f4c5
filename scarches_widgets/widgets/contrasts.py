"""What gene programs are ranked by: how much they vary, or what tells two groups of cells apart; as a table, and as the
code of that table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..data.names import DataError, did_you_mean, listed, shown
from ..data.schema import as_text
from .cell_view import code_of_cells

if TYPE_CHECKING:
    from anndata import AnnData

MOST_GROUPS = 500  # of a column, in a menu
ALL_OTHERS = "all others"


@dataclass(frozen=True, eq=False)
class Contrast:
    """Two groups of cells to compare.

    Attributes
    ----------
    first, second
        Names of the groups.
    here, there
        Their cells, bool (cells,).
    here_code, there_code
        Expressions for those, in terms of `adata`; None for the second: all cells that are not in the first.
    column
        The column of obs from which the groups are; None: they were selected.
    """

    first: str
    second: str
    here: np.ndarray
    there: np.ndarray
    here_code: str
    there_code: str | None
    column: str | None = None

    @classmethod
    def of_groups(cls, adata: AnnData, column: str, group: str, comparison: str | None = None) -> Contrast:
        """Two groups of a column, or one (`comparison=None`) against all other cells.

        Raises
        ------
        DataError
            If there is no such column or group.
        """
        if column not in adata.obs:
            near = did_you_mean(column, adata.obs.columns)
            raise DataError(f"obs has no column '{shown(column)}' to take groups from.{near}")
        names = as_text(adata.obs[column])
        here = _group(names, column, group)
        code = _code_of_group(adata, column, here)
        if comparison is None:
            return cls(group, _another(ALL_OTHERS, group), here, _rest(here, group), code, None, column)
        if comparison == group:
            raise DataError(f"'{shown(group)}' cannot be compared to itself. Choose another group.")
        there = _group(names, column, comparison)
        return cls(group, comparison, here, there, code, _code_of_group(adata, column, there), column)

    @classmethod
    def of_cells(cls, a: np.ndarray, b: np.ndarray | None = None) -> Contrast:
        """Two selections, bool (cells,), or one against all other cells."""
        if b is None:
            return cls("A", ALL_OTHERS, a, _rest(a, "A"), code_of_cells(a), None)
        if n := int((a & b).sum()):
            raise DataError(f"{n:,} cells are in A as well as in B. Select two groups that share none.")
        return cls("A", "B", a, b, code_of_cells(a), code_of_cells(b))

    @property
    def groups(self) -> dict[str, np.ndarray]:
        """As `latent_enrich` takes them."""
        return {self.first: self.here, self.second: self.there}

    @property
    def title(self) -> str:
        return f"{shown(self.first)} against {shown(self.second)}" + (f" ({shown(self.column)})" if self.column else "")

    def table(self, model, adata: AnnData, reading: Mapping[str, str]) -> pd.DataFrame:
        """What `model.latent_enrich` says of the two, the largest Bayes factors first."""
        return model.latent_enrich(self.groups, comparison=self.second, adata=adata, **reading)

    def code(self, reading: Mapping[str, str]) -> list[str]:
        """Lines that make `table`."""
        there = "~here" if self.there_code is None else "there"
        return [
            *_lines_of_mask("here", self.here_code),
            *([] if self.there_code is None else _lines_of_mask("there", self.there_code)),
            f"groups = {{{self.first!r}: here, {self.second!r}: {there}}}",
            f"table = model.latent_enrich(groups, comparison={self.second!r}, adata=adata{as_options(reading)})",
        ]


@dataclass(frozen=True)
class Filters:
    """Which programs are listed; see `GenePrograms`."""

    search: str
    gene: str
    least_genes: int
    with_switched_off: bool

    def kept(self, table: pd.DataFrame, model) -> pd.DataFrame:
        """The rows of these programs, with a column `genes`: how many each is annotated with."""
        annotated = model.mask_genes()
        table = table.assign(genes=table["term"].map({term: len(genes) for term, genes in annotated.items()}))
        table = table[table["genes"] >= self.least_genes]
        if not self.with_switched_off:
            table = table[table["term"].isin(np.array(model.terms, dtype=object)[model.nonzero_terms()])]
        if self.search:
            table = table[table["term"].str.contains(self.search, case=False, regex=False)]
        if self.gene:
            table = table[[self.gene in annotated[term] for term in table["term"]]]
        return table.reset_index(drop=True)

    def code(self) -> list[str]:
        """Lines that make `kept` of `table`."""
        lines = [
            "annotated = model.mask_genes()",
            'table["genes"] = table["term"].map({term: len(genes) for term, genes in annotated.items()})',
        ]
        if self.least_genes:
            lines.append(f'table = table[table["genes"] >= {self.least_genes}]')
        if not self.with_switched_off:
            lines.append("active = np.array(model.terms, dtype=object)[model.nonzero_terms()]")
            lines.append('table = table[table["term"].isin(active)]')
        if self.search:
            lines.append(f'table = table[table["term"].str.contains({self.search!r}, case=False, regex=False)]')
        if self.gene:
            lines.append(f'table = table[[{self.gene!r} in annotated[term] for term in table["term"]]]')
        return [*lines, "table = table.reset_index(drop=True)"]


def as_options(reading: Mapping[str, str]) -> str:
    """As further arguments of a call."""
    return "".join(f", {name}={value!r}" for name, value in reading.items())


def groupings_of(adata: AnnData) -> dict[str, list[str]]:
    """Columns of obs that make from 2 to 500 groups, and their groups in the order of the categories."""
    groupings = {}
    for name in adata.obs.columns:
        column = adata.obs[name]
        if not isinstance(name, str) or isinstance(column, pd.DataFrame) or pd.api.types.is_float_dtype(column):
            continue
        try:
            levels = pd.unique(as_text(column.cat.categories.to_series() if _is_categorical(column) else column))
            present = set(as_text(column))
        except TypeError:  # lists and the like
            continue
        levels = [str(level) for level in levels if level == level and level in present]
        if 2 <= len(levels) <= MOST_GROUPS:
            groupings[name] = levels if _is_categorical(column) else sorted(levels)
    return groupings


def activities(model, scores: pd.DataFrame) -> pd.DataFrame:
    """The programs, those that vary most first: `term`, `activity` (standard deviation among the cells), `mean`."""
    table = {"term": model.terms, "activity": scores.std(ddof=0).to_numpy(), "mean": scores.mean().to_numpy()}
    return pd.DataFrame(table).sort_values("activity", ascending=False, kind="stable")


ACTIVITY_CODE = [
    'table = {"term": model.terms, "activity": scores.std(ddof=0).to_numpy(), "mean": scores.mean().to_numpy()}',
    'table = pd.DataFrame(table).sort_values("activity", ascending=False, kind="stable")',
]


def _is_categorical(column: pd.Series) -> bool:
    return isinstance(column.dtype, pd.CategoricalDtype)


def _group(names: np.ndarray, column: str, group: str) -> np.ndarray:
    mask = names == group
    if not mask.any():
        there = sorted({name for name in names if name == name})
        raise DataError(
            f"obs['{shown(column)}'] has no group '{shown(group)}'.{did_you_mean(group, there)} The groups: "
            f"{listed(there, 20)}."
        )
    return mask


def _rest(mask: np.ndarray, name: str) -> np.ndarray:
    if mask.all():
        raise DataError(f"'{shown(name)}' has all cells, so there are no others to compare it to.")
    return ~mask


def _another(name: str, taken: str) -> str:
    return name if name != taken else f"{name} (2)"


def _code_of_group(adata: AnnData, column: str, mask: np.ndarray) -> str:
    """By the values of the column where Python can write them, else by the cells."""
    values = adata.obs[column][mask].astype(object).unique().tolist()
    if all(isinstance(value, str | int | bool) for value in values):
        return f"adata.obs[{column!r}].isin({values!r}).to_numpy()"
    return code_of_cells(mask)


def _lines_of_mask(name: str, code: str) -> list[str]:
    if not code.startswith("["):
        return [f"{name} = {code}"]
    return [f"{name} = np.isin(np.arange(adata.n_obs), {code})"]
