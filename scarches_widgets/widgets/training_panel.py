"""Train a model by filling in a form."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import traitlets
from pydantic import Field

from ..data.check_obs import check_categorical, check_continuous, check_keys, check_size_factors
from ..data.findings import Findings, counted
from ..data.gene_sets import MIN_GENES, match_gene_sets
from ..data.modalities import check_proteins, protein_table, the_protein_key
from ..data.multimodal import as_one_anndata, check_modalities, modalities_of
from ..data.names import DataError, shown
from ..data.receptors import check_receptors, receptor_table, the_receptor_keys
from ..data.validate import CHECKS, Request
from ..training.options import respelled, typed
from ..training.plan import METRICS, EarlyStopping
from .base import HERE, inlined
from .form import Form, as_arguments, choices_of, columns_of, fields_of, key_field, text_field
from .panel import Panel, collected_warnings, remark, remark_of
from .training_choices import columns_of_var, devices, levels_of, matrices, tables
from .training_config import Runs, Settings
from .training_models import models_for, names_with
from .training_settings import NOTED, WithSettings

if TYPE_CHECKING:
    from anndata import AnnData

    from ..models.base import Model
    from ..training.run import TrainingRun
    from .loss_monitor import LossMonitor

KEYS = ("layer", "batch_key", "labels_key", "size_factor_key")
UNLABELED = "unlabeled_category"
OF_COLUMNS = (check_keys, check_categorical, check_continuous, check_size_factors)  # quick, and anew with each choice
OF_VALUES = tuple(check for check in CHECKS if check not in OF_COLUMNS)  # once per matrix, on a thread
BACKGROUND, GENE_SETS = "empirical_protein_background_prior", "gene_sets"
TRAINING, STOPPING, TOGETHER = "Training", "Early stopping", "Several processes"  # headings of the form
PROCESSES = "processes"  # an option of the panel, not of `train()`


@dataclass(frozen=True)
class Together:
    processes: Annotated[int, Field(ge=1, le=64)] = 1


class TrainingPanel(WithSettings, Panel):
    """Train a model by filling in a form.

    Parameters
    ----------
    adata
        The cells; for a model of several modalities also a MuData. Not modified, but for the note of `save_settings`.
    model
        Class of the model, or its name in `sca.models`; another one can be chosen above the form.
    checkpoint_dir
        Folder in which each run keeps its settings and checkpoints, in a folder of its own. If the kernel died during
        the last one, a new panel with the same folder has its settings and offers to go on with it, to the same bits.
    checkpoint_every
        Least seconds between two checkpoints.
    **options
        What is to be filled in at first: keys of the data, options of the model, options of `train()`.

    Attributes
    ----------
    model
        The model of the last training; None before the first.
    run
        Its `TrainingRun`.
    monitor
        A `LossMonitor` that shows each run of this panel.

    Examples
    --------
    >>> panel = sca.widgets.TrainingPanel(adata, batch_key="batch")  # doctest: +SKIP
    >>> panel  # fill in, click Train; then  # doctest: +SKIP
    >>> panel.model.get_latent_representation()  # doctest: +SKIP
    """

    _esm = inlined(HERE / "training_panel.js")
    model_name = traitlets.Unicode().tag(sync=True)
    model_names = traitlets.List(traitlets.Unicode()).tag(sync=True)  # of those that can be chosen; empty: none
    resumable = traitlets.Unicode().tag(sync=True)  # what can be gone on with, in words; empty if nothing
    fits = traitlets.List().tag(sync=True)  # remarks: of each model, whether these cells have what it needs
    estimate = traitlets.Unicode().tag(sync=True)  # what the training will cost, in words; empty if not measured

    commands = {  # noqa: RUF012
        "train": "_click_train",
        "choose": "_click_choose",
        "pause": "_click_pause",
        "resume": "_click_resume",
        "stop": "_click_stop",
        "preset": "_click_preset",
        "estimate": "_click_estimate",
        "save": "_click_save",
        "load": "_click_load",
        "go_on": "_click_go_on",
    }
    work = "training"

    def __init__(
        self,
        adata: AnnData | None = None,
        model: str | type[Model] = "SCVI",
        *,
        checkpoint_dir: str | os.PathLike | None = None,
        checkpoint_every: float = 10.0,
        **options: Any,
    ):
        from ..mapping.jobs import model_class

        self._runs = None if checkpoint_dir is None else Runs(checkpoint_dir)
        self._folder: Path | None = None  # of the last run
        self._kept: Settings | None = None  # with which that run was begun
        self._checkpoint_every = checkpoint_every
        self._class = model_class(model)
        self.adata = _checked(as_one_anndata(adata) if self._var_keys else adata)
        self.model: Model | None = None
        self._watchers: list[Callable[[TrainingRun], None]] = []
        form = self._drawn()
        noted = {key: value for key, value in self._noted().items() if form[key].problem(value) is None}
        names = {"model_name": self._class.__name__, "model_names": names_with(self._class)}
        super().__init__(form, noted, _flat(options), facts=self._facts(), **names)
        if self._runs is not None:
            self._offer_to_go_on(fill_in=not options)

    def _drawn(self) -> Form:
        """The form for this model and these cells."""
        choices = {key: () for key in KEYS}
        if self.adata is not None:
            columns = columns_of(self.adata.obs)
            numbers = columns_of(self.adata.obs, numeric=True)
            choices = {
                "layer": matrices(self.adata),
                "batch_key": columns,
                "labels_key": columns,
                "size_factor_key": numbers,
            }
        stopping = {field.name: field for field in fields_of(EarlyStopping, STOPPING)}
        metrics = choices_of("metric", sorted(set(METRICS.values())))
        stopping["metric"] = replace(stopping["metric"], kind="choice", choices=metrics)
        plan = {field.name: field for field in fields_of(self._class.plan_class, TRAINING)}
        plan["device"] = replace(plan["device"], kind="choice", choices=choices_of("device", devices()))
        return Form(
            [
                *(key_field(key, "Data", choices[key]) for key in KEYS),
                *([key_field(UNLABELED, "Data", levels_of(self.adata))] if self._learns_labels else ()),
                *(key_field(key, "Data", tables(self.adata)) for key in self._table_keys),
                *(key_field(key, "Data", columns_of_var(self.adata)) for key in self._var_keys),
                *([text_field(GENE_SETS, "Data")] if getattr(self._class, "takes_gene_sets", False) else ()),
                *fields_of(self._class.config_class, self._class.__name__),
                *plan.values(),
                *stopping.values(),
                *(fields_of(Together, TOGETHER) if self._is_shared else ()),
            ]
        )

    @property
    def _is_shared(self) -> bool:
        """Whether several processes can train this model together."""
        return getattr(self._class.module_class, "is_shared", False)

    @property
    def _learns_labels(self) -> bool:
        return hasattr(self._class, "predict")

    @property
    def _table_keys(self) -> tuple[str, ...]:
        """Arguments of the model that name a table of counts in obsm."""
        return getattr(self._class, "obsm_keys", ())

    @property
    def _var_keys(self) -> tuple[str, ...]:
        """Arguments of the model that name the column of var that tells modalities apart."""
        return getattr(self._class, "var_keys", ())

    def _facts(self) -> str:
        what = "features" if self._var_keys else "genes"
        return "" if self.adata is None else f"{self.adata.n_obs:,} cells × {self.adata.n_vars:,} {what}"

    def _noted(self) -> dict[str, Any]:
        """The keys that setup_anndata has noted, which a model reads if it is given none."""
        noted = self.adata.uns.get(NOTED, {}) if self.adata is not None else {}
        keys = (*KEYS, UNLABELED) if self._learns_labels else KEYS
        return {key: noted[key] for key in (*keys, *self._table_keys, *self._var_keys) if key in noted}

    def set(self, **options: Any) -> None:
        super().set(**_flat(options))

    def refresh(self) -> None:
        with self._lock:
            self._form = self._drawn()
            self.fields, self.facts = self._form.as_json(), self._facts()
            super().refresh()

    def choose(self, model: str | type[Model]) -> None:
        """Train another model; of what is filled in, all stays that it takes too.

        Parameters
        ----------
        model
            Class of the model, or its name in `sca.models`.

        Raises
        ------
        ValueError
            If there is no such model.
        RuntimeError
            While a training is under way.
        """
        from ..mapping.jobs import model_class

        chosen = model_class(model)
        with self._lock, self.hold_sync():
            if self._busy:
                raise RuntimeError("Another model cannot be chosen while the training is under way. Stop it first.")
            filled_in = self._form.chosen(self.values, self._form.defaults)
            self._class = chosen
            self.adata = as_one_anndata(self.adata) if self._var_keys and self.adata is not None else self.adata
            self._form = self._drawn()
            kept = self._form.known({**self._noted(), **filled_in})
            kept = {name: entry for name, entry in kept.items() if self._form[name].problem(entry) is None}
            self.model_name, self.model_names = chosen.__name__, names_with(chosen)
            self.fields, self.estimate = self._form.as_json(), ""
            self.values = {**self._form.defaults, **kept}
            self._take_entries(None)

    def _click_choose(self, content: dict, buffers: list) -> None:
        if content.get("name") in self.model_names and content["name"] != self.model_name:
            with self._lock:
                self._accept(content)
                self.choose(content["name"])

    # What is to be said of the data

    def _review(self) -> None:
        super()._review()
        if self.adata is not None:
            found = self._look("models", lambda: models_for(self.adata))
            self.fits = found if isinstance(found, list) else []

    def _missing(self) -> str:
        return "" if self.adata is not None else "There are no cells yet: call TrainingPanel(adata)."

    def _findings(self, options: dict[str, Any]) -> Iterator[tuple[str, dict[str, str]]]:
        if self.adata is None:
            return
        if self._learns_labels and self._class.needs_labels and options["labels_key"] is None:
            yield "labels_key", remark("error", f"{self._class.__name__} learns from labels.", "Choose their column.")
        asked = self._request(options)
        field_of = {f"obs['{shown(options[key])}']": key for key in reversed(KEYS) if options[key] is not None}
        for finding in Findings(finding for check in OF_COLUMNS for finding in check(asked)):
            yield field_of.get(finding.where, ""), remark_of(finding)
        for key in self._table_keys:
            for said in self._findings_of_table(options[key], options["batch_key"]):
                yield key, said
        if BACKGROUND in self._form:
            yield from self._findings_of_prior(options)
        for key in self._var_keys:
            for said in self._findings_of_modalities(options[key] or self._noted().get(key), asked.layer):
                yield key, said
        if sets := options.get(GENE_SETS):
            found = self._look((GENE_SETS, sets), lambda: match_gene_sets(self.adata, sets, MIN_GENES)[1])
            if found is not None:
                yield GENE_SETS, remark("error" if isinstance(found, Exception) else "ok", str(found))
        else:
            try:
                if has := self._class.found_in(self.adata):
                    yield "", remark("ok", has)
            except DataError as fault:
                yield GENE_SETS if GENE_SETS in self._form else "", remark("error", str(fault))
        if getattr(self._class, "reads_receptors", False):
            for said in self._findings_of_receptors(options["max_tcr_length"]):
                yield "", said
        key = asked.layer, asked.expects
        found = self._look(key, lambda: Findings(finding for check in OF_VALUES for finding in check(asked)))
        if isinstance(found, Exception):
            yield "layer", remark("error", f"{asked.where} could not be read: {found}")
        elif found is not None:
            for finding in found:
                yield "layer" if finding.where == asked.where else "", remark_of(finding)
            if found.ok:
                holds = "raw counts" if asked.expects == "counts" else "finite numbers"
                yield "layer", remark("ok", f"{asked.where} holds {holds}.")
        if self._noted() and all(options[key] is None for key in KEYS):
            noted = ", ".join(f"{key}='{value}'" for key, value in self._noted().items())
            yield "", remark("note", f"No key is chosen, so the model reads those that setup_anndata noted: {noted}.")

    def _findings_of_table(self, key: str | None, batch_key: str | None) -> Iterator[dict[str, str]]:
        """Of the table of counts in obsm that was chosen, or that is the only one."""
        try:
            key = key or self._noted().get("protein_key") or the_protein_key(self.adata)
            table = protein_table(self.adata, key)
        except DataError as fault:
            yield remark("error", str(fault))
            return
        batches = [""] * self.adata.n_obs if batch_key is None else self.adata.obs[batch_key]
        found = check_proteins(table, batches, self.adata.obs_names)
        yield from map(remark_of, found)
        if found.ok:
            yield remark("ok", f"{table.where} holds raw counts of {len(table.names)} proteins.")

    def _findings_of_prior(self, options: dict[str, Any]) -> Iterator[tuple[str, dict[str, str]]]:
        """Of the background that totalVI fits to cells' lower counts before it begins."""
        try:
            key = options["protein_key"] or self._noted().get("protein_key") or the_protein_key(self.adata)
            n_proteins = len(protein_table(self.adata, key).names)
        except DataError:  # said at the table
            return
        if not self._config(options).fits_prior(n_proteins):
            return
        why = "" if options[BACKGROUND] else f", for there are more than 10 proteins ({n_proteins})"
        spoils = (
            "Where antibodies differ much in background, this spoils calls of foreground: in a simulation .86 of them "
            "were right, .97 without it. Choose 'no' if the calls are what you want."
        )
        yield BACKGROUND, remark("note", f"The background starts from the cells' lower counts{why}.", spoils)

    def _findings_of_modalities(self, key: str | None, layer: str | None) -> Iterator[dict[str, str]]:
        found = self._look(("modalities", key, layer), lambda: _remarks_on_modalities(self.adata, key, layer))
        if isinstance(found, list):  # what cannot be read at all is said of the layer
            yield from found

    def _findings_of_receptors(self, longest: int) -> Iterator[dict[str, str]]:
        try:
            table = receptor_table(self.adata, self._noted().get("receptor_keys") or the_receptor_keys(self.adata))
        except DataError as fault:
            yield remark("error", str(fault))
            return
        found = check_receptors(table, self.adata.obs_names, longest)
        yield from map(remark_of, found)
        if found.ok:
            n = len(set(table.clonotypes))
            yield remark("ok", f"{table.where[0]} and {table.where[1]} hold {n:,} distinct receptors.")

    def _request(self, options: dict[str, Any]) -> Request:
        """What `validate` would be asked."""
        probe = self._class.__new__(self._class)  # what a model expects depends on nothing but its options
        probe.config = self._config(options)
        keys = {key: options[key] for key in KEYS}
        others = {"categorical_covariate_keys": (), "continuous_covariate_keys": ()}
        others["unlabeled_category"] = options.get(UNLABELED)
        return Request(self.adata, **keys, **others, expects=probe.expects, for_training=True)

    def _meant(self) -> dict[str, str]:
        """What empty options of the schedule come to."""
        if self.adata is None:
            return {}
        options = self._form.usable(self.values)
        n_train = max(1, math.ceil(options["train_size"] * self.adata.n_obs))
        config = self._config(options)
        plan = typed(self._class.plan_class_for(config), self._of(options, TRAINING), of="train()")
        resolved = plan.resolved(n_train, self.adata.n_obs - n_train)
        return {name: f"{getattr(resolved, name):g}" for name in ("max_epochs", "lr") if options[name] is None}

    def _config(self, options: dict[str, Any]) -> Any:
        """The model's options, typed."""
        return typed(self._class.config_class, self._of(options, self._class.__name__), of=self._class.__name__)

    def _of(self, options: dict[str, Any], section: str) -> dict[str, Any]:
        return {name: options[name] for name in self._form.names(section)}

    # Training

    def train(self, resume: bool = False) -> TrainingRun:
        """Train a new model as the form says, in the background; what a click on Train does.

        Parameters
        ----------
        resume
            Go on with the run in `checkpoint_dir` that a dead kernel has left, with its settings.

        Returns
        -------
        TrainingRun

        Raises
        ------
        RuntimeError
            If a training is under way, or the form is not fit; the text says what to mend. Or if there is nothing to go
            on with.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._busy or not self._is_looking)
            if resume:
                self._take_up()
            self._begin()
        return self._train(resume)

    def _click_train(self, content: dict, buffers: list) -> None:
        with self._lock:
            self._accept(content)
            self._begin()
        self._in_background(self._train)

    def _train(self, resume: bool = False) -> TrainingRun | None:
        """Build the model and start its run, for which `_begin` has made room."""
        try:
            self._enter("Preparing the model.")
            with collected_warnings() as texts:
                model = self._class(self.adata, **self._options_of_model())
            with self._lock:
                said = [f"{one['text']} {one['more']}".strip() for found in self.remarks.values() for one in found]
                self._notes = [text for text in texts if text not in said]
                if self._cancelled.is_set():
                    self._end("stopped")
                    return None
                self.model = model
                if self._runs is not None and not resume:
                    self._folder, self._kept = self._runs.begin(self.settings), self.settings
                self.resumable = ""
            model.watch_runs(lambda run: self._attach(model, run))
            kept = {"checkpoint_dir": self._folder, "resume": resume, "checkpoint_every": self._checkpoint_every}
            kept = {} if self._folder is None else kept
            if (n_processes := self.values.get(PROCESSES, 1)) > 1:
                from ..mapping.processes import train_in_processes

                self._enter(f"Starting {n_processes} processes.")
                return train_in_processes(model, n_processes, **self._options_of_training(), **kept)
            return model.train(background=True, **self._options_of_training(), **kept)
        except Exception as error:
            self._end("failed", error)
            raise

    def _run_ended(self, run: TrainingRun) -> None:
        if self._folder is not None:
            Runs.end(self._folder, run.status)
        super()._run_ended(run)

    def watch_runs(self, watcher: Callable[[TrainingRun], None]) -> None:
        """Call `watcher` with each `TrainingRun` of this panel from now on, before its first step."""
        self._watchers.append(watcher)

    def _attach(self, model: Model, run: TrainingRun) -> None:
        if model is not self.model:  # an older one, trained on by hand
            return
        self._follow(run)
        for watcher in self._watchers:
            watcher(run)

    @cached_property
    def monitor(self) -> LossMonitor:
        from .loss_monitor import LossMonitor

        return LossMonitor(self)

    # Code

    def _options_of_model(self) -> dict[str, Any]:
        return self._form.chosen(
            self.values,
            [
                *KEYS,
                UNLABELED,
                GENE_SETS,
                *self._table_keys,
                *self._var_keys,
                *self._form.names(self._class.__name__),
                "seed",
            ],
        )

    def _options_of_training(self) -> dict[str, Any]:
        options = self._form.chosen(self.values, self._form.names(TRAINING))
        stopping = self._form.chosen(self.values, self._form.names(STOPPING))
        return options | ({"early_stopping_kwargs": stopping} if stopping else {})

    def code(self) -> str:
        """Python for what is filled in; only what differs from the defaults is in it."""
        of_model = as_arguments(self._options_of_model())
        kept = {"checkpoint_dir": str(self._folder), "resume": True} if self._kept == self.settings else {}
        of_training, imported = as_arguments(self._options_of_training() | kept), ""
        train = f"model.train({of_training})\n"
        if (n_processes := self.values.get(PROCESSES, 1)) > 1:
            imported = "from scarches_widgets.mapping.processes import train_in_processes\n"
            train = f"train_in_processes(model, {n_processes}{', ' + of_training if of_training else ''}).wait()\n"
        return (
            f"import scarches_widgets as sca\n{imported}\n"
            f"model = sca.models.{self._class.__name__}(adata{', ' + of_model if of_model else ''})\n{train}"
        )

    def _summary(self) -> str:
        if self.run is None or not self.run.epochs:
            return f"Training panel for {self._class.__name__}: {self.facts or 'no cells'}; nothing trained yet."
        loss = self.run.epochs[-1].train["unweighted_loss"]
        return (
            f"Training panel for {self._class.__name__}: {self.facts}; {self.status} after "
            f"{counted(len(self.run.epochs), 'epoch')} at a loss of {loss:.1f} nats per cell."
        )

    def _picture(self, format: str) -> bytes:
        return self.monitor._picture(format)


def _checked(adata: object) -> AnnData | None:
    from anndata import AnnData

    if adata is None or isinstance(adata, AnnData):
        return adata
    raise TypeError(
        f"TrainingPanel takes an AnnData and was given a {type(adata).__name__}. Read a file first: "
        "sca.read('cells.h5ad')."
    )


def _flat(options: dict[str, Any]) -> dict[str, Any]:
    """Options with those of early stopping beside the others, as the form has them."""
    options = dict(options)
    stopping = options.pop("early_stopping_kwargs", {})
    return {**options, **respelled(stopping)}


def _remarks_on_modalities(adata: AnnData, key: str | None, layer: str | None) -> list[dict[str, str]]:
    """What is to be said of the modalities."""
    try:
        blocks, found = modalities_of(adata, key), check_modalities(adata, key, layer)
    except DataError as fault:
        return [remark("error", str(fault))]
    sizes = ", ".join(f"{shown(name)} ({len(columns):,} features)" for name, columns in blocks.items())
    return [*map(remark_of, found), *([remark("ok", f"There are {sizes}.")] if found.ok else [])]
