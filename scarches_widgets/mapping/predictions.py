"""Labels that one or several models have given to the same cells, and the one that they stand for together.

    support_i(label) = 1/M Σ_(m that gives i this label) (1 − uncertainty_mi)      over all M models
    uncertainty_i    = 1 − max support_i

With one model this is its own uncertainty; where all agree, the mean of theirs; where they differ, more than that. A
model that says "Unknown" supports no label. On equal support the first label in sorted order wins, as in `transfer`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..data.names import DataError, did_you_mean, listed, shown
from ..data.schema import as_text
from .transfer import UNKNOWN

if TYPE_CHECKING:
    from anndata import AnnData

CONSENSUS = "consensus"  # the label with the largest support
UNANIMOUS = "unanimous"  # the same, but Unknown wherever the models differ
MOST_LABELS = 2000
Models = Mapping[str, tuple[str, str]]


@dataclass(frozen=True, eq=False)
class Predictions:
    """What models say of the same cells.

    Attributes
    ----------
    models
        Name -> its columns of obs: labels, uncertainties.
    names
        Labels that occur, sorted, without `unknown`.
    codes
        Each model's labels, int32 (models, cells): positions in `names`, −1 for `unknown`.
    uncertainties
        Float64 (models, cells), from 0 (sure) to 1.
    """

    models: Models
    unknown: str
    names: tuple[str, ...]
    codes: np.ndarray = field(repr=False)
    uncertainties: np.ndarray = field(repr=False)

    @classmethod
    def of(cls, adata: AnnData, models: Models, unknown: str = UNKNOWN) -> Predictions:
        """Read columns of obs. A cell without a label is `unknown`.

        Raises
        ------
        DataError
            If columns are missing, uncertainties are not from 0 to 1, or there are more than 2,000 labels.
        """
        texts = [_labels(adata, labels, unknown) for labels, _ in models.values()]
        names = tuple(sorted(set().union(*map(set, texts)) - {unknown}))
        if len(names) > MOST_LABELS:
            raise DataError(
                f"{listed(labels for labels, _ in models.values())} hold {len(names):,} different labels, more than "
                f"the {MOST_LABELS:,} that can be reviewed. Are they cell names? Choose a column of cell types."
            )
        index = pd.Index(names, dtype=object)
        codes = np.stack([index.get_indexer(text) for text in texts]).astype(np.int32)
        pairs = zip(models.values(), codes)
        values = [_uncertainties(adata, column, known >= 0) for (_, column), known in pairs]
        return cls(dict(models), unknown, names, codes, np.stack(values))

    @property
    def ways(self) -> tuple[str, ...]:
        """By what labels can be decided: a model's name, and with several models "consensus" or "unanimous"."""
        return (*self.models, *((CONSENSUS, UNANIMOUS) if len(self.models) > 1 else ()))

    @property
    def differ(self) -> np.ndarray:
        """Where not all models say the same, bool (cells,)."""
        return (self.codes != self.codes[0]).any(axis=0)

    def decided(self, by: str) -> tuple[np.ndarray, np.ndarray]:
        """Labels, int32 codes (cells,), and their uncertainties, float64 (cells,)."""
        if by in self.models:
            i = list(self.models).index(by)
            return self.codes[i], self.uncertainties[i]
        sure, best, winners = 1 - self.uncertainties, np.zeros(self.codes.shape[1]), self.codes.max(axis=0)
        for codes in self.codes:
            support = np.where(self.codes == codes, sure, 0).mean(axis=0)
            wins = (codes >= 0) & ((support > best) | ((support == best) & (codes < winners)))
            best, winners = np.where(wins, support, best), np.where(wins, codes, winners)
        return winners.astype(np.int32), np.clip(1 - best, 0, 1)

    def agreement(self) -> pd.DataFrame:
        """Share of cells to which two models give the same label; models × models, 0 to 1."""
        shares = (self.codes[:, None] == self.codes[None]).mean(axis=2)
        return pd.DataFrame(shares, index=list(self.models), columns=list(self.models))

    def digest(self, obs_names: Iterable[str]) -> str:
        """A short text that changes with any label or uncertainty of a cell, but not with the order of the cells."""
        names = np.array([*self.names, self.unknown], dtype=object)
        values = {2 * i: names[codes] for i, codes in enumerate(self.codes)}
        values |= {2 * i + 1: uncertainty for i, uncertainty in enumerate(self.uncertainties)}
        rows = pd.util.hash_pandas_object(pd.DataFrame(values, index=pd.Index(obs_names, dtype=object)), index=True)
        return f"{int(rows.to_numpy().sum(dtype=np.uint64)):016x}"


