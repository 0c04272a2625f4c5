"""How well cells are placed in a tissue: scores against known places, plain baselines, and a test on held-out cells.

A mapping is worth what it does better than the nearest neighbours in expression. `held_out` measures both on cells of
the reference that training did not see, and says which to take.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree
from scipy.stats import rankdata

from ..data.coordinates import places_of
from ..data.findings import counted
from ..data.names import DataError, did_you_mean, listed
from ..data.schema import DataSchema, as_text
from ..data.sections import SectionedExpression
from ..models.sagenet import TAKEN_FROM_DATA, SageNet
from ..nn.tissue import partition
from ..training.limits import usable_cpus
from .transfer import vote

if TYPE_CHECKING:
    from anndata import AnnData

    from ..training.run import TrainingRun

DIMENSIONS = ("x", "y", "z")
MOST_CELLS = 3000  # of which all pairs of distances are compared
N_COMPONENTS = 20
DEPTH = 1e4
BLOCKS = 60  # into which a single section is cut
HONEST_COVERAGE = 0.63
BASELINES = {"kNN, log expression": "log", "kNN, PCA": "pca"}


def knn_locations(
    reference: AnnData,
    query: AnnData,
    *,
    features: Literal["log", "pca"] = "pca",
    n_neighbors: int = 10,
    layer: str | None = None,
    spatial_key: str = "spatial",
) -> pd.DataFrame:
    """The plain baseline: each cell lies at the mean of its nearest reference cells in expression.

    Parameters
    ----------
    reference, query
        Counts, or log-normalised values; the genes that both have are used. Not modified.
    features
        "log": log counts per 10,000. "pca": these, centred in reference and query alone, in 20 principal components of
        the reference.
    n_neighbors
        How many cells count.
    layer, spatial_key
        Where values and coordinates are.

    Returns
    -------
    DataFrame, one row per query cell: `x`, `y` and in 3-D `z`, and `uncertainty`, the root mean squared distance of the
    neighbours from there, all in the units of the reference's coordinates.
    """
    places = places_of(reference, spatial_key)
    neighbors = places[_neighbors(reference, query, features, n_neighbors, layer)]
    place = neighbors.mean(1)
    frame = pd.DataFrame(place, index=query.obs_names, columns=list(DIMENSIONS[: place.shape[1]]))
    frame["uncertainty"] = np.sqrt(((neighbors - place[:, None]) ** 2).sum(-1).mean(1))
    return frame


def knn_regions(
    reference: AnnData,
    query: AnnData,
    key: str,
    *,
    features: Literal["log", "pca"] = "pca",
    n_neighbors: int = 10,
    layer: str | None = None,
) -> pd.DataFrame:
    """The plain baseline of regions: each cell is where most of its nearest reference cells are.

    Parameters
    ----------
    reference, query, features, n_neighbors, layer
        As in `knn_locations`.
    key
        Column of the reference's `obs`.

    Returns
    -------
    DataFrame, one row per query cell: `region`, and its `probability`, the share of the neighbours, 0 to 1.
    """
    if key not in reference.obs:
        raise DataError(
            f"The reference's obs has no column '{key}'.{did_you_mean(key, reference.obs.columns)} "
            f"There are: {listed(reference.obs.columns, 20)}."
        )
    codes, names = pd.factorize(as_text(reference.obs[key]), sort=True, use_na_sentinel=False)
    voters = codes[_neighbors(reference, query, features, n_neighbors, layer)]
    shares = vote(voters, np.ones(voters.shape), len(names))
    columns = {"region": np.asarray(names, dtype=object)[shares.argmax(1)], "probability": shares.max(1)}
    return pd.DataFrame(columns, index=query.obs_names)


def _neighbors(reference, query, features: str, n_neighbors: int, layer: str | None) -> np.ndarray:
    """Rows of each query cell's nearest reference cells, (query cells, n_neighbors)."""
    if features not in ("log", "pca"):
        raise ValueError(f"features='{features}' is not known. Pass 'log' or 'pca'.")
    in_query = set(DataSchema.of(query).genes)
    genes = tuple(gene for gene in DataSchema.of(reference).genes if gene in in_query)
    if not genes:
        raise DataError("Reference and query have no gene in common. Use the same identifiers in both.")
    of_reference, of_query = (_logged(adata, genes, layer) for adata in (reference, query))
    if features == "pca":
        of_reference, of_query = of_reference - of_reference.mean(0), of_query - of_query.mean(0)
        _, directions = np.linalg.eigh(of_reference.T @ of_reference)
        directions = directions[:, ::-1][:, :N_COMPONENTS]
        of_reference, of_query = of_reference @ directions, of_query @ directions
    ranks = np.arange(1, min(n_neighbors, len(of_reference)) + 1)
    return cKDTree(of_reference).query(of_query, k=ranks, workers=usable_cpus())[1]


