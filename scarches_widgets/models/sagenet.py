"""SageNet: cells of a query are placed in a tissue by classifiers of its regions. Heidari et al. 2022,
doi:10.1101/2022.04.14.488419.

    y_m(r)                                          region of reference cell r in partition m of its tissue
    p_m(y | x) = softmax(head_m(trunk(x)))          one trunk, one linear head per partition, trained jointly
    loss = −Σ_m log p_m(y_m(r) | x_r)               nats per cell
    log w_qr = Σ_m a [log p_m(y_m(r) | x_q) − log n_m(y_m(r))]     where query cell q lies: see `nn.places`

x is the expression of the genes that vary most over the tissue, standardised within each section and weighted by the
root of their Moran's I. Partitions are k-means regions of the coordinates at five resolutions, or a grid, communities
of the spatial graph, or columns of obs. Trunks (`classifier`):

    MLP                x in the directions in which neighbourhoods vary most (`nn.tissue.spatial_components`), then a
                       hidden layer
    linear             these directions; nothing is learned but the heads
    TransformerConv, GraphSAGE, GCN     the paper's: a convolution over the gene network, n_hidden features per gene

Differs from the paper and from scArches 0.6.1:

- the default trunk is an MLP of spatial components; the published one is `classifier="TransformerConv"`. On measured
  tissue the MLP places cells better (tests/benchmarks/bench_spatial.py);
- genes are standardised per section (there: log-normalised values as they are), and matched by name;
- partitions are k-means, not Leiden's; their classifiers share a trunk; Adam, not SGD, with validation cells
  (`schedule="published"`: 10 epochs at a learning rate of 1e-3, without a penalty);
- places are read out by the posterior over reference cells, in each reference's own coordinates (there: none);
- distances of cells are √JSD (there: Jeffreys divergences of randomly sharpened probabilities, scaled to norm 1, which
  the documentation calls Jensen-Shannon).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from ..data.coordinates import places_of
from ..data.minibatches import Minibatch, step_bounds
from ..data.names import DataError, did_you_mean, digest_of, listed
from ..data.schema import DataSchema, as_text
from ..data.sections import SectionedExpression
from ..data.validate import validate
from ..nn.gene_network import GeneNetwork, gene_network
from ..nn.graph_layers import CONVOLUTIONS, GeneEdges
from ..nn.layers import MLP, ConditionalLinear, Dropout
from ..nn.loss import Loss
from ..nn.noise import Noise
from ..nn.tissue import morans_i, neighbour_graph, partition, spatial_components
from ..training.cells import TrainingCells
from ..training.options import respelled, typed
from ..training.plan import NotNegative, Positive, TrainingPlan
from .base import LEAST_OVERLAP, Model, _announce
from .places import PlaceVerbs

logger = logging.getLogger(__name__)
REFERENCE = "reference"  # the variable of a training cell's reference
GENES_AT_ONCE = 500  # whose values in all cells are in memory at a time
MOST_CANDIDATES = 4000  # genes of the largest variance, of which Moran's I is taken
PUBLISHED_EPOCHS = 10
PRIOR_PRECISION = 16.0  # of a normal prior of each weight, biases aside: more cells outweigh it
MOST_DECAY = 0.02
SPELLINGS = {"comm_columns": "partition_keys", "n_hidden_GNN": "n_hidden"}
TAKEN_FROM_DATA = ("partition_names", "references")
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ReferenceLayout:
    """What the network's shape takes from a reference."""

    name: str
    n_cells: Count
    n_dims: Annotated[int, Field(ge=2, le=3)]
    n_genes: Count  # that were selected; the same of all references
    regions: tuple[tuple[str, ...], ...]  # of each partition, its regions' names
    n_components: Annotated[int, Field(ge=0)] = 0
    n_edges: Annotated[int, Field(ge=0)] = 0  # of the gene network
    target_sum: Positive | None = None  # depth to which counts are scaled; None: the reference holds no counts


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SageNetConfig:
    classifier: Literal["MLP", "linear", "TransformerConv", "GraphSAGE", "GCN"] = "MLP"
    partitions: Literal["kmeans", "grid", "leiden"] = "kmeans"
    resolutions: tuple[Positive, ...] = (5, 10, 20, 40, 80)  # numbers of regions; of Leiden, resolutions
    partition_keys: tuple[str, ...] = ()  # columns of obs, in place of partitions that are computed
    n_top_genes: Annotated[int, Field(ge=2, le=20_000)] = 500  # by Moran's I
    n_components: Annotated[int, Field(ge=1, le=2000)] = 40  # spatial components that an MLP or a linear trunk sees
    n_neighbors: Annotated[int, Field(ge=1, le=1000)] = 6  # of a cell in space, for Moran's I and the components
    n_hidden: Annotated[int, Field(ge=1, le=8192)] | None = None  # width; None: 64 of an MLP, 8 per gene of a graph
    dropout_rate: Annotated[float, Field(ge=0, lt=1)] | None = None  # None: 0.5 of an MLP, 0.2 of a graph as published
    gene_network_alpha: Annotated[float, Field(gt=0, le=1)] | None = None  # of the graphical lasso; None: by eBIC
    standardize: Literal["section", "reference"] = "section"  # by whose means and scales a query is standardised
    sharpness: Positive = 0.7  # of the posterior, a above; below 1, since partitions repeat one another in part
    section_key: str | None = None  # column of obs
    spatial_key: str = "spatial"  # in obsm
    partition_names: tuple[str, ...] = ()  # which the model takes from the above
    references: tuple[ReferenceLayout, ...] = ()

    @property
    def is_graph(self) -> bool:
        return self.classifier in CONVOLUTIONS

    @property
    def n_genes(self) -> int:
        return self.references[0].n_genes


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SageNetPlan(TrainingPlan):
    weight_decay: NotNegative | None = None  # None: 16 / training cells, at most 0.02, for auto; 0 as published

    def resolved(self, n_train: int, n_validation: int = 0, of_query: bool = False) -> TrainingPlan:
        published, meant = self.schedule == "published", {}
        if self.weight_decay is None:
            meant["weight_decay"] = 0.0 if published else min(MOST_DECAY, PRIOR_PRECISION / n_train)
        if published:
            meant["max_epochs"] = self.max_epochs or PUBLISHED_EPOCHS
        return TrainingPlan.resolved(replace(self, **meant), n_train, n_validation, of_query)


