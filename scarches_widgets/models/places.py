"""What SageNet says of cells: where they lie, in which region, how far apart, and which genes tell."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from ..data.coordinates import places_of
from ..data.findings import counted
from ..data.names import DataError, did_you_mean, listed
from ..data.schema import as_text
from ..nn.noise import generator_of
from ..nn.places import Atoms, jensen_shannon_distance, jensen_shannon_of_pairs, normalized_entropy

logger = logging.getLogger(__name__)
DIMENSIONS = ("x", "y", "z")
READ_OUTS = ("posterior", "mean", "map", "centroid")
QUERY_CELLS_AT_ONCE = 512
CANDIDATES = 8  # by Hellinger's distance, for each neighbour that is wanted by Jensen and Shannon's
LogP = dict[str, list[np.ndarray]]  # by reference: of each partition, log-probabilities of regions (cells, regions)


class PlaceVerbs:
    """Verbs of a model whose module has `references`, each of which classifies cells into regions of its tissue."""

    def predict_locations(
        self,
        adata=None,
        *,
        reference: str | None = None,
        read_out: Literal["posterior", "mean", "map", "centroid"] = "posterior",
    ) -> pd.DataFrame:
        """Where each cell lies in the tissue. A model that is not trained is trained first, with a warning.

        Parameters
        ----------
        adata
            Cells without coordinates, or whose coordinates are not looked at; None: the model's query. Genes are
            matched by name. Not modified.
        reference
            Name of the reference in whose coordinates to answer. None: of several, each cell's is the one whose regions
            it is told apart in most surely; a column `reference` says which.
        read_out
            "posterior": the mean of the posterior over the reference's cells, or if that has two modes far apart, as in
            a tissue that is symmetric, the mean of the heavier one. "mean": always the mean. "map": the mean place of
            the most probable reference cells. "centroid": the mean of regions' centres by their probabilities.

        Returns
        -------
        DataFrame, one row per cell:

        - `x`, `y` and in 3-D `z`: in the units of the reference's coordinates
        - `uncertainty`: root mean squared distance of the posterior from there, in the same units, times the factor of
          `mapping.spatial.calibrate` if that was called
        - `confidence`: 1 − mean normalised entropy of the regions, 0 to 1

        `attrs["n_bimodal"]` counts the cells whose posterior has two modes.

        Raises
        ------
        DataError
            If the cells are unfit, or have too few of the model's genes.

        References
        ----------
        Heidari et al. 2022, doi:10.1101/2022.04.14.488419.
        """
        if read_out not in READ_OUTS:
            raise ValueError(f"read_out='{read_out}' is not known. Pass one of {listed(READ_OUTS, 9)}.")
        adata = self._ready(adata)
        names = self._reference_names if reference is None else [self._known_reference(reference)]
        return self._locations(adata, self._log_probabilities(adata, names), names, read_out)

    def _locations(self, adata, log_probabilities: Iterable[LogP], names: list[str], read_out: str) -> pd.DataFrame:
        """Places of cells of which these are, some after the other, log-probabilities of their regions."""
        atoms = {name: self._atoms(name) for name in names}
        dims = DIMENSIONS[: max(of.places.shape[1] for of in atoms.values())]
        frames, n_bimodal = [], 0
        for log_p in log_probabilities:
            of_references = [self._located(atoms[name], log_p[name], read_out, dims) for name in names]
            for name, frame in zip(names, of_references):
                frame["uncertainty"] *= self.uncertainty_factors[name]
            confidence = np.stack([frame["confidence"] for frame in of_references])
            best = confidence.argmax(0)
            frame = of_references[0]
            for number, other in enumerate(of_references[1:], 1):
                frame = frame.where(pd.Series(best != number), other)
            if len(names) > 1:
                frame["reference"] = np.array(names, dtype=object)[best]
            n_bimodal += int(frame.pop("is_bimodal").sum())
            frames.append(frame)
        result = pd.concat(frames, ignore_index=True).set_index(adata.obs_names)
        result.attrs = {"read_out": read_out, "n_bimodal": n_bimodal}
        return result

    def _located(self, atoms: Atoms, log_p: list[np.ndarray], read_out: str, dims: tuple[str, ...]) -> pd.DataFrame:
        posterior = atoms.posterior(log_p, self.config.sharpness)
        is_bimodal = np.zeros(len(posterior), dtype=bool)
        if read_out == "posterior":
            place, spread, is_bimodal = atoms.place(posterior)
        elif read_out == "mean":
            place, spread = atoms.mean_place(posterior)
        else:
            place = (
                atoms.centroid_place(log_p)
                if read_out == "centroid"
                else atoms.places[(posterior / atoms.n_cells).argmax(1)]
            )
            spread = atoms.spread_around(place, posterior)
        frame = pd.DataFrame(place, columns=list(dims[: place.shape[1]])).reindex(columns=list(dims))
        frame["uncertainty"], frame["confidence"], frame["is_bimodal"] = spread, _confidence(log_p), is_bimodal
        return frame

    def predict_regions(
        self, adata=None, of: str | None = None, *, reference: str | None = None, soft: bool = False
    ) -> pd.DataFrame:
        """In which region of the tissue each cell lies.

        Parameters
        ----------
        adata
            As in `predict_locations`.
        of
            A partition (`model.config.partition_names`), as its classifier says; or a column of the reference's `obs`,
            as the posterior over the reference's cells says. None: the first partition.
        reference
            Name of the reference; needed if there are several.
        soft
            Whether to return each region's probability.

        Returns
        -------
        DataFrame, one row per cell: `region`, its `probability`, the normalised `entropy` of all regions'
        probabilities, and `confidence` = 1 − entropy, all 0 to 1. With `soft`, cells × regions, rows sum to 1.
        """
        adata = self._ready(adata)
        name = self._one_reference(reference)
        partitions = self.config.partition_names
        of = partitions[0] if of is None else of
        if of in partitions:
            number = partitions.index(of)
            regions = self._layout(name).regions[number]
            p = np.concatenate([np.exp(log_p[name][number]) for log_p in self._log_probabilities(adata, [name])])
        else:
            regions, p = self._votes(adata, name, of)
        if soft:
            return pd.DataFrame(p, index=adata.obs_names, columns=pd.Index(regions, name=of, dtype=object))
        entropy = normalized_entropy(p)
        columns = {
            "region": np.array(regions, dtype=object)[p.argmax(1)],
            "probability": p.max(1),
            "entropy": entropy,
            "confidence": 1 - entropy,
        }
        return pd.DataFrame(columns, index=adata.obs_names)

    def _votes(self, adata, name: str, key: str) -> tuple[list[str], np.ndarray]:
        """Names in a column of the reference's obs, and the share of the posterior that each has, (cells, names)."""
        obs = self._reference_adata(name).obs
        if key not in obs:
            choices = [*self.config.partition_names, *obs.columns]
            raise DataError(
                f"'{key}' is neither a partition nor a column of the reference's obs.{did_you_mean(key, choices)} "
                f"There are: {listed(choices, 20)}."
            )
        codes, names = pd.factorize(as_text(obs[key]), sort=True)
        named = codes >= 0
        if not named.any():
            raise DataError(f"No cell of the reference has a '{key}'.")
        atoms = self._atoms(name)
        shares = np.zeros((len(atoms.n_cells), len(names)))
        np.add.at(shares, (atoms.of_cell[named], codes[named]), 1.0)
        shares /= atoms.n_cells[:, None]
        votes = np.concatenate(
            [
                atoms.posterior(log_p[name], self.config.sharpness) @ shares
                for log_p in self._log_probabilities(adata, [name])
            ]
        )
        return list(names), votes / np.maximum(votes.sum(1, keepdims=True), 1e-300)

    def cell_distances(
        self, adata=None, *, n_neighbors: int = 15, dense: bool = False
    ) -> sparse.csr_matrix | np.ndarray:
        """How far apart cells lie by their regions: √JSD of their probabilities, averaged over partitions.

        A metric; 0 = the same probabilities, 1 = no region in common.

        Parameters
        ----------
        adata
            As in `predict_locations`.
        n_neighbors
            Nearest cells to keep; looked for among eight times as many that are nearest by Hellinger's distance, which
            bounds √JSD from both sides.
        dense
            Whether to return all pairs.

        Returns
        -------
        CSR, float32 (cells, cells), `n_neighbors` distances per row, the cell itself left out; with `dense`, an array,
        float32 (cells, cells): 4 bytes per pair of cells.
        """
        adata = self._ready(adata)
        tables = self._region_tables(adata)
        n_cells = adata.n_obs
        if dense:
            result = np.zeros((n_cells, n_cells), dtype=np.float32)
            for rows in _slices(n_cells, QUERY_CELLS_AT_ONCE):
                result[rows] = np.mean([jensen_shannon_distance(table[rows], table) for table in tables], axis=0)
            np.fill_diagonal(result, 0)
            return (result + result.T) / 2
        n_neighbors = min(n_neighbors, n_cells - 1)
        n_candidates = min(CANDIDATES * n_neighbors, n_cells - 1)
        roots = np.hstack([np.sqrt(table) for table in tables]).astype(np.float32)
        columns = np.zeros((n_cells, n_neighbors), dtype=np.int64)
        values = np.zeros((n_cells, n_neighbors), dtype=np.float32)
        for rows in _slices(n_cells, QUERY_CELLS_AT_ONCE):
            similarity = roots[rows] @ roots.T
            own = np.arange(n_cells)[rows]
            similarity[np.arange(len(own)), own] = -np.inf
            candidates = np.argpartition(-similarity, n_candidates - 1, axis=1)[:, :n_candidates]
            distances = np.mean(
                [jensen_shannon_of_pairs(table[rows][:, None], table[candidates]) for table in tables], axis=0
            )
            nearest = np.argsort(distances, axis=1, kind="stable")[:, :n_neighbors]
            columns[rows] = np.take_along_axis(candidates, nearest, axis=1)
            values[rows] = np.take_along_axis(distances, nearest, axis=1)
        starts = np.arange(0, n_cells * n_neighbors + 1, max(n_neighbors, 1))[: n_cells + 1]
        return sparse.csr_matrix((values.ravel(), columns.ravel(), starts), shape=(n_cells, n_cells))

    def _region_tables(self, adata) -> list[np.ndarray]:
        """Probabilities of every reference's partitions, each (cells, regions)."""
        blocks = [
            [np.exp(of_partition) for of_reference in log_p.values() for of_partition in of_reference]
            for log_p in self._log_probabilities(adata, self._reference_names)
        ]
        return [np.concatenate(parts) for parts in zip(*blocks)]

    def informative_genes(
        self, *, reference: str | None = None, n_steps: int = 16, max_cells: int = 2000, seed: int = 0
    ) -> pd.DataFrame:
        """Which genes tell where a cell lies.

        Integrated gradients (Sundararajan et al. 2017, arXiv:1703.01365) of the log-probability of each reference
        cell's own region, from a cell whose genes are all at their section's means; and the price of each gene's
        permutation among cells.

        Parameters
        ----------
        reference
            Name of the reference; needed if there are several.
        n_steps
            Gauss-Legendre points along the way from the mean to the cell.
        max_cells, seed
            At most so many reference cells are looked at, drawn by the seed; which also permutes.

        Returns
        -------
        DataFrame, one row per gene used, the most important first:

        - `importance`: mean over cells and partitions of |integrated gradient|, nats
        - `permutation`: rise of the loss if the gene is permuted among the cells, nats, summed over partitions
        - `best_rank`: its best rank by |mean integrated gradient| of a region's cells, over all regions; 0 = first
        - `best_region`: the region where, as "partition: region"

        `attrs["completeness_error"]`: the integrated gradients of a cell sum to the difference that its genes make; the
        largest error of that, relative to the mean difference. Above 0.05, a warning advises more steps.
        """
        if not self.is_trained:
            self._refuse_if_untrained()
        name = self._one_reference(reference)
        adata, part = self._reference_adata(name), self._parts[name]
        rng = np.random.default_rng([seed, 0])
        rows = np.sort(rng.permutation(adata.n_obs)[:max_cells])
        z = torch.from_numpy(np.concatenate([*self._standardized(adata)])[rows]).to(self.device)
        regions = part.regions[torch.from_numpy(rows).to(self.device)]
        gradients, error = _integrated_gradients(part, z, regions, n_steps)  # (partitions, cells, genes)
        if error > 0.05:
            warnings.warn(
                f"Integrated gradients miss the differences that they sum to by {error:.0%}. Raise n_steps={n_steps}.",
                stacklevel=2,
            )
        genes = [self.schema.genes[i] for i in self.module.genes.tolist()]
        best_rank, best_region = np.full(len(genes), len(genes)), np.empty(len(genes), dtype=object)
        for number, partition in enumerate(self.config.partition_names):
            for region, region_name in enumerate(self._layout(name).regions[number]):
                of_region = gradients[number, (regions[:, number] == region).cpu().numpy()]
                if len(of_region):
                    order = np.argsort(-np.abs(of_region.mean(0)), kind="stable")
                    rank = np.argsort(order)
                    better = rank < best_rank
                    best_rank[better], best_region[better] = rank[better], f"{partition}: {region_name}"
        frame = pd.DataFrame(
            {
                "importance": np.abs(gradients).mean((0, 1)),
                "permutation": _permutation_costs(part, z, regions, seed),
                "best_rank": best_rank,
                "best_region": best_region,
            },
            index=pd.Index(genes, name="gene"),
        ).sort_values("importance", ascending=False, kind="stable")
        frame.attrs["completeness_error"] = error
        return frame

    def map_query(
        self,
        adata=None,
        *,
        save_pred: bool = True,
        save_ent: bool = True,
        save_prob: bool = False,
        save_dist: bool = False,
        save_locations: bool = True,
        reference: str | None = None,
    ) -> list[str]:
        """Write where each cell lies into its AnnData; `load_query_data` is the same.

        Parameters
        ----------
        adata
            As in `predict_locations`; it is modified.
        save_pred, save_ent
            `obs["pred_{reference}_{partition}"]`, the most probable region, and `obs["ent_…"]`, normalised entropy.
        save_prob
            `obsm["prob_…"]`, probabilities of regions.
        save_dist
            `obsp["sagenet_distances"]`, as `cell_distances` gives them.
        save_locations
            `obsm["X_sagenet"]`, predicted coordinates, `obs["sagenet_uncertainty"]` and `obs["sagenet_confidence"]`.
        reference
            As in `predict_locations`.

        Returns
        -------
        What was written, by name.
        """
        adata = self._ready(adata)
        blocks = list(self._log_probabilities(adata, self._reference_names))
        written = {}
        for name in self._reference_names:
            for number, partition in enumerate(self.config.partition_names):
                p = np.concatenate([np.exp(log_p[name][number]) for log_p in blocks])
                regions = np.array(self._layout(name).regions[number], dtype=object)
                key = f"{name}_{partition}"
                if save_pred:
                    written[f"obs['pred_{key}']"] = pd.Categorical(regions[p.argmax(1)], categories=regions)
                if save_ent:
                    written[f"obs['ent_{key}']"] = normalized_entropy(p)
                if save_prob:
                    written[f"obsm['prob_{key}']"] = pd.DataFrame(p, adata.obs_names, regions)
        if save_dist:
            written["obsp['sagenet_distances']"] = self.cell_distances(adata)
        if save_locations:
            names = self._reference_names if reference is None else [self._known_reference(reference)]
            located = self._locations(adata, blocks, names, "posterior")
            dims = [name for name in DIMENSIONS if name in located]
            written["obsm['X_sagenet']"] = located[dims].to_numpy()
            for name in ("uncertainty", "confidence", *(["reference"] if "reference" in located else [])):
                written[f"obs['sagenet_{name}']"] = located[name].to_numpy()
        for where, values in written.items():
            table, key = where.split("[", 1)
            getattr(adata, table)[key[1:-2]] = values
        logger.info("Written: %s.", ", ".join(written))
        return list(written)

    def load_query_data(self, adata=None, **options) -> list[str]:
        """`map_query`, as scArches spells it."""
        return self.map_query(adata, **options)

    def get_latent_representation(self, adata=None, *, reference: str | None = None) -> np.ndarray:
        """What the regions' classifiers see of each cell, float32 (cells, features)."""
        adata = self._ready(adata)
        part = self._parts[self._one_reference(reference)]
        with torch.no_grad():
            blocks = [part.features(torch.from_numpy(z).to(self.device)) for z in self._standardized(adata)]
        return torch.cat(blocks).cpu().numpy()

    # How sure it is

    @property
    def uncertainty_factors(self) -> dict[str, float]:
        """By reference, what the posterior's spread is multiplied by; 1 unless `mapping.spatial.calibrate` found it."""
        return {name: float(part.uncertainty_factor) for name, part in self._parts.items()}

    def reference_cells(self, reference: str | None = None):
        """The AnnData of a reference, of the only one if there is one."""
        return self._reference_adata(self._one_reference(reference))

    def scale_uncertainty(self, factor: float, reference: str | None = None) -> None:
        """Multiply the posterior's spread by so much, in place of an earlier factor; it is saved with the model.

        Parameters
        ----------
        factor
            Above 0.
        reference
            Name of the reference; needed if there are several.
        """
        if not 0 < factor < float("inf"):
            raise ValueError(f"factor={factor} does not make an uncertainty. Give a number above 0.")
        self._parts[self._one_reference(reference)].uncertainty_factor.fill_(factor)

    # Files, as scArches spells them

    def save_as_folder(self, dir: str | os.PathLike = ".", overwrite: bool = False) -> str:
        """`save`."""
        return self.save(dir, overwrite)

    @classmethod
    def load_from_folder(cls, dir: str | os.PathLike = ".", adata=None):
        """`load`."""
        return cls.load(dir, adata)

    # What the verbs share

    @property
    def _parts(self) -> dict[str, torch.nn.Module]:
        return dict(zip(self._reference_names, self.module.references))

    @property
    def _reference_names(self) -> list[str]:
        return [layout.name for layout in self.config.references]

    def _layout(self, name: str):
        return self.config.references[self._reference_names.index(name)]

    def _known_reference(self, name: str) -> str:
        if name not in self._reference_names:
            raise ValueError(
                f"There is no reference '{name}'.{did_you_mean(name, self._reference_names)} "
                f"There are: {listed(self._reference_names, 20)}."
            )
        return name

    def _one_reference(self, name: str | None) -> str:
        if name is None and len(self._reference_names) > 1:
            raise ValueError(
                f"There are {len(self._reference_names)} references ({listed(self._reference_names, 20)}), each with "
                "regions of its own. Name one: reference=…"
            )
        return self._reference_names[0] if name is None else self._known_reference(name)

    def _reference_adata(self, name: str):
        if name not in self.references:
            raise RuntimeError(
                f"The cells of reference '{name}' are not at hand, since the model was loaded without them. "
                f"Give them: model.references['{name}'] = adata."
            )
        adata, part = self.references[name], self._parts[name]
        if not np.array_equal(places_of(adata, self.config.spatial_key), part.places.cpu().numpy()):
            raise DataError(
                f"The cells of reference '{name}' ({adata.n_obs:,}) are not those that the model was made of "
                f"({len(part.places):,}), or in another order, or at other places. Give the same AnnData: "
                f"model.references['{name}'] = adata."
            )
        return adata

    def _ready(self, adata):
        """The cells to be placed; a model that is not trained is trained now."""
        self._refuse_while_training()
        adata = self.query if adata is None else adata
        if adata is None:
            raise ValueError("There are no cells to place. Pass them: model.predict_locations(adata).")
        if not self.is_trained:
            warnings.warn(
                "This SageNet has not been trained; it is trained now, by the defaults of train().", stacklevel=3
            )
            self.train(progress=False)
        self._examine(adata)
        return adata

    def _atoms(self, name: str) -> Atoms:
        part = self._parts[name]
        return Atoms.of(part.regions.cpu().numpy(), part.places.cpu().numpy())

    def _standardized(self, adata) -> Iterator[np.ndarray]:
        """z of some cells after the other, float32 (cells, genes)."""
        cells = self._expression(adata, self.config.references[0].target_sum)
        is_own = any(adata is reference for reference in self.references.values())
        by_reference = self.config.standardize == "reference"
        if cells.n_in_small_sections and not is_own and not by_reference:
            warnings.warn(
                f"{counted(cells.n_in_small_sections, 'cell')} are of sections too small for means and scales of "
                "their own; those of the reference are taken, so that differences of technology stay. Map more cells "
                "at once.",
                stacklevel=4,
            )
        moments = self.module.means.cpu().numpy(), self.module.scales.cpu().numpy()
        yield from cells.standardized(self.module.genes.cpu().numpy(), None if is_own else moments, always=by_reference)

    def _log_probabilities(self, adata, names: list[str]) -> Iterator[LogP]:
        """Log-probabilities of the regions of some cells after the other, float64."""
        self.module.eval()
        parts = {name: self._parts[name] for name in names}
        for z in self._standardized(adata):
            for rows in _slices(len(z), QUERY_CELLS_AT_ONCE):
                with torch.no_grad():
                    block = torch.from_numpy(z[rows]).to(self.device)
                    log_p = {
                        name: [of_partition.double().cpu().numpy() for of_partition in part(block)]
                        for name, part in parts.items()
                    }
                yield log_p