def models_of(adata: AnnData, models: str | Iterable[str] | Models | None = None) -> dict[str, tuple[str, str]]:
    """Which columns of obs hold labels and their uncertainties: those named, or all that are found.

    Parameters
    ----------
    models
        Name -> (column of labels, column of uncertainties); or columns of labels, if those of uncertainties are called
        as this package and scArches call them: "predicted_x" and "uncertainty_x", "classified_x" and
        "classified_uncertainty_x", "x_label" and "x_uncert", "x" and "x_uncertainty". None: all such pairs.

    Raises
    ------
    DataError
        If there is none, or a column has no uncertainties beside it.
    """
    columns = [name for name in adata.obs.columns if isinstance(name, str)]
    if models is None:
        found = {name: (name, beside) for name in columns if (beside := _beside(name, columns))}
        if not found:
            raise DataError(
                f"obs has no labels with uncertainties beside them (it has {listed(columns, 10) or 'no columns'}). Map "
                "the query first, or name the columns: models={'a model': ('its labels', 'its uncertainties')}."
            )
        return found
    if isinstance(models, Mapping):
        return {str(name): (str(labels), str(uncertainty)) for name, (labels, uncertainty) in models.items()}
    named = [models] if isinstance(models, str) else list(models)
    if not named:
        raise TypeError("models is empty: name one or more columns of labels, or leave it out.")
    found = {}
    for name in named:
        if name not in columns:
            raise DataError(f"obs has no column '{shown(name)}'.{did_you_mean(name, columns)}")
        if (beside := _beside(name, columns)) is None:
            raise DataError(
                f"No uncertainties were found beside obs['{shown(name)}']. Name their column too: "
                f"models={{{name!r}: ({name!r}, 'its uncertainties')}}."
            )
        found[name] = (name, beside)
    return found


def _beside(name: str, columns: Iterable[str]) -> str | None:
    """The column of uncertainties that belongs to one of labels."""
    candidates = [f"{name}_uncertainty"]
    for begin, other in (("predicted", "uncertainty"), ("classified", "classified_uncertainty")):
        if name == begin or (name.startswith(f"{begin}_") and not name.startswith(f"{other}_") and name != other):
            candidates.append(other + name.removeprefix(begin))
    if name.endswith("_label"):
        candidates.append(name.removesuffix("_label") + "_uncert")
    return next((one for one in candidates if one in columns), None)


def _column(adata: AnnData, name: str) -> pd.Series:
    if name not in adata.obs:
        raise DataError(f"obs has no column '{shown(name)}'.{did_you_mean(name, adata.obs.columns)}")
    return adata.obs[name]


def _labels(adata: AnnData, name: str, unknown: str) -> np.ndarray:
    """As text, object (cells,)."""
    column = _column(adata, name)
    if pd.api.types.is_float_dtype(column):
        raise DataError(f"obs['{shown(name)}'] holds continuous numbers, not labels. Name a column of classes.")
    text = as_text(column)
    return np.where(pd.isna(text) | (text == ""), unknown, text)


def _uncertainties(adata: AnnData, name: str, labelled: np.ndarray) -> np.ndarray:
    """Float64 (cells,); 1 where there is neither a label nor an uncertainty."""
    column = _column(adata, name)
    if not pd.api.types.is_numeric_dtype(column):
        raise DataError(f"obs['{shown(name)}'] holds no numbers, so it is no uncertainty. Name a column from 0 to 1.")
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    values = np.where(np.isnan(values) & ~labelled, 1.0, values)
    wrong = ~((values >= 0) & (values <= 1))
    if wrong.any():
        raise DataError(
            f"{int(wrong.sum()):,} of {len(values):,} values of obs['{shown(name)}'] are not from 0 to 1 "
            f"({listed(values[wrong])}), so they are no uncertainties. Of probabilities take 1 − p; leave cells out "
            f"that were not labelled: `query[query.obs[{name!r}].notna()]`."
        )
    return values