class Knowing(nn.Module):
    """A network with buffers that are known before it is trained."""

    def know(self, values: Mapping[str, np.ndarray]) -> None:
        for name, value in values.items():
            self.get_buffer(name).copy_(torch.from_numpy(np.ascontiguousarray(value)))


class PlaceClassifier(Knowing):
    """Classifies cells into the regions of one reference, and holds what places need of it."""

    def __init__(self, layout: ReferenceLayout, config: SageNetConfig):
        super().__init__()
        n_genes, n_partitions = config.n_genes, len(layout.regions)
        self.n_regions = [len(regions) for regions in layout.regions]
        self.is_graph = config.is_graph
        self.register_buffer("weights", torch.zeros(n_genes))  # of z
        self.register_buffer("places", torch.zeros(layout.n_cells, layout.n_dims, dtype=torch.float64))
        self.register_buffer("regions", torch.zeros(layout.n_cells, n_partitions, dtype=torch.int64))
        self.register_buffer("uncertainty_factor", torch.ones((), dtype=torch.float64))
        if self.is_graph:
            n_hidden = config.n_hidden or 8
            edges = GeneEdges(n_genes, layout.n_edges)
            self.convolution = CONVOLUTIONS[config.classifier](edges, n_hidden)
            self.dropout = Dropout(0.2 if config.dropout_rate is None else config.dropout_rate)
            self.n_features = n_genes * n_hidden
        else:
            self.register_buffer("components", torch.zeros(n_genes, layout.n_components))
            self.n_features = layout.n_components
        self.hidden = None
        if config.classifier == "MLP":
            rate = 0.5 if config.dropout_rate is None else config.dropout_rate
            self.hidden = MLP(self.n_features, config.n_hidden or 64, dropout_rate=rate)
            self.n_features = self.hidden.n_out
        self.head = ConditionalLinear(self.n_features, sum(self.n_regions))

    def features(self, z: Tensor, noise: Noise | None = None) -> Tensor:
        """The trunk, (cells, features), of standardised expression, (cells, genes)."""
        if self.is_graph:
            return self.dropout(torch.relu(self.convolution(z * self.weights)), noise).flatten(1)
        components = (z * self.weights) @ self.components
        return components if self.hidden is None else self.hidden(components, noise=noise)

    def forward(self, z: Tensor, noise: Noise | None = None) -> list[Tensor]:
        """Log-probabilities of each partition's regions, (cells, regions)."""
        logits = self.head(self.features(z, noise))
        return [of_partition.log_softmax(-1) for of_partition in logits.split(self.n_regions, dim=1)]


