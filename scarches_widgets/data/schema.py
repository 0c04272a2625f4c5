"""What a model knows about its data: genes, batches, labels and covariates, all by name."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from .findings import counted
from .genes import GeneReport, align_genes
from .multimodal import align_modalities
from .names import DataError, did_you_mean, listed, nearest

logger = logging.getLogger(__name__)
BATCH = "batch"  # the variable of the experimental batch, whatever its column in obs is called
LABEL = "label"  # the variable of the label; a cell may lack one, so it is not among `DataSchema.variables`
SINGLE_BATCH = "all"  # the one batch of data without a batch_key


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class DataSchema:
    """The keys under which a model finds its data, and the names it has seen there, in code order.

    Attributes
    ----------
    genes
        Gene names, in the order of the network's inputs.
    layer
        Layer that holds the values; None for X.
    batch_key, batches
        Column of `obs` and its batches. Surgery appends a query's new batches at the end.
    labels_key, labels, unlabeled_category
        Column of `obs`, its labels, and the name that stands for "not labelled" (never among `labels`).
    size_factor_key
        Column of `obs` with each cell's size factor; None if a cell's total count serves.
    categorical_covariates
        Pairs of a column of `obs` and its levels.
    continuous_covariates
        Columns of `obs`.
    protein_key, protein_names_key, protein_layer, proteins
        Key of `obsm` with the protein counts, key of `uns` with the names of its columns (None if they have names
        themselves), layer of a MuData's proteins, and the proteins; see `modalities`.
    modality_key, modalities
        Column of `var` that tells modalities apart, and pairs of a modality and its number of features, in the order
        in which these stand in `genes`; none for a model of RNA. See `multimodal`.
    receptor_keys
        Columns of `obs` with the CDR3 of the alpha and of the beta chain, or the key of `obsm` with contigs; see
        `receptors`.
    """

    genes: tuple[str, ...]
    layer: str | None = None
    batch_key: str | None = None
    batches: tuple[str, ...] = (SINGLE_BATCH,)
    labels_key: str | None = None
    labels: tuple[str, ...] = ()
    unlabeled_category: str | None = None
    size_factor_key: str | None = None
    categorical_covariates: tuple[tuple[str, tuple[str, ...]], ...] = ()
    continuous_covariates: tuple[str, ...] = ()
    protein_key: str | None = None
    protein_names_key: str | None = None
    protein_layer: str | None = None
    proteins: tuple[str, ...] = ()
    modality_key: str | None = None
    modalities: tuple[tuple[str, int], ...] = ()
    receptor_keys: tuple[str, ...] = ()

    def __post_init__(self):
        levels = {variable: levels for variable, (_, levels) in self.variables.items()}
        for what, names in {"genes": self.genes, "labels": self.labels, "proteins": self.proteins, **levels}.items():
            if len(set(names)) < len(names) or (not names and what not in ("labels", "proteins")):
                raise ValueError(f"{what}: there must be at least one name, and none twice.")

    @classmethod
    def of(
        cls,
        adata,
        *,
        layer: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        unlabeled_category: str | None = None,
        size_factor_key: str | None = None,
        categorical_covariate_keys: str | Sequence[str] = (),
        continuous_covariate_keys: str | Sequence[str] = (),
    ) -> DataSchema:
        """Read the names off an AnnData that `validate` has found fit; levels are sorted."""
        labels = levels_of(adata.obs[labels_key]) if labels_key else ()
        return cls(
            genes=tuple(str(name) for name in adata.var_names),
            layer=layer,
            batch_key=batch_key,
            batches=levels_of(adata.obs[batch_key]) if batch_key else (SINGLE_BATCH,),
            labels_key=labels_key,
            labels=tuple(label for label in labels if label != unlabeled_category),
            unlabeled_category=unlabeled_category,
            size_factor_key=size_factor_key,
            categorical_covariates=tuple((key, levels_of(adata.obs[key])) for key in _keys(categorical_covariate_keys)),
            continuous_covariates=_keys(continuous_covariate_keys),
        )

    @property
    def n_genes(self) -> int:
        return len(self.genes)

    @property
    def noun(self) -> str:
        """What one of `genes` is called."""
        return "feature" if self.modalities else "gene"

    @property
    def keys(self) -> dict[str, object]:
        """The arguments with which `validate` and `of` read data of this schema."""
        return {
            "layer": self.layer,
            "batch_key": self.batch_key,
            "labels_key": self.labels_key,
            "unlabeled_category": self.unlabeled_category,
            "size_factor_key": self.size_factor_key,
            "categorical_covariate_keys": tuple(key for key, _ in self.categorical_covariates),
            "continuous_covariate_keys": self.continuous_covariates,
        }

    @property
    def variables(self) -> dict[str, tuple[str | None, tuple[str, ...]]]:
        """Categorical variables that condition a network: name -> (column of obs, levels in code order)."""
        covariates = {f"covariate {key}": (key, levels) for key, levels in self.categorical_covariates}
        return {BATCH: (self.batch_key, self.batches), **covariates}

    @property
    def n_levels(self) -> dict[str, int]:
        """How many levels each categorical variable has."""
        return {variable: len(levels) for variable, (_, levels) in self.variables.items()}

    def align(
        self, adata, gene_map: str | Mapping[str, str] | None = None, min_gene_overlap: float = 0.0
    ) -> tuple[np.ndarray | None, GeneReport]:
        """Match the genes of `adata` to this schema's; see `genes.align_genes`."""
        if self.modalities:
            return align_modalities(self.genes, self.modalities, adata.var, gene_map, min_gene_overlap)
        return align_genes(self.genes, adata.var, gene_map, min_gene_overlap)

    def codes(self, adata) -> dict[str, np.ndarray]:
        """Each cell's level of each categorical variable, int64 (cells,).

        Raises
        ------
        DataError
            If a column is missing or has a level that this schema does not know.
        """
        return {
            variable: _codes(adata.obs, key, levels, variable) for variable, (key, levels) in self.variables.items()
        }

    def label_codes(self, adata) -> np.ndarray | None:
        """Each cell's label, int64 (cells,); −1 where it is unlabelled or not a label of this schema."""
        if self.labels_key is None or self.labels_key not in adata.obs:
            return None
        return pd.Index(self.labels).get_indexer(as_text(adata.obs[self.labels_key]))

    def new_levels(self, adata) -> dict[str, tuple[str, ...]]:
        """Levels in `adata` that this schema does not know, sorted, for each categorical variable that has any."""
        found = {}
        for variable, (key, known) in self.variables.items():
            if key is None:
                continue
            new = tuple(level for level in levels_of(_column(adata.obs, key)) if level not in set(known))
            if new:
                found[variable] = new
                _announce_look_alikes(key, new, known)
        return found

    def new_labels(self, adata) -> tuple[str, ...]:
        """Labels in `adata` that this schema does not know, sorted; none if `adata` has no column of labels."""
        if self.labels_key is None or self.labels_key not in adata.obs:
            return ()
        known = {*self.labels, self.unlabeled_category}
        new = tuple(label for label in levels_of(adata.obs[self.labels_key]) if label not in known)
        _announce_look_alikes(self.labels_key, new, self.labels)
        return new

    def extended(self, new_levels: Mapping[str, Sequence[str]]) -> DataSchema:
        """This schema with `new_levels` appended to its variables, and to its labels."""
        covariates = tuple(
            (key, (*levels, *new_levels.get(f"covariate {key}", ()))) for key, levels in self.categorical_covariates
        )
        return replace(
            self,
            batches=(*self.batches, *new_levels.get(BATCH, ())),
            labels=(*self.labels, *new_levels.get(LABEL, ())),
            categorical_covariates=covariates,
        )


