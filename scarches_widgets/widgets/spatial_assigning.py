"""Names given by hand to cells, in columns of obs, and taken back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..data.names import DataError, shown

if TYPE_CHECKING:
    from anndata import AnnData

MOST_STEPS = 20  # that can be taken back


@dataclass(frozen=True)
class Step:
    """One assignment: `former` is the column before it, None if there was none; `line` makes it again."""

    column: str
    name: str
    former: pd.Series | None
    written: pd.Series
    line: str


class Assignments:
    """Assigns names to cells of an AnnData, and takes the last ones back."""

    def __init__(self, adata: AnnData):
        self._adata = adata
        self._steps: list[Step] = []
        self._lines: list[str] = []  # Python for each assignment that holds

    @property
    def last(self) -> Step | None:
        """What `undo` takes back."""
        return self._steps[-1] if self._steps else None

    def assign(self, column: str, name: str, mask: np.ndarray) -> Step:
        """Write a name into a column for the cells of a mask, bool (cells,); the others keep what they have.

        Raises
        ------
        DataError
            If the mask is empty, a name is empty, or the column holds numbers.
        """
        column, name = str(column).strip(), str(name).strip()
        obs = self._adata.obs
        if not column or not name:
            raise DataError("A column and a name are needed. Fill in both.")
        if not mask.any():
            raise DataError("No cell is selected. Draw around some, or choose a group in the list.")
        if column in obs and (pd.api.types.is_numeric_dtype(obs[column]) or isinstance(obs[column], pd.DataFrame)):
            raise DataError(f"obs['{shown(column)}'] holds numbers, not groups. Take another column.")
        former = obs[column].copy() if column in obs else None
        before = pd.Series(None, index=obs.index, dtype=object) if former is None else former
        values = before.astype(object).where(~mask, name)
        names = before.cat.categories if isinstance(before.dtype, pd.CategoricalDtype) else sorted(set(before.dropna()))
        self._adata.obs[column] = pd.Categorical(values, categories=[*names, *([] if name in names else [name])])
        line = f"mapper.assign({column!r}, {name!r}, {np.flatnonzero(mask).tolist()!r})"
        self._lines.append(line)
        self._steps = [*self._steps, Step(column, name, former, self._adata.obs[column].copy(), line)][-MOST_STEPS:]
        return self._steps[-1]

    def undo(self) -> Step:
        """Make the column of the last assignment what it was before, or take it away if there was none.

        Raises
        ------
        RuntimeError
            If there is nothing to take back.
        DataError
            If the column has been changed since; it stays as it is.
        """
        if not self._steps:
            raise RuntimeError("Nothing has been assigned, so there is nothing to take back.")
        step = self._steps.pop()
        obs = self._adata.obs
        if step.column not in obs or not obs[step.column].equals(step.written):
            raise DataError(
                f"obs['{shown(step.column)}'] has been changed since '{shown(step.name)}' was assigned, so it is left "
                "as it is. Change it in Python."
            )
        if step.former is None:
            del obs[step.column]
        else:
            obs[step.column] = step.former
        self._lines.remove(step.line)
        return step

    def code(self) -> list[str]:
        """Lines that assign the same names again by a `mapper`."""
        return list(self._lines)