class SageNetModule(Knowing):
    def __init__(self, schema: DataSchema, config: SageNetConfig):
        super().__init__()
        self.partition_names = config.partition_names
        self.register_buffer("genes", torch.zeros(config.n_genes, dtype=torch.int64))  # those selected, by position
        for name in ("means", "scales"):  # of their log expression in the references
            self.register_buffer(name, torch.zeros(config.n_genes, dtype=torch.float64))
        self.references = nn.ModuleList(PlaceClassifier(layout, config) for layout in config.references)

    @property
    def undecayed(self) -> list[nn.Parameter]:
        return [parameter for name, parameter in self.named_parameters() if name.endswith("bias")]

    def loss(self, cells: Minibatch, kl_weight: float = 1.0) -> Loss:
        terms = {name: cells.counts.new_zeros(()) for name in self.partition_names}
        for number, reference in enumerate(self.references):
            of_reference = cells.categories[REFERENCE] == number
            log_p = reference(cells.counts, cells.noise)
            for name, of_partition in zip(self.partition_names, log_p):
                region = torch.where(of_reference, cells.categories[name], 0)
                log_likelihood = of_partition.gather(1, region[:, None])[:, 0] * of_reference
                terms[name] = terms[name] - log_likelihood.sum() / len(cells)
        return Loss(terms)

    def forward(self, cells: Minibatch, kl_weight: float = 1.0) -> Loss:
        return self.loss(cells, kl_weight)


class PlacedCells:
    """Standardised cells of all references, and their regions, as `TrainingCells` deals them out."""

    def __init__(self, z: np.ndarray, categories: dict[str, np.ndarray], names: np.ndarray):
        self.n_cells, self.names = len(z), names
        self.batch_codes = np.zeros(len(z), dtype=np.int64)
        self._z, self._categories = torch.from_numpy(z), {k: torch.from_numpy(v) for k, v in categories.items()}

    def minibatches(self, rows: np.ndarray, batch_size: int, first_step: int = 0) -> Iterator[Minibatch]:
        for start, stop in step_bounds(len(rows), batch_size)[first_step:]:
            taken = rows[start:stop]
            z = self._z[taken]
            categories = {name: codes[taken] for name, codes in self._categories.items()}
            yield Minibatch(counts=z, library_size=z.new_ones(len(z), 1), categories=categories, rows=taken)


