"""What cells are coloured by: a column of obs or a gene, as compact values and the colours that they stand for."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..data.names import DataError, did_you_mean, listed, shown
from ..mapping.pictures import COLOURS, NO_VALUE, palette

if TYPE_CHECKING:
    from anndata import AnnData

MOST_CATEGORIES = 1000  # more make no legend
NO_VALUE_NAME = "no value"


@dataclass(frozen=True)
class Coloring:
    """How the cells are coloured.

    Attributes
    ----------
    kind
        "none": all alike. "categories": `values` are codes into `names` and `colours`. "numbers": `values` are numbers
        between `low` and `high`, on the scale `colours`; NaN where there is none.
    key
        The column or gene; None for "none".
    label
        The key in words.
    values
        uint8, uint16 or float32, (cells,); empty for "none".
    has_missing
        The last of the categories stands for cells without a value.
    originals
        The categories as they are in the AnnData; empty if they are not what `names` says, but lists, say.
    """

    kind: str = "none"
    key: str | None = None
    label: str = ""
    values: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.uint8))
    names: tuple[str, ...] = ()
    colours: tuple[str, ...] = (COLOURS[0],)
    has_missing: bool = False
    low: float = 0.0
    high: float = 1.0
    note: str = ""
    originals: tuple = ()

    def for_page(self, with_values: bool = True) -> dict[str, Any]:
        """As a message: plain values, and little-endian bytes (none without `with_values`)."""
        shown_ = {name: getattr(self, name) for name in ("kind", "key", "label", "has_missing", "low", "high", "note")}
        values = self.values if with_values else self.values[:0]
        return {
            **shown_,
            "names": list(self.names),
            "colours": list(self.colours),
            "dtype": values.dtype.name,
            "values": values.astype(values.dtype.newbyteorder("<")).tobytes(),
        }

    def between(self, low: float | None, high: float | None) -> np.ndarray:
        """Which cells have a number from low to high, bool (cells,); None: however low, or high."""
        with np.errstate(invalid="ignore"):
            return (self.values >= (-np.inf if low is None else low)) & (
                self.values <= (np.inf if high is None else high)
            )

    def tally(self, selected: np.ndarray) -> dict[str, Any]:
        """Counts of cells by category, or what numbers they have; of all, and of the selected."""
        if self.kind == "categories":
            n = len(self.names)
            all_, chosen = (np.bincount(codes, minlength=n) for codes in (self.values, self.values[selected]))
            return {"all": all_.tolist(), "selected": chosen.tolist()}
        if self.kind == "numbers":
            return {"all": _summary(self.values), "selected": _summary(self.values[selected])}
        return {}


def _summary(values: np.ndarray) -> dict[str, float | None]:
    """Of finite numbers; in the order in which a table shows them."""
    values = values[np.isfinite(values)]
    if not len(values):
        return {"n": 0, "min": None, "median": None, "mean": None, "max": None}
    facts = values.min(), np.median(values), values.mean(dtype=np.float64), values.max()
    return {"n": len(values), **dict(zip(("min", "median", "mean", "max"), map(float, facts)))}


def find_color(adata: AnnData, color: str | None) -> str | None:
    """Where `color` is: "obs" or "gene" (obs first, as in scanpy), None for None.

    Raises
    ------
    DataError
        It is neither, it is there twice, or it has too many categories for a legend.
    """
    if color is None:
        return None
    if color in adata.obs.columns:
        _check_column(adata, color)
        return "obs"
    if color in adata.var_names:
        if (count := int((adata.var_names == color).sum())) > 1:
            raise DataError(
                f"'{shown(color)}' is the name of {count} genes, so it is not clear which is meant. Call "
                "`adata.var_names_make_unique()` first."
            )
        return "gene"
    near = did_you_mean(color, [*adata.obs.columns, *adata.var_names])
    raise DataError(
        f"'{shown(color)}' is neither a column of adata.obs nor a gene of adata.var_names.{near} The columns are: "
        f"{listed(adata.obs.columns, 20) or 'none'}."
    )


def columns_of(adata: AnnData) -> list[str]:
    """Columns of obs by which cells can be coloured."""
    return [str(name) for name in adata.obs.columns if isinstance(name, str) and _is_usable(adata, name)]


def coloring_of(adata: AnnData, color: str | None) -> Coloring:
    """The colours of all cells. The AnnData is not changed; `uns["<column>_colors"]` is used if it fits."""
    where = find_color(adata, color)
    if where is None:
        return Coloring()
    if where == "gene":
        # as X holds them: whether these are counts or logarithms, only the user knows
        return numbers_coloring(color, f"{color}, as in X", gene_values(adata, color))
    column = adata.obs[color]
    if is_numeric(column):
        return numbers_coloring(color, color, column.to_numpy(dtype=np.float32, na_value=np.nan))
    return _categories(color, column, adata.uns.get(f"{color}_colors"))


def gene_values(adata: AnnData, gene: str) -> np.ndarray:
    """One gene's values in X, float32 (cells,), from a matrix of any kind."""
    column = adata[:, [adata.var_names.get_loc(gene)]].X
    if hasattr(column, "compute"):
        column = column.compute()
    if hasattr(column, "toarray"):
        column = column.toarray()
    return np.asarray(column, dtype=np.float32).reshape(-1)