def distance_correlation(predicted: ArrayLike, truth: ArrayLike, max_cells: int = MOST_CELLS, seed: int = 0) -> float:
    """Spearman's correlation of predicted with true distances between cells, −1 to 1; needs no common frame.

    Parameters
    ----------
    predicted, truth
        Coordinates, (cells, dimensions), or a frame of `predict_locations`.
    max_cells, seed
        Of more cells, so many drawn by the seed are compared in all pairs.
    """
    predicted, truth = _coordinates(predicted), _coordinates(truth)
    if len(predicted) != len(truth):
        raise ValueError(
            f"{len(predicted):,} predicted places and {len(truth):,} true ones. Give those of the same cells."
        )
    if len(truth) > max_cells:
        rows = np.random.default_rng(seed).choice(len(truth), max_cells, replace=False)
        predicted, truth = predicted[rows], truth[rows]
    from scipy.spatial.distance import pdist

    ranks = [rankdata(pdist(places)) for places in (predicted, truth)]
    if any(np.ptp(of) == 0 for of in ranks):
        return 0.0  # all at one place: nothing is told
    return float(np.corrcoef(*ranks)[0, 1])


def location_errors(predicted: ArrayLike, truth: ArrayLike) -> np.ndarray:
    """Distance of each cell's predicted place from the true one, in the units of both, (cells,)."""
    return np.linalg.norm(_coordinates(predicted) - _coordinates(truth), axis=1)


@dataclass(frozen=True)
class HeldOut:
    """What `held_out` found.

    Attributes
    ----------
    table
        One row per method, the better first: `distance_correlation` and `median_error` (in the units of the
        coordinates), means over folds.
    folds
        The same of each fold.
    locations
        Of every held-out cell, as the model placed it, with its `fold` and its true `error`.
    coverage
        Share of the held-out cells that lie within their uncertainty of the predicted place; 1 − 1/e = 0.63 for a
        posterior that is right and normal in two dimensions.
    uncertainty_factor
        What to multiply uncertainties by, so that this share of the held-out cells does; `calibrate` has a model do so.
        Blocks overstate it.
    is_better
        Whether the model has the larger correlation of distances than every baseline.
    """

    table: pd.DataFrame
    folds: pd.DataFrame
    locations: pd.DataFrame
    coverage: float
    uncertainty_factor: float
    is_better: bool

    def __str__(self) -> str:
        scores = self.table["distance_correlation"]
        best = scores.drop("SageNet").idxmax()
        ours, other = f"{scores['SageNet']:.2f}", f"{scores[best]:.2f}"
        if self.is_better:
            return f"On held-out cells SageNet places better than {best} (correlation of distances {ours}, {other})."
        return (
            f"On held-out cells {best} places better than SageNet (correlation of distances {other}, {ours}). "
            "Take the neighbours for these data: sca.mapping.spatial.knn_locations(reference, query)."
        )


def held_out(
    reference: AnnData,
    *,
    section_key: str | None = None,
    n_folds: int = 4,
    seed: int = 0,
    layer: str | None = None,
    spatial_key: str = "spatial",
    train: dict[str, Any] | None = None,
    watch: Callable[[TrainingRun], None] | None = None,
    **config: Any,
) -> HeldOut:
    """Place cells of the reference that training did not see: the model beside its baselines.

    Parameters
    ----------
    reference
        Cells with coordinates. Not modified.
    section_key
        Column of `obs` with two sections of one frame or more: each is held out once. None, or one section: the tissue
        is cut into 60 blocks, and each fold's blocks are held out together. A block's own tissue is then missing from
        training, so that errors are those of a stretch to its neighbourhood, alike for all methods.
    n_folds
        Of blocks, or at most so many sections.
    seed
        Of blocks and training.
    layer, spatial_key, **config
        As `SageNet` takes them.
    train
        Arguments of `train`.
    watch
        Is called with each fold's `TrainingRun` before its first step; what it stops is scored as it is.

    Returns
    -------
    HeldOut
        Printed, it says in a sentence which method to take.

    Raises
    ------
    DataError
        If there are too few cells for folds.
    """
    places = places_of(reference, spatial_key)
    fold_of_cell, names = _folds(reference, places, section_key, n_folds, seed)
    rows, located = [], []
    for fold, name in enumerate(names):
        is_out = fold_of_cell == fold
        known, out = reference[~is_out].copy(), reference[is_out].copy()
        truth = places[is_out]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of the reference's faults, which its own training names
            model = SageNet(
                known, out, section_key=section_key, layer=layer, spatial_key=spatial_key, seed=seed, **config
            )
            if watch is not None:
                model.watch_runs(watch)
            model.train(**({"progress": False, "seed": seed} | (train or {})))
            ours = model.predict_locations()
        ours["error"], ours["fold"] = location_errors(ours, truth), name
        located.append(ours)
        predicted = {"SageNet": ours}
        for method, features in BASELINES.items():
            predicted[method] = knn_locations(known, out, features=features, layer=layer, spatial_key=spatial_key)
        for method, frame in predicted.items():
            score = distance_correlation(frame, truth, seed=seed)
            error = float(np.median(location_errors(frame, truth)))
            rows.append({"fold": name, "method": method, "distance_correlation": score, "median_error": error})
    folds = pd.DataFrame(rows)
    table = folds.groupby("method")[["distance_correlation", "median_error"]].mean()
    table = table.sort_values("distance_correlation", ascending=False)
    locations = pd.concat(located).loc[reference.obs_names[np.isin(fold_of_cell, range(len(names)))]]
    ratio = locations["error"] / locations["uncertainty"].clip(lower=1e-12)
    factor = float(ratio.quantile(HONEST_COVERAGE))
    return HeldOut(table, folds, locations, float((ratio <= 1).mean()), factor, table.index[0] == "SageNet")