class SageNet(PlaceVerbs, Model):
    """Places the cells of a query in one or several tissues whose cells have known coordinates.

    Parameters
    ----------
    reference
        Cells with coordinates in `obsm[spatial_key]`, 2-D or 3-D: an AnnData, or several, each with a frame of
        coordinates of its own, as a list or by name. Counts, or log-normalised values. Not modified.
    query
        The cells that are to be placed, if they are known already: only genes that they have are learned from.
    section_key
        Column of `obs` of reference and query that names sections or donors of one frame; each is standardised alone.
    spatial_key, layer
        Where coordinates and values are; `layer` None: X.
    partition_keys
        Columns of the references' `obs` to be taken as partitions, in place of computed ones; all categories must
        be named. scArches' `comm_columns`.
    gene_map, min_gene_overlap
        How a query's gene names become the reference's, and the least share that must be found.
    seed
        Of partitions and initial weights.
    **config
        Fields of `SageNetConfig`.

    Attributes
    ----------
    references
        The AnnData by name. Of a loaded model, those that were given: `model.references["reference"] = adata`, needed
        for further training, for regions by a column of obs, and for `informative_genes`.
    query
        As given.
    gene_network
        Of each reference by name, with a report; empty for a classifier without one, and for a loaded model.
    spatial_genes
        Moran's I of each gene in each reference, largest mean first; those used are True in `is_used`. None for a
        loaded model.

    References
    ----------
    Heidari et al. 2022, doi:10.1101/2022.04.14.488419.
    """

    config_class, module_class, plan_class = SageNetConfig, SageNetModule, SageNetPlan
    later_tensors = {"uncertainty_factor": 1.0}  # noqa: RUF012 - not calibrated

    def __init__(
        self,
        reference,
        query=None,
        *,
        section_key: str | None = None,
        spatial_key: str = "spatial",
        layer: str | None = None,
        partition_keys: str | Sequence[str] = (),
        gene_map: str | Mapping[str, str] | None = None,
        min_gene_overlap: float = LEAST_OVERLAP,
        seed: int = 0,
        **config: Any,
    ):
        config = respelled(config, SPELLINGS)
        if "partition_keys" in config:
            if partition_keys:
                raise TypeError("comm_columns and partition_keys are two spellings of one option. Give one of them.")
            partition_keys = config.pop("partition_keys")
        keys = (partition_keys,) if isinstance(partition_keys, str) else tuple(partition_keys)
        for name in TAKEN_FROM_DATA:
            if name in config:
                raise TypeError(f"{name} follows from the references; it cannot be given.")
        config |= {"section_key": section_key, "spatial_key": spatial_key, "partition_keys": keys}
        self.config = typed(SageNetConfig, config, of="SageNet")
        references = _named(reference)
        for adata in references.values():
            _announce(validate(adata, layer=layer, expects="any"))
        self.schema = DataSchema(_shared_genes(references, query, gene_map, min_gene_overlap), layer=layer)
        spatial_genes, networks = self._place(references, seed)
        self._start(next(iter(references.values())))
        self.references, self.query = references, query
        self.spatial_genes, self.gene_network = spatial_genes, networks
        self.gene_map, self.min_gene_overlap = gene_map, min_gene_overlap

    def _start(self, adata) -> None:
        super()._start(adata)
        self.references = {self.config.references[0].name: adata} if adata is not None else {}
        self.query = None
        self.spatial_genes: pd.DataFrame | None = None
        self.gene_network: dict[str, GeneNetwork] = {}

    def __repr__(self) -> str:
        cells = ", ".join(f"{layout.name}: {layout.n_cells:,} cells" for layout in self.config.references)
        trained = f"trained for {len(self._epochs)} epochs" if self.is_trained else "not trained"
        return (
            f"SageNet({cells}; {self.config.n_genes:,} genes, partitions {', '.join(self.config.partition_names)}; "
            f"{trained})"
        )

    # What is known before training

    def _place(self, references: Mapping[str, Any], seed: int) -> tuple[pd.DataFrame, dict[str, GeneNetwork]]:
        """Choose genes, partition the tissues, and make the network; what `spatial_genes` and `gene_network` say."""
        config = self.config
        cells = {
            name: SectionedExpression(adata, self.schema.genes, self.schema.layer, config.section_key)
            for name, adata in references.items()
        }
        places = {name: places_of(adata, config.spatial_key) for name, adata in references.items()}
        graphs = {name: neighbour_graph(at, config.n_neighbors, cells[name].sections) for name, at in places.items()}
        moran = pd.DataFrame({name: _moran(cells[name], graph) for name, graph in graphs.items()}, self.schema.genes)
        mean = moran.clip(lower=0).mean(axis=1).to_numpy()
        order = np.argsort(-mean, kind="stable")
        selected = order[: min(config.n_top_genes, np.count_nonzero(mean))]
        if len(selected) < 2:
            raise DataError(
                f"None of {len(mean):,} genes varies over the tissue (Moran's I is at most {moran.max().max():.3g}), "
                f"so no cell can be placed. Check that obsm['{config.spatial_key}'] belongs to these cells."
            )
        moran["is_used"] = np.isin(np.arange(len(mean)), selected)

        networks: dict[str, GeneNetwork] = {}
        layouts, known = [], []
        for name, adata in references.items():
            z = np.concatenate([*cells[name].standardized(selected)])
            regions, region_names = _partitions(adata, places[name], config, seed)
            weights = np.sqrt(moran[name].clip(lower=0).to_numpy()[selected])
            tissue = {"places": places[name], "regions": regions}
            if config.is_graph:
                networks[name] = gene_network(z, config.gene_network_alpha)
                logger.info("%s: %s", name, networks[name])
                tissue["weights"] = weights / np.sqrt((weights**2).mean())
                tissue["convolution.edges.edges"] = networks[name].edges
            else:
                components = spatial_components(z * weights, graphs[name], config.n_components)
                first = ((z * weights) @ components[:, 0]).std()
                tissue |= {"weights": weights, "components": components / first}
            layouts.append(
                ReferenceLayout(
                    name=name,
                    n_cells=adata.n_obs,
                    n_dims=places[name].shape[1],
                    n_genes=len(selected),
                    regions=tuple(tuple(names) for names in region_names.values()),
                    n_components=0 if config.is_graph else components.shape[1],
                    n_edges=networks[name].edges.shape[1] if config.is_graph else 0,
                    target_sum=cells[name].target_sum,
                )
            )
            known.append(tissue)
        self.config = replace(config, partition_names=tuple(region_names), references=tuple(layouts))
        self.module = self._new_module(self.schema)
        self._initialize(seed)
        self.module.know({"genes": selected} | _pooled_moments(cells.values(), selected))
        for part, tissue in zip(self.module.references, known):
            part.know(tissue)
        return moran.iloc[order], networks

    def _new_module(self, schema: DataSchema) -> nn.Module:
        return SageNetModule(schema, self.config)  # not .float(): coordinates keep their precision

    @classmethod
    def found_in(cls, adata) -> str:
        places = places_of(adata, "spatial")
        return f"obsm['spatial'] holds coordinates in {places.shape[1]} dimensions."

    @property
    def expects(self) -> str:
        return "any"

    # Training

    def _training_cells(self, plan: TrainingPlan) -> TrainingCells:
        selected = self.module.genes.cpu().numpy()
        z, categories, names = [], [], []
        for number, (layout, part) in enumerate(zip(self.config.references, self.module.references)):
            adata = self._reference_adata(layout.name)
            cells = self._expression(adata, layout.target_sum)
            z += cells.standardized(selected)
            regions = part.regions.cpu().numpy()
            categories.append(np.column_stack([np.full(len(regions), number), regions]))
            names.append(adata.obs_names)
        codes = np.concatenate(categories).T
        named = dict(zip((REFERENCE, *self.config.partition_names), np.ascontiguousarray(codes)))
        cells = PlacedCells(np.concatenate(z), named, np.concatenate(names))
        return TrainingCells(cells, plan)

    def _identity(self, plan: TrainingPlan) -> dict[str, object]:
        names = [str(name) for adata in self.references.values() for name in adata.obs_names]
        return {
            "model": type(self).__name__,
            "config": asdict(self.config),
            "plan": asdict(plan),
            "data": hashlib.sha256(repr(self.schema).encode()).hexdigest(),
            "cells": digest_of(names),
        }

    def _expression(self, adata, target_sum: float | None) -> SectionedExpression:
        is_own = any(adata is reference for reference in self.references.values())  # whose names are the model's
        return SectionedExpression(
            adata,
            self.schema.genes,
            self.schema.layer,
            self.config.section_key,
            None if is_own else self.gene_map,
            0.0 if is_own else self.min_gene_overlap,
            target_sum,
        )