def _confidence(log_p: list[np.ndarray]) -> np.ndarray:
    return 1 - np.mean([normalized_entropy(np.exp(of_partition)) for of_partition in log_p], axis=0)


def _slices(n: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


def _integrated_gradients(part, z: torch.Tensor, regions: torch.Tensor, n_steps: int) -> tuple[np.ndarray, float]:
    """Of log-probabilities of each cell's own regions, float64 (partitions, cells, genes); and the relative error."""
    points, weights = np.polynomial.legendre.leggauss(n_steps)
    n_partitions = regions.shape[1]
    gradients = torch.zeros(n_partitions, *z.shape, dtype=torch.float64, device=z.device)

    def own(log_p: list[torch.Tensor]) -> list[torch.Tensor]:
        return [of.gather(1, regions[:, number : number + 1])[:, 0] for number, of in enumerate(log_p)]

    for point, weight in zip((points + 1) / 2, weights / 2):
        at = (z * float(point)).requires_grad_(True)
        for number, log_likelihood in enumerate(own(part(at))):
            (gradient,) = torch.autograd.grad(log_likelihood.sum(), at, retain_graph=number + 1 < n_partitions)
            gradients[number] += float(weight) * (gradient * z).double()
    with torch.no_grad():
        differences = torch.stack(own(part(z))) - torch.stack(own(part(torch.zeros_like(z))))
    error = (gradients.sum(-1) - differences).abs().max() / differences.abs().mean().clamp(min=1e-12)
    return gradients.cpu().numpy(), float(error)


def _permutation_costs(part, z: torch.Tensor, regions: torch.Tensor, seed: int) -> np.ndarray:
    generator = generator_of(seed, "inference")

    def loss(values: torch.Tensor) -> float:
        log_p = part(values)
        return -sum(float(of.gather(1, regions[:, m : m + 1]).mean()) for m, of in enumerate(log_p))

    with torch.no_grad():
        before, costs = loss(z), np.zeros(z.shape[1])
        for gene in range(z.shape[1]):
            permuted = z.clone()
            permuted[:, gene] = z[torch.randperm(len(z), generator=generator).to(z.device), gene]
            costs[gene] = loss(permuted) - before
    return costs