def calibrate(
    model: SageNet,
    reference: str | None = None,
    *,
    n_folds: int = 4,
    seed: int = 0,
    train: dict[str, Any] | None = None,
) -> HeldOut:
    """Have a model's uncertainties hold: 63 % of held-out cells lie within them.

    A posterior over regions knows nothing of what differs between sections, so that its spread may be too small, and it
    may be too large. Models of the same configuration are trained without some cells of the reference, and the factor
    by which their uncertainties had to be multiplied is kept by this one, and saved with it.

    Parameters
    ----------
    model
        Whose `predict_locations` then answers with the multiplied uncertainty; its places stay.
    reference
        Name of the reference; needed if there are several.
    n_folds, seed, train
        As in `held_out`: sections are held out if the model has a `section_key`, which calibrates for another section;
        else blocks, whose factor errs on the safe side.

    Returns
    -------
    HeldOut
        Its `coverage` is that before.
    """
    cells = model.reference_cells(reference)
    options = {name: value for name, value in vars(model.config).items() if name not in TAKEN_FROM_DATA}
    found = held_out(cells, n_folds=n_folds, seed=seed, layer=model.schema.layer, train=train, **options)
    model.scale_uncertainty(found.uncertainty_factor, reference)
    return found


def _folds(
    reference, places: np.ndarray, section_key: str | None, n_folds: int, seed: int
) -> tuple[np.ndarray, list[str]]:
    """Each cell's fold, −1 where it is never held out; and the folds' names."""
    if n_folds < 2 and section_key is None:
        raise ValueError(f"n_folds={n_folds}: two at least are needed, so that each cell is held out once.")
    if section_key is not None:
        if section_key not in reference.obs:
            raise DataError(
                f"obs has no column '{section_key}'.{did_you_mean(section_key, reference.obs.columns)} "
                f"There are: {listed(reference.obs.columns, 20)}."
            )
        codes, names = pd.factorize(as_text(reference.obs[section_key]), sort=True)
        if len(names) > 1:
            return np.where(codes < n_folds, codes, -1), [str(name) for name in names[:n_folds]]
    if reference.n_obs < 10 * n_folds:
        raise DataError(
            f"{counted(reference.n_obs, 'cell')} are too few for {n_folds} folds of held-out cells. Give 10 per fold."
        )
    blocks = partition(places, "kmeans", min(BLOCKS, reference.n_obs // 5), seed)
    order = np.random.default_rng(seed).permutation(blocks.max() + 1)
    return order[blocks] % n_folds, [f"blocks {fold + 1} of {n_folds}" for fold in range(n_folds)]


def _logged(adata, genes: tuple[str, ...], layer: str | None) -> np.ndarray:
    """Log expression in all `genes`, float32 (cells, genes)."""
    cells = SectionedExpression(adata, genes, layer, target_sum=DEPTH)
    return np.concatenate([values for _, values in cells.logged(np.arange(len(genes)))])


def _coordinates(places: ArrayLike) -> np.ndarray:
    if isinstance(places, pd.DataFrame):
        places = places[[name for name in DIMENSIONS if name in places]]
    return np.asarray(places, dtype=np.float64)