def _named(reference) -> dict[str, Any]:
    """References by name."""
    if isinstance(reference, Mapping):
        references = {str(name): adata for name, adata in reference.items()}
    elif isinstance(reference, list | tuple):
        references = {f"reference{number}": adata for number, adata in enumerate(reference)}
    else:
        references = {"reference": reference}
    if not references:
        raise DataError("There is no reference. Give cells with coordinates: SageNet(adata).")
    return references


def _shared_genes(references: Mapping[str, Any], query, gene_map, min_gene_overlap: float) -> tuple[str, ...]:
    """Genes of the first reference that all others have, and the query, under its names as `gene_map` reads them."""
    first, *others = references.values()
    genes = DataSchema.of(first).genes
    for adata in others:
        names = set(DataSchema.of(adata).genes)
        genes = tuple(gene for gene in genes if gene in names)
    if len(genes) < 2:
        raise DataError(
            f"The references {listed(references)} share {len(genes)} genes. Use the same identifiers in all."
        )
    if query is None:
        return genes
    columns, report = DataSchema(genes).align(query, gene_map, min_gene_overlap)
    logger.info("Query: %s", report)
    return genes if columns is None else tuple(genes[i] for i in np.unique(columns[columns >= 0]))


def _moran(cells: SectionedExpression, graph) -> np.ndarray:
    """Moran's I of each gene; of the 4,000 of the largest variance, and 0 for the others."""
    moran = np.zeros(len(cells.genes))
    candidates = np.arange(len(moran))
    if len(candidates) > MOST_CANDIDATES:
        variance = (cells.moments(candidates)[1] ** 2).mean(0)
        candidates = np.sort(np.argsort(-variance, kind="stable")[:MOST_CANDIDATES])
    for start in range(0, len(candidates), GENES_AT_ONCE):
        some = candidates[start : start + GENES_AT_ONCE]
        moran[some] = morans_i(np.concatenate([*cells.standardized(some)]), graph)
    return moran