def _check_column(adata: AnnData, name: str) -> None:
    column = adata.obs[name]
    if isinstance(column, pd.DataFrame):
        raise DataError(f"adata.obs has {column.shape[1]} columns called '{shown(name)}'. Rename one of them.")
    if not is_numeric(column) and (n := _n_categories(column)) > MOST_CATEGORIES:
        raise DataError(
            f"obs['{shown(name)}'] has {n:,} different values, more than the {MOST_CATEGORIES:,} that a legend can "
            "list. Colour by a coarser column."
        )


def _is_usable(adata: AnnData, name: str) -> bool:
    try:
        _check_column(adata, name)
    except DataError:
        return False
    return True


def is_numeric(column: pd.Series) -> bool:
    """Whether a column is shown on a scale."""
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _n_categories(column: pd.Series) -> int:
    if isinstance(column.dtype, pd.CategoricalDtype):
        return len(column.cat.categories)
    try:
        return column.nunique()
    except TypeError:  # lists and the like
        return column.astype(str).nunique()


def numbers_coloring(key: str | None, label: str, values: np.ndarray) -> Coloring:
    """A scale from the smallest to the largest of some numbers, float (cells,)."""
    from bokeh.palettes import Cividis256

    finite = np.isfinite(values)
    missing = int((~finite).sum())
    low, high = (float(values[finite].min()), float(values[finite].max())) if finite.any() else (0.0, 1.0)
    return Coloring(
        kind="numbers",
        key=key,
        label=label,
        values=np.where(finite, values, np.float32(np.nan)).astype(np.float32),
        colours=tuple(Cividis256),
        has_missing=missing > 0,
        low=low,
        high=high,
        note=f"{missing:,} cells have no finite value and are grey." if missing else "",
    )


def _categories(key: str, column: pd.Series, stored_colours: Any) -> Coloring:
    are_originals = pd.api.types.infer_dtype(column, skipna=True) in ("categorical", "string", "boolean")
    if not isinstance(column.dtype, pd.CategoricalDtype):
        text = column if pd.api.types.is_bool_dtype(column) else column.where(column.isna(), column.astype(str))
        column = text.astype(pd.CategoricalDtype(sorted(text.dropna().unique(), key=_natural)))
    categories = column.cat.categories
    names = [str(name) for name in categories]
    colours = _valid_colours(stored_colours, len(names)) or palette(len(names))
    note = ""
    if len(set(colours)) < len(colours):
        note = f"{len(colours)} categories share {len(set(colours))} colours; the list tells them apart by name."
    codes = column.cat.codes.to_numpy().astype(np.int64)
    has_missing = bool((codes < 0).any())
    if has_missing:
        codes = np.where(codes < 0, len(names), codes)
        names, colours = [*names, NO_VALUE_NAME], [*colours, NO_VALUE]
    dtype = np.uint8 if len(names) <= 256 else np.uint16
    return Coloring(
        kind="categories",
        key=key,
        label=key,
        values=codes.astype(dtype),
        names=tuple(names),
        colours=tuple(colours),
        has_missing=has_missing,
        note=note,
        originals=tuple(categories) if are_originals else (),
    )


def _valid_colours(stored: Any, n: int) -> list[str] | None:
    """scanpy's colours as `#rrggbb`, if there is one for each category and matplotlib knows each."""
    from matplotlib.colors import to_hex

    try:
        colours = [to_hex(tuple(one) if isinstance(one, np.ndarray) else one) for one in list(stored)[:n]]
    except (TypeError, ValueError):
        return None
    return colours if len(colours) == n else None


def _natural(name: Any) -> list:
    """Sorts cluster 2 before cluster 10."""
    return [(int(part), "") if part.isdigit() else (-1, part.casefold()) for part in re.split(r"(\d+)", str(name))]
