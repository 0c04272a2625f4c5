"""Map a query onto a reference by a few clicks: what fits, surgery, training, labels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pandas as pd
import traitlets
from pydantic import Field as Limits
from pydantic.dataclasses import dataclass

from ..data.findings import counted
from ..data.genes import RULES, WORTH_A_WARNING, GeneReport
from ..data.names import listed, shown
from ..data.schema import BATCH, as_text
from ..mapping.transfer import UNKNOWN, weighted_knn_trainer, weighted_knn_transfer
from ..models.base import LEAST_OVERLAP, Model
from ..training.plan import TrainingPlan
from .base import HERE, inlined
from .form import Choice, Form, as_arguments, as_python, columns_of, fields_of, key_field
from .panel import Panel, collected_warnings, remark
from .words import words_of_mapping

if TYPE_CHECKING:
    from anndata import AnnData

    from ..training.events import Event
    from ..training.run import TrainingRun

NAMES_SHOWN = 20  # of missing genes and the like
ROWS = 200  # of the table of labels
BARS = 20  # of the histogram of uncertainties
SURGERY = ("gene_map", "min_gene_overlap", "query_labels", "new_labels")  # options of load_query_data
BY_CLASSIFIER = {"label": "classified", "uncertainty": "classified_uncertainty", "novelty": "novelty"}  # in obs


@dataclass(frozen=True)
class MappingOptions:
    """Options of a mapping beside the keys; the same class draws the form."""

    n_neighbors: Annotated[int, Limits(ge=1, le=10_000)] = 50
    threshold: Annotated[float, Limits(ge=0, le=1)] = 1.0
    max_epochs: Annotated[int, Limits(ge=1, le=100_000)] | None = None
    min_gene_overlap: Annotated[float, Limits(ge=0, le=1)] = LEAST_OVERLAP


@dataclass(frozen=True)
class LabelOptions:
    """Options of a mapping onto a reference that has a classifier."""

    query_labels: Literal["use", "ignore"] = "use"
    new_labels: Literal["ignore", "hold out", "extend"] = "ignore"


class MappingPanel(Panel):
    """Map a query onto a reference: what fits, surgery, training, labels.

    Parameters
    ----------
    reference_model
        A trained model; it is left untouched. To transfer labels, it must hold its cells.
    query
        The cells to map. They get `obsm["X_scvi"]` (after the model's name), and with labels `obs["predicted_…"]` and
        `obs["uncertainty_…"]`; from a reference with a classifier also `obs["classified_…"]`,
        `obs["classified_uncertainty_…"]` and `obs["novelty_…"]`, whether or not labels are transferred.
    **options
        What is to be filled in at first: `labels_key`, `n_neighbors`, `threshold`, `max_epochs`, `gene_map`,
        `min_gene_overlap`; with a classifier `query_labels`, `new_labels`.

    Attributes
    ----------
    model
        The adapted model; None before the first mapping.
    labels, uncertainties
        Series over the query's cells; None without labels to transfer. 0 = all neighbours agree.
    classified
        What the reference's classifier says: a DataFrame over the query's cells with `label`, `uncertainty` and
        `novelty`; None if it has no classifier.
    run
        The `TrainingRun` of the surgery.
    """

    _esm = inlined(HERE / "mapping_panel.js")
    overlap = traitlets.Dict().tag(sync=True)  # how genes and batches of the query fit
    results = traitlets.Dict().tag(sync=True)  # what came out: what was written, a row per label, a histogram

    commands = {  # noqa: RUF012
        "map": "_click_map",
        "finish": "_click_finish",
        "pause": "_click_pause",
        "resume": "_click_resume",
        "stop": "_click_stop",
    }
    work = "mapping"

    def __init__(self, reference_model: Model, query: AnnData, **options: Any):
        self.reference, self.query = _checked(reference_model, query)
        self.model: Model | None = None
        self.labels: pd.Series | None = None
        self.uncertainties: pd.Series | None = None
        self.classified: pd.DataFrame | None = None
        self._votes: dict[str, np.ndarray] = {}
        form = self._drawn()
        labels_key = reference_model.schema.labels_key
        known = {"labels_key": labels_key} if labels_key and form["labels_key"].problem(labels_key) is None else {}
        super().__init__(form, known, options, facts=self._facts())
        reference_model.watch_runs(lambda run: run.subscribe(self._hear_reference))

    def _drawn(self) -> Form:
        cells, section = self.reference.adata, "Mapping"
        words = words_of_mapping(self.reference.schema.noun)
        columns = [Choice(None, "none: the reference has no cells")] if cells is None else columns_of(cells.obs)
        names = [choice.value for choice in columns_of(self.query.var) if choice.value is not None and not choice.group]
        gene_maps = [Choice(None, "name"), *(Choice(rule, f"name, {words}") for rule, (words, _) in RULES.items())]
        gene_maps += [Choice(name, f"column {shown(name)}", "Columns of the query's var") for name in names]
        return Form(
            [
                key_field("labels_key", section, columns, words),
                *fields_of(MappingOptions, section, words),
                *(fields_of(LabelOptions, section, words) if self._has_classifier else ()),
                key_field("gene_map", section, gene_maps, words),
            ]
        )

    @property
    def _has_classifier(self) -> bool:
        return hasattr(self.reference, "predict_with_uncertainty") and bool(self.reference.schema.labels)

    def _facts(self) -> str:
        schema = self.reference.schema
        cells = f"{self.reference.adata.n_obs:,} cells × " if self.reference.adata is not None else ""
        batches = f", {len(schema.batches)} batches" if schema.batch_key else ""
        query = f"query: {self.query.n_obs:,} cells × {counted(self.query.n_vars, schema.noun)}"
        named = f"{type(self.reference).__name__} reference"
        return f"{query} → {named}: {cells}{counted(schema.n_genes, schema.noun)}{batches}"

    def _hear_reference(self, event: Event) -> None:
        if type(event).__name__ == "RunEnded" and not self._busy:
            self.refresh()

    # What fits

    def _findings(self, options: dict[str, Any]) -> Iterator[tuple[str, dict[str, str]]]:
        tried = {name: options[name] for name in SURGERY if name in options and name != "min_gene_overlap"}
        trial = self._look(tuple(tried.values()), lambda: self._tried(tried))
        if isinstance(trial, Exception):
            what, _, more = str(trial).partition(". ")
            yield "", remark("error", what.rstrip(".") + ".", more)
            self.overlap = {}
        elif trial is not None:
            self.overlap, texts = trial
            for text in texts:
                yield "", remark("warning", text)
            if self.overlap["share"] < options["min_gene_overlap"]:
                found = f"{self.overlap['share']:.1%} of the reference's {self.overlap['noun']}s are in the query"
                few = f"{found}, less than asked for here."
                yield "min_gene_overlap", remark("error", few, "Use the same identifiers in both, or ask for less.")
        if options["labels_key"] is not None:
            yield from self._findings_of_labels(options)

    def _meant(self) -> dict[str, str]:
        """How many epochs the schedule would choose."""
        plan = TrainingPlan()
        n_train = max(1, math.ceil(plan.train_size * self.query.n_obs))
        epochs = plan.resolved(n_train, self.query.n_obs - n_train, of_query=True).max_epochs
        return {"max_epochs": f"{epochs}"}

    def _findings_of_labels(self, options: dict[str, Any]) -> Iterator[tuple[str, dict[str, str]]]:
        votes = self._voters(options["labels_key"])
        if pd.api.types.is_float_dtype(self.reference.adata.obs[options["labels_key"]]):
            yield "labels_key", remark("error", "These are numbers, not labels.", "Choose a column of classes.")
        elif not votes.any():
            yield "labels_key", remark("error", "No cell of the reference has a label here.")
        elif not votes.all():
            yield "labels_key", remark("note", f"{(~votes).sum():,} cells without a label do not vote.")
        if options["n_neighbors"] > votes.sum() > 0:
            yield "n_neighbors", remark("warning", f"Only {votes.sum():,} cells are labelled; all of them will vote.")

    def _voters(self, key: str) -> np.ndarray:
        """Which cells of the reference have a label in this column, (cells,)."""
        if key not in self._votes:
            labels = as_text(self.reference.adata.obs[key])
            self._votes[key] = ~pd.isna(labels) & (labels != self.reference.schema.unlabeled_category)
        return self._votes[key]

    def refresh(self) -> None:
        with self._lock:
            self._votes = {}
            self._form = self._drawn()
            self.fields, self.facts = self._form.as_json(), self._facts()
            super().refresh()

    def _tried(self, surgery: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """How the query fits, and the warnings, by a surgery on trial; raises what stands in the way."""
        with collected_warnings() as texts:
            model = type(self.reference).load_query_data(self.query, self.reference, **surgery, min_gene_overlap=0.0)
        genes, before, after = model.gene_report, self.reference.schema, model.schema
        there = {
            column: set(as_text(self.query.obs[column]))
            for column, _ in before.variables.values()
            if column is not None
        }
        variables = [
            {
                "name": "batch" if variable == BATCH else column,
                "new": [shown(level) for level in after.variables[variable][1][len(levels) :][:NAMES_SHOWN]],
                "n_new": len(after.variables[variable][1]) - len(levels),
                "known": [shown(level) for level in levels if level in there[column]][:NAMES_SHOWN],
            }
            for variable, (column, levels) in before.variables.items()
            if column is not None
        ]
        overlap = {**overlap_of(genes), "variables": variables}
        return overlap, [text for text in texts if not text.startswith(str(genes))]

    # Mapping

    def map(self) -> None:
        """Map as the form says, in the background; what a click on Map does. `wait()` waits for the end.

        Raises
        ------
        RuntimeError
            If a mapping is under way, or the form is not fit; the text says what to mend.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._busy or not self._is_looking)
            self._click_map({}, [])

    def _click_map(self, content: dict, buffers: list) -> None:
        with self._lock:
            self._accept(content)
            self._begin()
            self.results = {}
        self._in_background(self._map)

    def _map(self) -> None:
        """All of it, for which `_begin` has made room; results are written at the end, together."""
        options = dict(self.values)
        try:
            self._enter("Adapting the reference.")
            with collected_warnings() as texts:
                surgery = self._form.chosen(options, SURGERY)
                self.model = type(self.reference).load_query_data(self.query, self.reference, **surgery)
            self._note(texts)
            self.model.watch_runs(self._follow)
            if not self._cancelled.is_set():
                with collected_warnings() as texts:
                    run = self.model.train(background=True, **self._form.chosen(options, ("max_epochs",)))
                self._note(texts)
                run.wait()
            if not self._cancelled.is_set():
                self._enter("Embedding and labelling the query.")
                z = self.model.get_latent_representation()
                classified = self.model.predict_with_uncertainty() if self._has_classifier else None
                winners = None if options["labels_key"] is None else self._transferred(z, options)
            if self._cancelled.is_set():
                self._end("stopped")
            else:
                with self._lock:
                    self.results = self._written(z, winners, classified, options)
                self._end("done")
        except Exception as error:
            self._end("failed", error)
            raise

    def _note(self, texts: list[str]) -> None:
        """Keep the warnings that no remark has told already."""
        said = [one["text"] for found in self.remarks.values() for one in found]
        self._notes += [text for text in texts if text not in said and not text.startswith(str(self.model.gene_report))]

    def _run_ended(self, run: TrainingRun) -> None:
        """Labels follow."""

    def _transferred(self, z: np.ndarray, options: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Each query cell's winning label, object (cells,), and its uncertainty, (cells,)."""
        from anndata import AnnData

        key, cells = options["labels_key"], self.reference.adata
        votes = self._voters(key)
        obs = pd.DataFrame({key: as_text(cells.obs[key])[votes]}, index=cells.obs_names[votes])
        reference = AnnData(obs=obs, obsm={self.embedding: self.reference.get_latent_representation()[votes]})
        query = AnnData(obs=pd.DataFrame(index=self.query.obs_names), obsm={self.embedding: z})
        with collected_warnings() as texts:
            knn = weighted_knn_trainer(reference, self.embedding, options["n_neighbors"])
            winners, uncertainties = weighted_knn_transfer(query, None, reference.obs, key, knn)
        self._note(texts)
        return winners[key].to_numpy(), uncertainties[key].to_numpy()

    def _written(
        self, z: np.ndarray, winners: tuple | None, classified: pd.DataFrame | None, options: dict[str, Any]
    ) -> dict[str, Any]:
        """Write what came out to the query, and sum it up."""
        key, threshold = options["labels_key"], options["threshold"]
        to_write = {("obsm", self.embedding): z}
        if winners is not None:
            names, uncertainty = winners
            to_write["obs", f"predicted_{key}"] = np.where(uncertainty > threshold, UNKNOWN, names)
            to_write["obs", f"uncertainty_{key}"] = uncertainty
        self.classified = classified
        if classified is not None:
            to_write |= {("obs", name): classified[column].to_numpy() for column, name in self._columns.items()}
        written = []
        with collected_warnings():  # a view becomes an AnnData of its own
            for (part, name), value in to_write.items():
                replaced = " (replaced)" if name in getattr(self.query, part) else ""
                getattr(self.query, part)[name] = value
                written.append(f"{part}['{shown(name)}']{replaced}")
        if winners is None:
            self.labels = self.uncertainties = None
            return {"written": written, "n_cells": len(z)}
        self.labels, self.uncertainties = (
            self.query.obs[f"{what}_{key}"].copy() for what in ("predicted", "uncertainty")
        )
        agrees = None if classified is None else classified["label"].to_numpy() == names
        summary = _summed_up(names, uncertainty, threshold, agrees)
        return {"written": written, "n_cells": len(z), "labels_key": shown(key), **summary}

    @property
    def _columns(self) -> dict[str, str]:
        """Column of the classifier's table -> column of obs."""
        return {column: f"{name}_{self.reference.schema.labels_key}" for column, name in BY_CLASSIFIER.items()}

    # From the browser, and the same in Python

    def stop(self) -> None:
        """End the mapping now; nothing is written to the query, the model stays usable."""
        with self._lock:
            if self._busy:
                self._cancelled.set()
        super().stop()

    def finish(self) -> None:
        """End the training after the epoch under way, and go on to embedding and labels."""
        super().stop("epoch")

    def _click_stop(self, content: dict, buffers: list) -> None:
        self.stop()

    def _click_finish(self, content: dict, buffers: list) -> None:
        self.finish()

    # Code

    @property
    def embedding(self) -> str:
        """Key of obsm under which the query's latents are written."""
        return f"X_{type(self.reference).__name__.lower()}"

    def code(self) -> str:
        """Python for what is filled in; only what differs from the defaults is in it."""
        options, name = self.values, type(self.reference).__name__
        surgery = as_arguments(self._form.chosen(options, SURGERY))
        latents = f'query.obsm["{self.embedding}"] = model.get_latent_representation()'
        lines = [
            "import scarches_widgets as sca",
            "",
            f"model = sca.models.{name}.load_query_data(query, reference{', ' + surgery if surgery else ''})",
            f"model.train({as_arguments(self._form.chosen(options, ('max_epochs',)))})",
            latents,
        ]
        if self._has_classifier:
            lines += ["", "scores = model.predict_with_uncertainty()"]
            for column, in_obs in self._columns.items():
                lines.append(f"query.obs[{as_python(in_obs)}] = scores[{as_python(column)}]")
        if options["labels_key"] is not None:
            lines = ["import anndata as ad", *lines, "", *self._code_of_labels(options)]
        return "\n".join(lines) + "\n"

    def _code_of_labels(self, options: dict[str, Any]) -> list[str]:
        key, obs = as_python(options["labels_key"]), f"cells.obs[{as_python(options['labels_key'])}]"
        emb, unlabeled = as_python(self.embedding), self.reference.schema.unlabeled_category
        kept = f"{obs}.notna()" if unlabeled is None else f"{obs}.notna() & ({obs} != {as_python(unlabeled)})"
        of_transfer = as_arguments(self._form.chosen(options, ("threshold",)))
        predicted, uncertainty = (as_python(f"{what}_{options['labels_key']}") for what in ("predicted", "uncertainty"))
        return [
            f"cells = ad.AnnData(obs=reference.adata.obs, obsm={{{emb}: reference.get_latent_representation()}})",
            *([] if self._voters(options["labels_key"]).all() else [f"cells = cells[{kept}]"]),
            f"knn = sca.utils.weighted_knn_trainer(cells, {emb}, n_neighbors={options['n_neighbors']})",
            "labels, uncertainties = sca.utils.weighted_knn_transfer(",
            f"    query, ref_adata_obs=cells.obs, label_keys={key}, knn_model=knn"
            f"{', ' + of_transfer if of_transfer else ''}",
            ")",
            f"query.obs[{predicted}] = labels[{key}]",
            f"query.obs[{uncertainty}] = uncertainties[{key}]",
        ]

    def _summary(self) -> str:
        text = f"Mapping panel: {self.facts}; {self.status}."
        if self.results:
            text += f" Written: {', '.join(self.results['written'])}."
        return text

    @property
    def _has_picture(self) -> bool:
        return self.uncertainties is not None

    def _picture(self, format: str) -> bytes:
        from ..mapping.pictures import figure, picture_bytes

        drawn, (axis,) = figure((5, 2.6))
        axis.set(xlabel="uncertainty of the label", ylabel="query cells", xlim=(0, 1))
        if self.uncertainties is None:
            axis.text(0.5, 0.5, "no labels transferred yet", ha="center", transform=axis.transAxes)
        else:
            axis.hist(self.uncertainties, bins=BARS, range=(0, 1), color="#0072B2")
        return picture_bytes(drawn, format)


def _checked(reference: object, query: object) -> tuple[Model, AnnData]:
    from anndata import AnnData

    if not isinstance(reference, Model):
        raise TypeError(
            f"MappingPanel takes a trained model as reference and was given a {type(reference).__name__}. Load a "
            "saved one first: sca.models.SCVI.load(folder, adata)."
        )
    if not isinstance(query, AnnData):
        raise TypeError(
            f"MappingPanel takes an AnnData as query and was given a {type(query).__name__}. Read a file first: "
            "sca.read('query.h5ad')."
        )
    return reference, query


def overlap_of(genes: GeneReport) -> dict[str, Any]:
    """How the genes of a query fit, for the page."""
    return {
        "noun": genes.noun,
        "share": genes.overlap,
        "enough": genes.overlap >= WORTH_A_WARNING,
        "n_reference": genes.n_reference,
        "n_shared": genes.n_shared,
        "n_missing": len(genes.missing),
        "missing": listed(genes.missing, NAMES_SHOWN),
        "n_extra": len(genes.extra),
        "extra": listed(genes.extra, NAMES_SHOWN),
        "reordered": genes.reordered,
        "hint": genes.hint or "",
    }


def _summed_up(
    winners: np.ndarray, uncertainty: np.ndarray, threshold: float, agrees: np.ndarray | None
) -> dict[str, Any]:
    """A row per label, most cells first, and a histogram; with a classifier, the share of cells on which it agrees."""
    cells = pd.DataFrame({"label": winners, "mean": uncertainty, "unknown": uncertainty > threshold})
    if agrees is not None:
        cells["agrees"] = agrees
    by_label = cells.groupby("label")
    means = by_label.mean().assign(n=by_label.size()).sort_values("n", ascending=False, kind="stable")
    rows = [
        {"label": shown(label), "n": int(row.pop("n")), **{name: float(value) for name, value in row.items()}}
        for label, row in means.to_dict("index").items()
    ]
    bars, _ = np.histogram(uncertainty, bins=BARS, range=(0, 1))
    return {
        "rows": rows[:ROWS],
        "n_labels": len(rows),
        "histogram": bars.tolist(),
        "threshold": threshold,
        "n_unknown": int(cells["unknown"].sum()),
        "mean": float(uncertainty.mean()),
        "agrees": None if agrees is None else float(agrees.mean()),
    }
