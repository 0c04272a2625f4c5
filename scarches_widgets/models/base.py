"""What every model promises: keys in, training, latents out, saving, loading, and surgery for a query."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd
import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from ..data.findings import Findings, counted
from ..data.genes import WORTH_A_WARNING, GeneReport
from ..data.minibatches import Cells, Minibatch
from ..data.names import DataError, did_you_mean, digest_of, listed
from ..data.schema import DataSchema
from ..data.validate import validate
from ..nn.divergences import Normal
from ..nn.layers import initialize
from ..nn.noise import Noise, generator_of
from ..training.autosave import Autosave
from ..training.bar import show_bar
from ..training.cells import TrainingCells
from ..training.device import device_of
from ..training.distributed import by_first, is_first, ranks_of_this_run
from ..training.events import EpochEnded, Event, RunEnded, StepEnded
from ..training.loop import training_events
from ..training.malloc import freed_memory_kept
from ..training.options import planned, respelled, typed
from ..training.plan import TrainingPlan
from ..training.run import TrainingRun
from ..training.watched import history_frame
from . import checkpoint, surgery

logger = logging.getLogger(__name__)
NOTE = "scarches_widgets"  # where setup_anndata notes its keys in adata.uns
LEAST_OVERLAP = 0.5  # share of the reference's genes that a query must have, unless the user allows less
Widths = Annotated[  # of hidden layers
    tuple[Annotated[int, Field(ge=1, le=8192)], ...],
    Field(min_length=1, max_length=16),
    BeforeValidator(lambda widths: tuple(widths.tolist()) if isinstance(widths, np.ndarray) else widths),
]
DATA_KEYS = (
    "layer",
    "batch_key",
    "labels_key",
    "unlabeled_category",
    "size_factor_key",
    "categorical_covariate_keys",
    "continuous_covariate_keys",
)


class Model:
    """What the user holds: the keys of an AnnData, a network, its history.

    A model extends this class with its own verbs, and names its parts: `config_class`, `module_class`.

    Attributes
    ----------
    adata
        The model's own cells; None if it was loaded without any.
    schema
        Genes, batches, labels and covariates, by name.
    config
        The network's options.
    module
        The network, in tensor terms.
    history
        One row per epoch of the last training, one column per named loss term.
    run
        The last `TrainingRun`; None before the first.
    gene_report
        How a query's genes compared to the reference's; None for a reference.
    gene_map, min_gene_overlap
        How genes of other cells are matched to the model's, and the least share that must be found; see
        `load_query_data`, which sets them.
    """

    config_class: ClassVar[type]
    module_class: ClassVar[type[nn.Module]]
    plan_class: ClassVar[type[TrainingPlan]] = TrainingPlan  # a subclass, if train() has options of this model's own
    flags: ClassVar[tuple[str, ...]] = ()  # attributes that are true or false and saved with the model
    later_tensors: ClassVar[dict[str, float]] = {}  # buffers that the first files lack, and what they stand for there

    def __init__(
        self,
        adata,
        *,
        batch_key: str | None = None,
        labels_key: str | None = None,
        layer: str | None = None,
        size_factor_key: str | None = None,
        categorical_covariate_keys: Sequence[str] | None = None,
        continuous_covariate_keys: Sequence[str] | None = None,
        unlabeled_category: str | None = None,
        seed: int = 0,
        **config: Any,
    ):
        given = {key: value for key, value in locals().items() if key in DATA_KEYS and value is not None}
        keys, config = _split_options(type(self).__name__, given, config)
        self.config = typed(self.config_class, config, of=type(self).__name__)
        keys = _noted_keys(adata) | keys
        _announce(validate(adata, expects=self.expects, **keys))
        self.schema = self._schema_of(adata, keys)
        self.module = self._new_module(self.schema)
        self._initialize(seed)
        self._start(adata)
        self._count_in(adata, new_levels=self.schema.n_levels)

    def _schema_of(self, adata, keys: Mapping[str, Any]) -> DataSchema:
        return DataSchema.of(adata, **keys)

    def _initialize(self, seed: int) -> None:
        initialize(self.module, generator_of(seed, "weights"))

    def _thaw(self) -> None:
        """Let those weights be trained that surgery froze and the model's `flags` do not want frozen."""

    def _count_in(self, adata, new_levels: Mapping[str, int]) -> None:
        """Take from the cells what a network knows of them before it is trained."""

    def _start(self, adata) -> None:
        """The state of a model whose network and schema are there."""
        self.adata = adata
        self.run: TrainingRun | None = None
        self.gene_report: GeneReport | None = None
        self._epochs: list[EpochEnded] = []
        self._is_trained = False
        self._surgeries: list[dict[str, int]] = []  # new levels of each variable, one entry per surgery
        self._kl_weight = 1.0  # that training ended with; of a query, its reference's
        self.gene_map: str | Mapping[str, str] | None = None
        self.min_gene_overlap = LEAST_OVERLAP
        self._watchers: list[Callable[[TrainingRun], None]] = []
        self.module.eval()

    def _new_module(self, schema: DataSchema) -> nn.Module:
        return self.module_class(schema, self.config).float()

    def __repr__(self) -> str:
        cells = f"{self.adata.n_obs:,} cells" if self.adata is not None else "no cells"
        trained = f"trained for {len(self._epochs)} epochs" if self.is_trained else "not trained"
        mapped = f", {counted(len(self._surgeries), 'surgery', 'surgeries')}" if self._surgeries else ""
        return (
            f"{type(self).__name__}({cells}, {self.schema.n_genes:,} genes, {len(self.schema.batches)} batches"
            f"{mapped}; {trained})"
        )

    # What the data must be

    @classmethod
    def found_in(cls, adata) -> str:
        """What these cells have that this model needs besides a matrix and columns of `obs`, in a sentence.

        Raises
        ------
        DataError
            If they lack it.
        """
        return ""

    @property
    def expects(self) -> str:
        """The kind of values this model takes: "counts" or "any"."""
        return "counts"

    @classmethod
    def setup_anndata(cls, adata, **keys: Any) -> None:
        """Note in `adata.uns["scarches_widgets"]` which keys models are to read, so that `Model(adata)` suffices.

        Parameters
        ----------
        adata
            Gets the note, and no other change.
        **keys
            `batch_key`, `labels_key`, `layer`, `size_factor_key`, `unlabeled_category`, `categorical_covariate_keys`,
            `continuous_covariate_keys`.
        """
        keys, rest = _split_options(cls.__name__, {}, keys)
        if rest:
            name = next(iter(rest))
            raise TypeError(f"setup_anndata has no option '{name}'.{did_you_mean(name, DATA_KEYS)}")
        adata.uns[NOTE] = {key: value for key, value in keys.items() if value is not None}

    # Training

    @property
    def is_trained(self) -> bool:
        """Whether the weights have taken a step."""
        return self._is_trained

    @property
    def history(self) -> pd.DataFrame:
        """The last training that completed an epoch: one row per epoch, one column per named loss term."""
        return history_frame(self._epochs)

    def train(
        self,
        max_epochs: int | None = None,
        *,
        background: bool = False,
        progress: bool = True,
        checkpoint_dir: str | os.PathLike | None = None,
        resume: bool = False,
        checkpoint_every: float = 10.0,
        early_stopping_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> TrainingRun:
        """Fit the model to its cells. Under `torchrun`, all processes train one model together, with the result of one;
        see `training.distributed`.

        Parameters
        ----------
        max_epochs
            None: from the number of cells and the schedule.
        background
            Return at once and train on a thread; else show a bar, and obey one Ctrl-C by finishing the step.
        progress
            Whether to show the bar.
        checkpoint_dir, resume, checkpoint_every
            Keep checkpoints in this folder, at least `checkpoint_every` seconds apart; with `resume=True`, go on from
            the newest, to the same bits as without the break.
        early_stopping_kwargs
            Fields of `EarlyStopping`, also as scArches or scvi-tools spell them.
        **options
            Fields of `TrainingPlan`: `batch_size`, `lr`, `train_size`, `early_stopping`, `schedule`, `seed`, …

        Returns
        -------
        TrainingRun
            Its `status`, `history`, `pause()`, `resume()`, `stop()`, `wait()`.

        Raises
        ------
        RuntimeError
            If the model is being trained already, or has no cells.
        NonFiniteLoss
            If the loss became NaN; the model keeps the weights of the last good epoch.
        """
        self._refuse_while_training()
        if max_epochs is not None:
            options["max_epochs"] = max_epochs
        plan = planned(self.plan_class_for(self.config), options, early_stopping_kwargs)
        cells = self._training_cells(plan)
        plan = self._resolved(plan, cells)
        if not any(parameter.requires_grad for parameter in self.module.parameters()):
            warnings.warn(
                "There is nothing to train: every batch of the query is known to the reference, whose weights stay as "
                "they are. The latents are those of the reference already.",
                stacklevel=2,
            )
            self.run = TrainingRun(iter([RunEnded("done", "nothing to train", 0, None)]))
            return self.run.run()
        if resume and checkpoint_dir is None:
            raise ValueError(
                "resume=True goes on from a checkpoint, but there is no checkpoint_dir to find one in. Give it."
            )
        autosave = None
        if checkpoint_dir is not None:
            autosave = Autosave(checkpoint_dir, self._identity(plan), resume, checkpoint_every)
        self.module.to(device_of(plan.device))
        ranks = ranks_of_this_run()
        self.run = TrainingRun(training_events(self.module, cells, plan, autosave, ranks), plan.threads, ranks)
        self.run.subscribe(self._note)
        for watcher in self._watchers:
            watcher(self.run)
        if background:
            return self.run.start()
        with show_bar(self.run) if progress and is_first() else contextlib.nullcontext():
            return self.run.run()

    def _training_cells(self, plan: TrainingPlan) -> TrainingCells:
        return TrainingCells(self._cells(self._adata_or_own(None)), plan)

    @classmethod
    def plan_class_for(cls, config) -> type[TrainingPlan]:
        """`plan_class` with the pace that suits a network of these options."""
        return cls.plan_class

    def _resolved(self, plan: TrainingPlan, cells: TrainingCells) -> TrainingPlan:
        if self._surgeries and plan.schedule == "auto" and plan.kl_weight is None:
            plan = replace(plan, kl_weight=self._kl_weight)  # else latents leave what the decoder knows
        return plan.resolved(cells.n_train, cells.n_validation, of_query=bool(self._surgeries))

    def watch_runs(self, watcher: Callable[[TrainingRun], None]) -> None:
        """Call `watcher` with each `TrainingRun` that begins from now on, before its first step."""
        self._watchers.append(watcher)

    def _note(self, event: Event) -> None:
        if isinstance(event, StepEnded):
            self._is_trained = True
        elif isinstance(event, EpochEnded):
            self._is_trained = True
            self._epochs = [*(self._epochs if event.epoch else []), event]  # epoch 0 begins a history
            if not self._surgeries:
                self._kl_weight = event.kl_weight

    def _learn_from(self, trained: Model) -> None:
        """Take over weights and history of this model's like, which was trained elsewhere."""
        self.module.load_state_dict(trained.module.state_dict())
        self.module.eval()
        self._epochs, self._is_trained, self._kl_weight = trained._epochs, trained._is_trained, trained._kl_weight

    def _identity(self, plan: TrainingPlan) -> dict[str, object]:
        """What a checkpoint must share with this model to be resumed."""
        schema = hashlib.sha256(repr(self.schema).encode())
        return {
            "model": type(self).__name__,
            "config": asdict(self.config),
            "plan": asdict(plan),
            "data": schema.hexdigest(),
            "cells": f"{self.adata.n_obs} cells, {digest_of(self.adata.obs_names)}",
        }

    def _refuse_while_training(self) -> None:
        if self.run is not None and self.run.is_active:
            raise RuntimeError(
                f"This model is being trained (epoch {len(self.run.epochs)}). Wait for it with model.run.wait(), or "
                "end it with model.run.stop()."
            )

    # Using a fitted model

    def get_latent_representation(
        self, adata=None, *, give_mean: bool = True, return_dist: bool = False, seed: int = 0, batch_size: int = 256
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Where each cell lies in latent space: the posterior mean.

        Parameters
        ----------
        adata
            Cells; None for the model's own; or a list of several AnnData, such as `[reference, query]`, whose cells
            come one after the other. Genes and batches are matched by name; missing genes count as zero.
        give_mean
            Otherwise a draw from the posterior.
        return_dist
            Whether to return mean and variance of the posterior.
        seed
            Of the draw.
        batch_size
            Cells at a time.

        Returns
        -------
        float32 (cells, n_latent), or a pair of such.

        Raises
        ------
        DataError
            If `adata` has batches that the model has not seen, or too few of its genes.
        """

        return self._latents(adata, self.module.encode, give_mean, return_dist, seed, batch_size)

    def _latents(
        self,
        adata,
        posterior_of: Callable[[Minibatch], Normal],
        give_mean: bool,
        return_dist: bool,
        seed: int,
        batch_size: int,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """What `get_latent_representation` returns, of the posterior that one of a model's encoders gives."""

        def wanted(cells: Minibatch) -> Tensor:
            posterior = posterior_of(cells)
            return torch.cat(posterior, dim=1) if return_dist else posterior.rsample(cells.noise)  # no noise: the mean

        several = adata if isinstance(adata, list | tuple) else [adata]
        z = np.concatenate([self._per_cell(one, wanted, batch_size, None if give_mean else seed) for one in several])
        return tuple(np.split(z, 2, axis=1)) if return_dist else z

    def _of_own_cells(self, rows: np.ndarray, function: Callable[[Minibatch], Tensor]) -> np.ndarray:
        """`function` of those of the model's own cells, one row per cell."""
        minibatches = self._cells(self.adata).minibatches(rows, 256)
        with torch.no_grad(), freed_memory_kept():
            return np.concatenate([function(cells.to(self.device)).cpu().numpy() for cells in minibatches])

    def _per_cell(
        self, adata, function: Callable[[Minibatch], Tensor], batch_size: int, seed: int | None = None
    ) -> np.ndarray:
        """`function` of all cells, one row per cell; with a seed, it may draw from `cells.noise`."""
        rows = []
        with torch.no_grad(), freed_memory_kept():
            for step, cells in enumerate(self._minibatches(adata, batch_size)):
                noise = None if seed is None else Noise(seed, "inference", step, device=self.device)
                rows.append(function(cells.with_noise(noise)).cpu().numpy())
        return np.concatenate(rows)

    def _loss_terms(self, adata, seed: int, batch_size: int) -> dict[str, float]:
        """Means over the cells of each unweighted loss term, at one posterior sample per cell."""
        totals: dict[str, float] = {}
        n_cells = 0
        with torch.no_grad(), freed_memory_kept():
            for step, cells in enumerate(self._minibatches(adata, batch_size)):
                loss = self.module(cells.with_noise(Noise(seed, "inference", step, device=self.device)))
                for name, term in loss.terms.items():
                    totals[name] = totals.get(name, 0.0) + float(term) * len(cells)
                n_cells += len(cells)
        return {name: total / n_cells for name, total in totals.items()}

    def _refuse_if_untrained(self) -> None:
        """Refuse to use weights that are being trained, or were not."""
        self._refuse_while_training()
        if not self.is_trained and not self._surgeries:
            raise RuntimeError(
                f"This {type(self).__name__} has not been trained, so its latents would be noise. "
                "Call model.train() first."
            )
        self.module.eval()

    def _minibatches(self, adata, batch_size: int) -> Iterator[Minibatch]:
        self._refuse_if_untrained()
        cells = self._cells(self._adata_or_own(adata))
        for minibatch in cells.in_order(batch_size):
            yield minibatch.to(self.device)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.module.parameters()).device

    def _adata_or_own(self, adata):
        if adata is None and self.adata is None:
            raise RuntimeError("This model was loaded without cells. Pass adata, here or to load().")
        return self.adata if adata is None else adata

    def _cells(self, adata) -> Cells:
        """`adata` as the network sees it. Other cells than the model's own are validated first."""
        if adata is not self.adata:
            self._examine(adata)
        columns, _ = self.schema.align(adata, self.gene_map)
        return Cells(adata, self.schema, columns, are_counts=self.expects == "counts")

    def _examine(self, adata) -> GeneReport:
        """Refuse cells that are unfit, warn of what may spoil the result; how their genes compare to the model's."""
        _announce(validate(adata, expects=self.expects, for_training=False, **self._keys_in(adata)))
        _, report = self.schema.align(adata, self.gene_map, self.min_gene_overlap)
        logger.info(str(report))
        if report.overlap < WORTH_A_WARNING:
            warnings.warn(f"{report} Their share of the embedding is lost.", stacklevel=3)
        return report

    def _validate(self, adata) -> None:
        """Refuse cells that are unfit to train this model."""
        _announce(validate(adata, expects=self.expects, **self.schema.keys))
        self.schema.align(adata, self.gene_map, self.min_gene_overlap)

    def _keys_in(self, adata) -> dict[str, object]:
        """The schema's keys for `adata`, without a labels column that is not there."""
        keys = dict(self.schema.keys)
        if keys["labels_key"] not in adata.obs:
            keys["labels_key"] = None
        return keys

    def _known_genes(self, genes: Sequence[str]) -> np.ndarray:
        """Positions of `genes` among the model's."""
        genes = [genes] if isinstance(genes, str) else list(genes)
        positions = pd.Index(self.schema.genes).get_indexer(genes)
        if (positions < 0).any():
            unknown = [gene for gene, position in zip(genes, positions) if position < 0]
            raise DataError(
                f"{len(unknown)} of {len(genes)} genes are not among the model's ({listed(unknown)})."
                f"{did_you_mean(unknown[0], self.schema.genes)}"
            )
        return positions

    # Surgery

    @classmethod
    def load_query_data(
        cls,
        adata,
        reference_model: Model | str | os.PathLike,
        *,
        gene_map: str | Mapping[str, str] | None = None,
        min_gene_overlap: float = LEAST_OVERLAP,
    ) -> Model:
        """Adapt a reference to a query by architecture surgery; the reference is left untouched to the bit.

        The new model maps at once (a new batch starts as the average of the reference's); training it fits the new
        batches' weights and nothing else.

        Parameters
        ----------
        adata
            The query, with the reference's keys in `obs`. Not modified.
        reference_model
            A model, or the folder of a saved one. It may itself be the result of a surgery.
        gene_map
            How the query's gene names become the reference's; see `DataSchema.align`.
        min_gene_overlap
            Least share of the reference's genes that the query must have. Missing ones are zero to the encoder; in
            training they have no share of the counts and no say in the loss.

        Returns
        -------
        Model
            With the query as its cells, and a `gene_report`.

        Raises
        ------
        DataError
            If the query is unfit or has too few of the reference's genes.

        References
        ----------
        Lotfollahi et al. 2022, doi:10.1038/s41587-021-01001-7.
        """
        reference = cls._reference(reference_model)
        query = cls.__new__(cls)
        query.config, query.schema, query.module = reference.config, reference.schema, reference.module
        query._start(adata)
        query.gene_map, query.min_gene_overlap = gene_map, min_gene_overlap
        query.gene_report = query._examine(adata)
        new_levels = reference.schema.new_levels(adata)
        surgery.announce(reference, adata, new_levels)
        query.schema = reference.schema.extended(new_levels)
        n_new = {variable: len(levels) for variable, levels in new_levels.items()}
        query.module = surgery.adapted(reference.module, n_new)
        query._surgeries = [*reference._surgeries, n_new]
        query._kl_weight = reference._kl_weight
        query._count_in(adata, n_new)
        return query

    @classmethod
    def _reference(cls, reference_model: Model | str | os.PathLike) -> Model:
        """The model that a query is to be mapped onto."""
        reference = reference_model if isinstance(reference_model, Model) else cls.load(reference_model)
        if not isinstance(reference, cls):
            raise TypeError(
                f"{cls.__name__}.load_query_data was given a {type(reference).__name__} as reference. Call "
                f"{type(reference).__name__}.load_query_data."
            )
        reference._refuse_while_training()
        if not reference.is_trained and not reference._surgeries:
            raise RuntimeError(
                "The reference has not been trained. Call reference.train() before mapping a query onto it."
            )
        return reference

    # Saving

    def save(self, path: str | os.PathLike, overwrite: bool = False) -> str:
        """Write the model to a folder: tensors and JSON, no pickle; the data are not in it. Of several processes that
        train together, the first writes, and all call this.

        Returns the folder's digest, SHA-256 of all its content. See `data.container.write_container` for the errors.
        """
        self._refuse_while_training()
        return by_first(lambda: checkpoint.save(self, path, overwrite))

    @classmethod
    def load(cls, path: str | os.PathLike, adata=None) -> Model:
        """Read a model that `save` wrote.

        Parameters
        ----------
        path
            The folder.
        adata
            Cells for the model to hold; may be given later to each call instead.

        Raises
        ------
        DamagedFile
            If a single bit differs from what was written.
        """
        return checkpoint.load(cls, path, adata)


def _split_options(model: str, given: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[dict, dict]:
    """Keys of the data, and the rest; both under the names used here."""
    options = respelled(options)
    keys = dict(given)
    for name in DATA_KEYS:
        if name in options:
            if name in keys:
                raise TypeError(f"{model} was given {name} twice, under two spellings. Give it once.")
            keys[name] = options.pop(name)
    return keys, options


def _noted_keys(adata) -> dict[str, Any]:
    """What setup_anndata noted; None-valued keys are left out."""
    note = getattr(adata, "uns", {}).get(NOTE, {})
    # a list comes back from a file as an array
    return {key: note[key] if isinstance(note[key], str) else [*note[key]] for key in DATA_KEYS if key in note}


def _announce(findings: Findings) -> None:
    """Raise the errors, warn of the warnings, log the notes."""
    findings.raise_errors()
    for finding in findings.warnings:
        warnings.warn(str(finding), stacklevel=4)
    for finding in findings.notes:
        logger.info(str(finding))