def _pooled_moments(references: Iterable[SectionedExpression], genes: np.ndarray) -> dict[str, np.ndarray]:
    """Means of all cells, and scales within sections, of log expression; each reference counts alike."""
    means, variances = [], []
    for cells in references:
        share = np.bincount(cells.sections)[:, None] / cells.n_cells
        of_sections = cells.moments(genes)
        means.append((share * of_sections[0]).sum(0))
        variances.append((share * of_sections[1] ** 2).sum(0))
    return {"means": np.mean(means, axis=0), "scales": np.sqrt(np.mean(variances, axis=0))}


def _partitions(adata, places: np.ndarray, config: SageNetConfig, seed: int) -> tuple[np.ndarray, dict[str, list[str]]]:
    """Each cell's region in each partition, int64 (cells, partitions), and the regions' names by partition."""
    regions, names = [], {}
    for key in config.partition_keys:
        of_cells, names[key] = _column_regions(adata, key)
        regions.append(of_cells)
    for number, resolution in enumerate(() if config.partition_keys else config.resolutions):
        of_cells = partition(places, config.partitions, resolution, seed + number)
        regions.append(of_cells)
        names[f"{config.partitions}_{resolution:g}"] = [str(region) for region in range(of_cells.max() + 1)]
    if len(names) < len(regions) or not names:
        raise ValueError(f"Partitions must be one at least, and differ: {listed(names, 10)}.")
    return np.stack(regions, axis=1), names


def _column_regions(adata, key: str) -> tuple[np.ndarray, list[str]]:
    if key not in adata.obs:
        raise DataError(
            f"obs has no column '{key}' to take regions from.{did_you_mean(key, adata.obs.columns)} "
            f"There are: {listed(adata.obs.columns, 20)}."
        )
    values = as_text(adata.obs[key])
    codes, names = pd.factorize(values, sort=True)
    if (codes < 0).any():
        raise DataError(
            f"{(codes < 0).sum():,} of {len(codes):,} cells have no '{key}' (NaN). Drop them, or name them: "
            f"obs['{key}'] = obs['{key}'].astype(object).fillna('unlabelled')."
        )
    return codes.astype(np.int64), [str(name) for name in names]