def as_text(column: pd.Series) -> np.ndarray:
    """Values of an obs column as the strings by which levels are known, object (cells,); NaN stays NaN.

    Whole numbers are written without a decimal point, so that batch 1 is the same as batch 1.0 and batch "1": a type
    that was changed by a file format must not make a new batch.
    """
    codes, values = pd.factorize(column.astype(object))  # a gap, be it NaN, None or pd.NA, has the code -1
    names = np.array([*map(_level_name, values), np.nan], dtype=object)
    return names[codes]


def _level_name(value: object) -> str:
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)


def levels_of(column: pd.Series) -> tuple[str, ...]:
    """The levels that occur in a column, sorted; unused categories and NaN are left out."""
    return tuple(sorted({level for level in as_text(column) if level == level}))


def _keys(keys: str | Sequence[str]) -> tuple[str, ...]:
    """One key alone stands for itself, not for its letters."""
    return (keys,) if isinstance(keys, str) else tuple(keys)


def _column(obs: pd.DataFrame, key: str) -> pd.Series:
    if key not in obs:
        raise DataError(
            f"obs has no column '{key}', which the model reads.{did_you_mean(key, obs.columns)} "
            f"There are: {listed(obs.columns, 20)}. Rename a column, or add it: adata.obs['{key}'] = …"
        )
    return obs[key]


def _codes(obs: pd.DataFrame, key: str | None, levels: tuple[str, ...], variable: str) -> np.ndarray:
    if key is None:
        return np.zeros(len(obs), dtype=np.int64)
    text = as_text(_column(obs, key))
    codes = pd.Index(levels).get_indexer(text).astype(np.int64)
    if (codes >= 0).all():
        return codes
    unknown = pd.unique(text[codes < 0])
    what = counted(len(unknown), *(("batch", "batches") if variable == BATCH else ("level",)))
    where = counted(int((codes < 0).sum()), "cell")
    raise DataError(
        f"obs['{key}'] has {what} that the model has not seen ({listed(unknown)}; {where})."
        f"{did_you_mean(unknown[0], levels)} It knows: {listed(levels, 20)}. "
        "Map new ones with load_query_data(adata, model), then train the model it returns."
    )


def _announce_look_alikes(key: str, new: Sequence[str], known: Sequence[str]) -> None:
    for level in new:
        twin = nearest(level, known)
        if twin is not None and twin.strip().casefold() == level.strip().casefold():
            logger.warning("obs['%s']: '%s' becomes a new level; did you mean '%s'?", key, level, twin)
