"""What views of the same cells share: which cells are selected, and what they are coloured by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import traitlets

from ..data.names import DataError, did_you_mean, listed, shown
from .coloring import find_color

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from ..models.base import Model


NO_CELLS = np.zeros(0, dtype=np.int64)
NO_CELLS.setflags(write=False)


class CellIndices(traitlets.TraitType):
    """Positions of cells: int64, ascending, without repeats, read-only, and compared as a whole.

    Can be set with positions, a boolean mask or names of cells; whoever carries the trait has an `adata` (or None).
    """

    info_text = "positions of cells, a boolean mask or names of cells"

    default_value = NO_CELLS

    def validate(self, obj: Any, value: Any) -> np.ndarray:
        return positions_of(value, obj.adata)

    def set(self, obj: Any, value: Any) -> None:
        new = self._validate(obj, value)
        old = self.get(obj)
        if not np.array_equal(old, new):
            obj._trait_values[self.name] = new
            obj._notify_trait(self.name, old, new)


class CellsSelected:
    """What whoever has an `adata` and a `selection` says of the selected cells."""

    @property
    def obs_names(self) -> pd.Index:
        """Names of the selected cells."""
        return self._known.obs_names[self.selection]

    @property
    def mask(self) -> np.ndarray:
        """Which cells are selected, bool (cells,)."""
        mask = np.zeros(self._known.n_obs, dtype=bool)
        mask[self.selection] = True
        return mask

    @property
    def _known(self) -> AnnData:
        if self.adata is None:
            raise ValueError("There are no cells yet, so none can be named. Give `adata=` to the session or to a view.")
        return self.adata


class Session(CellsSelected, traitlets.HasTraits):
    """What views of one AnnData share: give the same session to several views, and they are linked.

    Parameters
    ----------
    selection
        Positions of the selected cells; can be set with a boolean mask or with names of cells too.
    color
        Column of `obs`, or gene, by which every view colours its cells; None: all alike.
    adata
        The cells. A session without any takes those of its first view.
    model
        The model that a view has loaded; None before.

    Examples
    --------
    >>> session = Session()
    >>> EmbeddingView(adata, "X_umap", session=session)
    >>> EmbeddingView(adata, "X_pca", session=session)
    >>> session.observe(lambda change: print(len(change["new"])), "selection")

    Notes
    -----
    A plain object with traits, without a screen: it can be observed and linked in scripts. Later views add what they
    share as further traits.
    """

    selection = CellIndices()
    color = traitlets.Unicode(None, allow_none=True)
    adata = traitlets.Any(None, allow_none=True)
    model = traitlets.Any(None, allow_none=True)

    def __init__(
        self, selection: Any = (), color: str | None = None, adata: AnnData | None = None, model: Model | None = None
    ):
        super().__init__(model=model)
        self.adata = adata
        self.color = color
        self.selection = selection

    def __repr__(self) -> str:
        cells = f"{self.adata.n_obs:,} cells" if self.adata is not None else "no cells yet"
        return f"Session({cells}, {len(self.selection):,} selected, color={self.color!r})"

    def adopt(self, adata: AnnData) -> None:
        """Take the cells of a view, or refuse the view if the session has others."""
        if self.adata is None:
            self.adata = adata
        elif self.adata is not adata:
            raise DataError(
                f"The session already has an AnnData ({self.adata.n_obs:,} cells), and what is selected in one would "
                f"mean nothing in another ({adata.n_obs:,} cells). Make a new `Session()` for it, or give its views "
                "`session.adata`."
            )

    @traitlets.validate("color")
    def _check_color(self, proposal: dict) -> str | None:
        if self.adata is not None:
            find_color(self.adata, proposal["value"])
        return proposal["value"]

    @traitlets.validate("adata")
    def _check_adata(self, proposal: dict) -> Any:
        adata = proposal["value"]
        if adata is not None:
            find_color(adata, self.color)
            positions_of(self.selection, adata)
        return adata


def positions_of(selection: Any, adata: AnnData | None) -> np.ndarray:
    """A selection as ascending int64 positions without repeats, read-only.

    Parameters
    ----------
    selection
        Positions (from 0), a boolean mask over all cells, or names of cells; None or empty for no cell.
    adata
        The cells; None if they are not known yet: then only positions can be checked, and only for their sign.
    """
    values = np.atleast_1d(np.asarray([] if selection is None else selection))
    if values.ndim != 1:
        raise DataError(f"A selection has one dimension, not {values.ndim}. Give positions, a mask or names of cells.")
    if values.size == 0:
        return NO_CELLS
    if values.dtype == bool or (values.dtype.kind == "O" and all(isinstance(v, bool | np.bool_) for v in values)):
        chosen = _where(values.astype(bool), adata)
    elif values.dtype.kind in "iu":
        chosen = _in_range(values, adata)
    elif values.dtype.kind in "OUST":
        chosen = _of_names(values, adata)
    else:
        raise DataError(
            f"A selection of {values.dtype} is neither positions nor names nor a mask. Convert it, for example with "
            "`np.flatnonzero(…)`."
        )
    chosen = np.array(chosen, dtype=np.int64)
    if (np.diff(chosen) <= 0).any():  # a mask's positions ascend already, and of many cells sorting takes long
        chosen = np.unique(chosen)
    chosen.setflags(write=False)
    return chosen


def _where(mask: np.ndarray, adata: AnnData | None) -> np.ndarray:
    if adata is not None and len(mask) != adata.n_obs:
        raise DataError(
            f"The mask has {len(mask):,} values, and there are {adata.n_obs:,} cells. Give one for each cell."
        )
    return np.flatnonzero(mask)


def _in_range(positions: np.ndarray, adata: AnnData | None) -> np.ndarray:
    wrong = positions < 0
    if adata is not None:
        wrong |= positions >= adata.n_obs
    if wrong.any():
        last = f"{adata.n_obs - 1:,}" if adata is not None else "the number of cells, less one"
        raise DataError(
            f"{int(wrong.sum()):,} of {len(positions):,} positions do not exist ({listed(positions[wrong])}). "
            f"They count from 0 to {last}."
        )
    return positions


def _of_names(names: np.ndarray, adata: AnnData | None) -> np.ndarray:
    if adata is None:
        raise DataError("The session has no cells yet, so names cannot be found. Give it `adata=` first.")
    found = adata.obs_names.isin(names)
    unknown = [name for name in names if name not in adata.obs_names]
    if unknown:
        raise DataError(
            f"{len(unknown):,} of {len(names):,} names are not in adata.obs_names ({listed(unknown)})."
            f"{did_you_mean(unknown[0], adata.obs_names[:10_000])} The first cell is '{shown(adata.obs_names[0])}'."
        )
    return np.flatnonzero(found)
