"""Cells in their tissue: a reference with coordinates, and where a query's cells lie in it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import traitlets

from ..data.findings import counted
from ..data.names import DataError, listed, shown
from ..data.schema import DataSchema
from ..mapping.layers import table_of
from ..mapping.spatial import HeldOut, held_out
from ..mapping.spatial_images import images_of
from ..models.sagenet import SageNet
from .base import HERE, inlined
from .bokeh_bridge import ensure_loader
from .cell_view import CellView
from .form import as_python
from .mapping_panel import overlap_of
from .panel import Panel, collected_warnings, remark
from .session import positions_of
from .spatial_assigning import Assignments
from .spatial_picture import TissuePicture, groupings_in
from .spatial_placing import (
    KEYS,
    MODEL,
    Placed,
    code_of_model,
    code_of_placing,
    code_of_test,
    code_of_writing,
    name_of,
    placed_by_model,
    placed_by_neighbours,
    placing_form,
    summed_up,
    verdict_of,
)
from .spatial_statistics import NAMES, OF_GENES, tissue_view
from .spatial_tissue import spatial_keys

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from ..training.run import TrainingRun
    from .session import Session


class SpatialMapper(Panel, TissuePicture):
    """Look at cells in their tissue, and place a query's cells in it.

    Parameters
    ----------
    reference
        Cells with coordinates: AnnData, or SpatialData with such a table. It is written to only by `assign` and `undo`.
    query
        Cells to be placed. They are written to only by `write` and `assign`. None: the reference is looked at. Of more
        than 200,000 cells here or in the reference the page gets pictures; see `EmbeddingView`.
    model
        A SageNet; trained first if it is not. None: one is made of the reference.
    spatial_key, section_key
        Key of `obsm` with the coordinates, and column of `obs` that tells sections apart.
    table_key
        Name of the table in SpatialData that has several. Its images are drawn where they lie over the coordinates
        without being turned or shifted.
    color
        Column of `obs` or gene of the cells that can be selected; see `EmbeddingView`.
    basis
        Where these cells lie beside the tissue: a key of `obsm`, "expression" or, once there is a model, "sagenet".
        None: an embedding that is there, else "expression".
    session
        Views of one session show the same selection and colour. It is the query's, if there is one.
    **options
        What is to be filled in at first: `region_key`, `method`, `n_folds`, `max_epochs`, and options of SageNet.

    Attributes
    ----------
    selection
        Positions of the selected cells of the query, or without one of the reference; as in `EmbeddingView`.
    layers
        The tissue's layers, lowest first: `layers["cells"].visible = False`, `.opacity`, `.color`, `.size`.
    threshold
        Least confidence of a cell that counts as assigned, 0 to 1; `is_assigned` says which do, bool (cells,).
    section, plane
        The section in sight, None for all; and of a 3-D tissue "xy", "xz" or "yz".
    locations, regions
        What the mapping says of the query: a DataFrame as `SageNet.predict_locations` gives it, and a Series; None
        before, or without `region_key`.
    held_out
        How the model does on cells that training did not see: a `mapping.spatial.HeldOut`; None before.
    model, run
        The SageNet, and the `TrainingRun` of its training.

    Notes
    -----
    Keys as in `EmbeddingView`; Ctrl+Enter maps, and Ctrl+Z takes the last assignment back. While Fill is on, a click on
    a group, Enter in the list, or a click into an outlined region assigns the name; Escape ends it.

    Examples
    --------
    >>> mapper = SpatialMapper(reference, query, section_key="section", region_key="region")
    >>> mapper.map()
    >>> mapper.wait()
    >>> mapper.layers["cells"].visible = False
    >>> mapper.write()
    """

    _esm = inlined(Path(__file__).with_suffix(".js"))
    _css = CellView._css + "".join((HERE / "js" / name).read_text() for name in ("form.css", "spatial.css"))
    threshold = traitlets.Float(0.0, min=0.0, max=1.0).tag(sync=True)
    confidence = traitlets.Bytes().tag(sync=True)  # float32 (query cells,); empty before the mapping
    results = traitlets.Dict().tag(sync=True)  # what came out
    verdict = traitlets.Dict().tag(sync=True)  # of the test on held-out cells
    overlap = traitlets.Dict().tag(sync=True)  # how the query's genes fit
    written = traitlets.List().tag(sync=True)  # sentences: what was written where
    undoable = traitlets.Unicode().tag(sync=True)  # the assignment that `undo` takes back; empty if there is none
    statistics = traitlets.Dict().tag(sync=True)  # names of squidpy's views, and of the columns that they can be of
    statistic = traitlets.Dict().tag(sync=True)  # the view in sight, or how far it is, or why there is none

    commands = {  # noqa: RUF012
        **CellView.commands,
        "color": "_click_color",
        "layer": "_click_layer",
        "sight": "_click_sight",
        "map": "_click_map",
        "neighbours": "_click_neighbours",
        "finish": "_click_finish",
        "pause": "_click_pause",
        "resume": "_click_resume",
        "stop": "_click_stop",
        "assign": "_click_assign",
        "fill": "_click_fill",
        "undo": "_click_undo",
        "write": "_click_write",
        "statistic": "_click_statistic",
    }
    work = "mapping"

    def __init__(
        self,
        reference: AnnData | SpatialData,
        query: AnnData | SpatialData | None = None,
        model: SageNet | None = None,
        *,
        spatial_key: str = "spatial",
        section_key: str | None = None,
        table_key: str | None = None,
        color: str | None = None,
        basis: str | None = None,
        session: Session | None = None,
        **options: Any,
    ):
        given = {"reference": reference, "query": query}
        reference, query = (table_of(data, table_key) for data in given.values())
        self._tables = [role for role, data in given.items() if hasattr(data, "tables")]
        self._table_key = table_key
        _, self.query, self.model = _checked(reference, query, model)
        self.held_out: HeldOut | None = None
        self._has_own_model, self._trained_by = model is not None, None
        self._fold = ""
        self._assignments = Assignments(reference if query is None else query)
        self._written_at: float | None = None  # threshold at which places were written last
        keys = {"spatial_key": spatial_key, "section_key": section_key}
        if model is not None:
            keys = {name: getattr(model.config, name) for name in KEYS}
        self._keys, self._wanted_key = keys, keys["spatial_key"]
        form = placing_form(reference, query, model is not None)
        known = {}
        if model is None:
            known = {"spatial_key": spatial_key if spatial_key in spatial_keys(reference) else None}
            known |= form.checked({"section_key": section_key})
        adata = reference if query is None else query
        ensure_loader()
        picture = {"reference": reference, "basis": basis, "region_key": options.get("region_key")}
        if "reference" in self._tables and not reference.uns.get("spatial"):
            picture["images"] = images_of(given["reference"], reference, spatial_key)
        super().__init__(form, known, options, adata=adata, color=color, session=session, **picture)
        self.writable |= {"threshold": _share}
        self.observe(lambda change: self._draw_anew(), "threshold")
        self.observe(self._write_code, ["selection", "section", "plane", "basis", "layer_states", "threshold"])

    @property
    def locations(self) -> pd.DataFrame | None:
        return None if self.placed is None else self.placed.locations

    @property
    def regions(self) -> pd.Series | None:
        return None if self.placed is None else self.placed.regions

    @property
    def is_assigned(self) -> np.ndarray:
        """Which cells of the query have a place of enough confidence, bool (cells,)."""
        if self.placed is None:
            return np.zeros(self.n_cells, dtype=bool)
        return self.placed.confidence >= self.threshold

    def _places_in(self, pane: str) -> np.ndarray:
        places = super()._places_in(pane)
        if pane != "tissue_picture" or self.placed is None:
            return places
        return np.where(self.is_assigned[:, None], places, np.nan)

    # What fits

    def _findings(self, options: dict[str, Any]) -> Iterator[tuple[str, dict[str, str]]]:
        yield from self._findings_of_tissue(options)
        if self.query is not None and not self._has_own_model:
            try:
                schema = DataSchema.of(self.reference)
                report = schema.align(self.query, options["gene_map"], 0.0)[1]
            except DataError as error:
                self.overlap = {}
                yield "", _remark_of(error)
            else:
                self.overlap = overlap_of(report)
                if report.overlap < options["min_gene_overlap"]:
                    few = f"{report.overlap:.1%} of the reference's genes are in the query, less than asked for here."
                    yield "min_gene_overlap", remark("error", few, "Use the same identifiers in both, or ask for less.")

    def _findings_of_tissue(self, options: dict[str, Any]) -> Iterator[tuple[str, dict[str, str]]]:
        keys = {name: options.get(name, self._keys[name]) for name in KEYS}
        if keys["spatial_key"] is None:
            missing = shown(self._wanted_key)
            what = f"The reference has no obsm['{missing}'] with 2 or 3 columns, so its cells have no coordinates."
            there = listed(self.reference.obsm, 10) if len(self.reference.obsm) else "nothing"
            some = spatial_keys(self.reference)
            mend = "Choose the table with the coordinates here." if some else f"Add them: adata.obsm['{missing}'] = …"
            self._lay_out(None, f"{what} Its obsm has: {there}.")
            yield "spatial_key", remark("error", what, f"Its obsm has: {there}. {mend}")
            return
        try:
            self._lay_out(keys, "")
        except DataError as error:
            self._lay_out(None, str(error))
            yield "spatial_key", _remark_of(error)

    def _why_not(self) -> str:
        reason = super()._why_not()
        return reason or ("" if self.query is not None else "Give cells to place: SpatialMapper(reference, query).")

    def refresh(self) -> None:
        """Look at both AnnData again, after they were changed."""
        with self._lock:
            CellView.refresh(self)
            self._tissue_of = ()
            self._list_columns()
            super().refresh()

    # Mapping

    def map(self) -> None:
        """Map as the form says, in the background; what a click on Map does. `wait()` waits for the end.

        Raises
        ------
        RuntimeError
            If a mapping is under way, or something must be mended first; the text says what.
        """
        self._click_map({}, [])

    def _click_map(self, content: dict, buffers: list) -> None:
        with self._lock:
            self._accept(content)
            self._begin()
        self._in_background(self._map)

    def _click_neighbours(self, content: dict, buffers: list) -> None:
        with self._lock:
            self.set(method="neighbours")
            self._begin()
        self._in_background(self._map)

    def _map(self) -> None:
        """All of it, for which `_begin` has made room."""
        options = dict(self.values)
        try:
            with collected_warnings() as texts:
                placed, n_bimodal = self._placed(options)
            self._notes += [text for text in texts if text not in self._notes]
            if placed is None:
                return self._end("stopped")
            with self._lock:
                self.placed = placed
                self.results = summed_up(placed, n_bimodal)
                self._planes_of.pop("sagenet", None)
                self._show_placed()
            if options["method"] == "SageNet" and options["n_folds"] and self.held_out is None:
                self._test(options)
            self._end("done")
        except Exception as error:
            self._end("failed", error)
            raise

    def _placed(self, options: dict[str, Any]) -> tuple[Placed | None, int]:
        """Where the query lies, and how many cells have two such places; None if it was stopped."""
        key = options["region_key"]
        if options["method"] == "neighbours":
            self._enter("Placing the query among its nearest neighbours.")
            at = self._keys_in_sight["spatial_key"]
            given = {"spatial_key": at, "layer": self._layer}
            return placed_by_neighbours(self.reference, self.query, self._tissue.places, key, **given), 0
        self._train(options)
        if self._cancelled.is_set():
            return None, 0
        self._enter("Placing the query.")
        placed = placed_by_model(self.model, self.reference, self.query, key)
        return placed, placed.locations.attrs["n_bimodal"]

    @property
    def _has_latents(self) -> bool:
        return self.model is not None and self.model.is_trained

    def _latents(self) -> np.ndarray:
        return self.model.get_latent_representation(self.adata, reference=name_of(self.model, self.reference))

    def _train(self, options: dict[str, Any]) -> None:
        """A trained model, a new one if it would be another."""
        asked = self._form.chosen(options, (*KEYS, *MODEL, "gene_map", "min_gene_overlap", "max_epochs"))
        if self._has_own_model:
            if self.model.is_trained:
                return
        elif self.model is not None and self._trained_by == asked:
            return
        else:
            self._enter("Choosing genes, and cutting the tissue into regions.")
            given = {name: value for name, value in asked.items() if name != "max_epochs"}
            self.model, self.held_out, self.verdict = SageNet(self.reference, self.query, **given), None, {}
        self.model.watch_runs(self._follow_mapping)
        if not self._cancelled.is_set():
            run = self.model.train(background=True, **self._form.chosen(options, ("max_epochs",)))
            run.wait()
            self._trained_by = None if self._cancelled.is_set() else asked

    def _follow_mapping(self, run: TrainingRun) -> None:
        if self._busy:  # else it was begun by hand
            self._follow(run)

    def _run_ended(self, run: TrainingRun) -> None:
        """The places follow."""

    def _test(self, options: dict[str, Any]) -> None:
        """Measure the model beside its baselines on cells that it has not seen."""
        if self._has_own_model:
            config = self.model.config
            given = {name: getattr(config, name) for name in (*MODEL, "partition_keys", "resolutions")}
        else:
            given = self._form.chosen(options, MODEL)
        runs: list[TrainingRun] = []
        of_mapping = self.run

        def watch(run: TrainingRun) -> None:
            runs.append(run)
            self._fold = f"Testing on held-out cells: part {len(runs)} of {options['n_folds']}."
            self._follow(run)

        try:
            self._fold = "Testing on held-out cells."
            self._show()
            with collected_warnings():
                found = held_out(
                    self.reference,
                    **self._keys_in_sight,
                    n_folds=max(2, options["n_folds"]),
                    layer=self._layer,
                    train=self._form.chosen(options, ("max_epochs",)),
                    watch=watch,
                    **given,
                )
        except DataError as error:
            self._notes.append(f"Not tested on held-out cells: {error}")
        else:
            if not self._cancelled.is_set():
                self.held_out, self.verdict = found, verdict_of(found)
        finally:
            self._fold, self.run = "", of_mapping

    @property
    def _layer(self) -> str | None:
        """Where the model reads the expression; None: X."""
        return self.model.schema.layer if self._has_own_model else None

    def _how_far(self) -> dict[str, Any]:
        progress = super()._how_far()
        return {**progress, "stage": self._fold} if self._fold else progress

    # From the browser, and the same in Python

    def stop(self) -> None:
        """End the mapping now. Before the query is placed, nothing changes; in the test, there is no verdict."""
        with self._lock:
            if self._busy:
                self._cancelled.set()
            if self._fold and self.run is not None:
                self.run.stop()  # in the foreground of our own thread
        super().stop()

    def finish(self) -> None:
        """End the training after the epoch under way, and go on to the places."""
        super().stop("epoch")

    def _click_stop(self, content: dict, buffers: list) -> None:
        self.stop()

    def _click_finish(self, content: dict, buffers: list) -> None:
        self.finish()

    def write(self) -> list[str]:
        """Write places, confidences and regions to the query; cells below the threshold are of region "Unknown".

        Returns
        -------
        What was written, by name: `obsm["X_sagenet"]`, `obs["sagenet_confidence"]`, `obs["sagenet_uncertainty"]` and
        `obs["predicted_…"]`; of neighbours, "knn" in place of "sagenet".
        """
        if self.placed is None:
            raise RuntimeError("The query has not been placed yet. Map it first: mapper.map().")
        names = []
        with self._lock, collected_warnings():  # a view becomes an AnnData of its own
            for (part, name), value in self.placed.for_query(self.threshold).items():
                replaced = " (replaced)" if name in getattr(self.query, part) else ""
                getattr(self.query, part)[name] = value
                names.append(f"{part}['{shown(name)}']")
                self.written = [*self.written, f"{names[-1]}{replaced}"]
            self._written_at = self.threshold
            self._list_columns()
            self.script = self.code()
        return names

    def assign(self, column: str, name: str, cells: Any = None) -> None:
        """Write a name into a column of obs for some cells; the others keep what they have. `undo` takes it back.

        Parameters
        ----------
        column
            A column of groups, or a new one.
        name
            Of the region, say.
        cells
            As `selection` takes them; None: the selected ones.

        Raises
        ------
        DataError
            If there is no such cell, a name is empty, or the column holds numbers.
        """
        mask = self.mask
        if cells is not None:
            mask = np.zeros(self.n_cells, dtype=bool)
            mask[positions_of(cells, self.adata)] = True
        with self._lock, collected_warnings():
            step = self._assignments.assign(column, name, mask)
            n = counted(int(mask.sum()), "cell")
            self._wrote(f"obs['{shown(step.column)}'] = '{shown(step.name)}' for {n}")

    def undo(self) -> None:
        """Take the last assignment back: the column becomes what it was before, or goes if there was none.

        Raises
        ------
        RuntimeError
            If there is nothing to take back.
        DataError
            If the column has been changed since; it stays as it is.
        """
        with self._lock, collected_warnings():
            try:
                step = self._assignments.undo()
            finally:
                self._name_undoable()
            if step.former is None:
                self._forget_column(step.column)
            self._wrote(f"obs['{shown(step.column)}'] as it was before '{shown(step.name)}'")

    def _wrote(self, sentence: str) -> None:
        self.error = None
        self.written = [*self.written, sentence]
        self._name_undoable()
        self._list_columns()
        self._read_colors()
        self.script = self.code()

    def _name_undoable(self) -> None:
        last = self._assignments.last
        self.undoable = "" if last is None else f"obs['{shown(last.column)}'] = '{shown(last.name)}'"

    def _forget_column(self, column: str) -> None:
        """Colour by something else than a column that is gone."""
        if self.color == column:
            self._choose_color(None)
        if not self._has_query:
            for layer in self.layers.values():
                if layer.color == column:
                    layer.color = None

    def _list_columns(self) -> None:
        super()._list_columns()
        groups = {"reference": groupings_in(self.reference, least=2)}
        if self.placed is not None and self.placed.key in self.query.obsm:
            groups["query"] = groupings_in(self.query, least=2)
        self.statistics = {"names": NAMES, "of_genes": OF_GENES, "groups": groups}

    def _click_statistic(self, content: dict, buffers: list) -> None:
        what, of, column = content["what"], content["of"], content["column"]
        if of not in self.statistics["groups"] or self.statistic.get("stage"):
            return
        adata, key = self.reference, self._keys_in_sight["spatial_key"]
        if of == "query":
            adata, key = self.query, self.placed.key

        def look() -> None:
            try:
                view = tissue_view(what, adata, column, key, self._keys_in_sight["section_key"])
                title = f"{NAMES[what]} of the {of}" + (f" by {column}" if column else "")
                self.statistic = {"png": view._repr_png_(), "title": title, "note": view.note, "code": view.code}
            except Exception as error:  # noqa: BLE001 - shown
                self.statistic = {"problem": str(error) or type(error).__name__}

        self.statistic = {"stage": "squidpy is at work; its first view takes some seconds more."}
        threading.Thread(target=look, name="scarches-statistic", daemon=True).start()

    @property
    def _keys_in_sight(self) -> dict[str, str | None]:
        """Where the tissue in sight has its coordinates and sections."""
        return {name: self.values.get(name, self._keys[name]) for name in KEYS}

    def _click_assign(self, content: dict, buffers: list) -> None:
        self.assign(content["column"], content["name"])

    def _click_fill(self, content: dict, buffers: list) -> None:
        """Assign a name to a category, or to the cells in sight within the outlined region at a point of the tissue."""
        if "code" in content:
            cells = self._coloring.values == int(content["code"])
        else:
            cells = self._cells_of_region_at(float(content["x"]), float(content["y"]))
        self.assign(content["column"], content["name"], cells)

    def _click_undo(self, content: dict, buffers: list) -> None:
        self.undo()

    def _click_write(self, content: dict, buffers: list) -> None:
        self.write()

    # Code

    def code(self) -> str:
        """Python for what is filled in, shown, written and assigned."""
        values, own = self.values, self._has_own_model
        lines = ["import scarches_widgets as sca", "", *self._code_of_tables()]
        if values["method"] == "SageNet" and not own and self._keys_in_sight["spatial_key"] is not None:
            lines += code_of_model(self._form, values, self.query is not None)
        if self.query is not None:
            name = name_of(self.model, self.reference) if own and len(self.model.config.references) > 1 else None
            lines += code_of_placing(values, self._keys_in_sight, name)
            if not own and (test := code_of_test(self._form, values)):
                lines.append(test)
        written = [] if self._written_at is None else code_of_writing(self._form, values, self._written_at)
        *sight, shown_again = self._code_of_sight()
        return "\n".join([*lines, "", *sight, *written, *self.assigned_code(), shown_again]) + "\n"

    def _code_of_tables(self) -> list[str]:
        """Lines that take the tables of SpatialData."""
        key = "" if self._table_key is None else f", {as_python(self._table_key)}"
        whole = [f"{self._name_of_reference} = reference"] if "reference" in self._tables else []
        return [*whole, *(f"{role} = sca.mapping.layers.table_of({role}{key})" for role in self._tables)]

    @property
    def _name_of_reference(self) -> str:
        """In the code: of what the view is made of."""
        return "tissue" if "reference" in self._tables else "reference"

    def assigned_code(self) -> list[str]:
        """Lines by which a `mapper` assigns the names that were assigned here."""
        return self._assignments.code()

    def _write_code(self, change: dict) -> None:
        with self._lock:
            if not self._form.problems(self.values):
                self.script = self.code()

    def _code_of_arguments(self) -> list[str]:
        return ["model"] if self._has_own_model or self.model is not None else []

    def _code_of_options(self) -> dict[str, Any]:
        options = self._form.chosen(self.values, ("region_key",))
        if self._table_key is not None and "reference" in self._tables:
            options["table_key"] = self._table_key
        return options

    @property
    def _has_picture(self) -> bool:
        return self._tissue is not None

    def _summary(self) -> str:
        sections = f" in {counted(len(self.sections), 'section')}" if self.sections else ""
        text = f"Tissue of {self.reference.n_obs:,} cells{sections}"
        if self.query is not None:
            text += f"; a query of {self.query.n_obs:,} cells"
            if self.placed is not None:
                n = int((~self.is_assigned).sum())
                text += f" placed by {self.placed.method}, {n:,} of them below the confidence of {self.threshold:g}"
        n = len(self.selection)
        return text + (f"; {n:,} selected." if n else ".")


def _remark_of(error: Exception) -> dict[str, str]:
    what, _, more = str(error).partition(". ")
    return remark("error", what.rstrip(".") + ".", more)


def _share(value: Any) -> float:
    if isinstance(value, bool) or not 0 <= float(value) <= 1:
        raise ValueError("A threshold is a number from 0 to 1.")
    return float(value)


def _checked(reference: object, query: object, model: object) -> tuple[AnnData, AnnData | None, SageNet | None]:
    from anndata import AnnData

    for name, given in (("reference", reference), ("query", query)):
        if not isinstance(given, AnnData) and not (name == "query" and given is None):
            raise TypeError(
                f"SpatialMapper takes an AnnData as {name} and was given a {type(given).__name__}. Read a file first: "
                f"sca.read('{name}.h5ad')."
            )
    if model is not None and not isinstance(model, SageNet):
        raise TypeError(
            f"SpatialMapper takes a SageNet as model and was given a {type(model).__name__}. Make one: "
            "sca.models.SageNet(reference)."
        )
    return reference, query, model
