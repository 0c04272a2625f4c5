"""From data to shared results on one page: the widgets of this package as the steps of one work."""

from __future__ import annotations

import html
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import traitlets

from .. import hub, models
from ..data.names import DataError, did_you_mean, listed, shown
from ..data.read import read
from ..mapping.jobs import only_batches, without_batches
from ..models.base import Model
from .base import HERE, Publisher, View, inlined
from .contrasts import groupings_of
from .panel import collected_warnings
from .session import Session
from .session_script import Source
from .suite_data import IN_SCRIPT, ROLES, check_role, files_in, shown_whole, text_of, words_of
from .suite_steps import STEPS, WITH_CELLS, laid_out, view_of_cells

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)
MOST_GROUPS = 60  # of a column by which a query can be taken out of the reference
MODELS = [name for name in models.__all__ if name != "SageNet"]  # that train on cells without coordinates
WRITES = ("session", "report", "cells", "model")
OF_QUERY = ("mapping", "review", "tree", "tissue", "programs", "hub", "cells")  # widgets that show the query


class Suite(View):
    """Data, Train, Monitor, Map and review, Tree, Tissue, Programs, Share: one work, step by step.

    Parameters
    ----------
    reference
        Cells to train on, their file, or a trained model.
    query
        Cells to map, or their file. They get what `MappingPanel` writes, and for the picture
        `obsm["X_<model>_tsne"]` (beyond 4,000 cells `_pca`).
    tissue
        Cells with coordinates, or their file.
    session
        What the steps share; None: a new one.
    folder
        Whose files are offered, where models are looked for (in "models"), and results written.

    Attributes
    ----------
    session
        The `Session`: selection, colour, model, review, tree, and what was done.
    widgets
        Name → widget, of those that were opened: "training", "monitor", "mapping", "review", "cells", "tree",
        "tissue", "programs", "hub".
    reference, query, tissue
        The cells of each role; None if there are none.
    step
        The step that was opened last. Can be set.

    Raises
    ------
    TypeError, DataError
        If something given is neither cells nor a file of cells, or cannot be read.

    Notes
    -----
    Keys: in the row of steps the left and right arrows, Home and End move, Enter or Space opens; on the line between
    two panes the left and right arrows, Home and End move it, Enter folds the cells away and back.

    Examples
    --------
    >>> suite = Suite("atlas.h5ad", "mine.h5ad")
    >>> suite
    >>> suite.report("report.html")
    >>> print(suite.code())
    """

    _esm = inlined(Path(__file__).with_suffix(".js"))
    _css = View._css + "".join((HERE / "js" / name).read_text(encoding="utf-8") for name in ("form.css", "suite.css"))
    saved_as = "svg"
    step = traitlets.Enum(tuple(STEPS), "data").tag(sync=True)  # that was opened last; the browser may write it
    steps = traitlets.List().tag(sync=True)  # key, title, why it is locked, the step that mends it, whether it was done
    panes = traitlets.Dict().tag(sync=True)  # step -> ids of its widgets' models
    cells = traitlets.Unicode().tag(sync=True)  # id of the view of the session's cells; empty before
    facts = traitlets.Dict().tag(sync=True)  # role -> its cells in words; empty if there are none
    columns = traitlets.Dict().tag(sync=True)  # of the reference, with their groups, to take a query out by
    files = traitlets.List(traitlets.Unicode()).tag(sync=True)  # of the folder
    choices = traitlets.Dict().tag(sync=True)  # models to train, the chosen one, columns to make a tree of
    stage = traitlets.Unicode().tag(sync=True)  # what is being done; empty if nothing is
    timeline = traitlets.List().tag(sync=True)  # time and words of what was done
    written = traitlets.List(traitlets.Unicode()).tag(sync=True)  # sentences: what was written where
    script = traitlets.Unicode().tag(sync=True)  # what code() returns

    commands = {  # noqa: RUF012
        "open": "_click_open",
        "read": "_click_read",
        "take": "_click_take",
        "model": "_click_model",
        "tree": "_click_tree",
        "write": "_click_write",
        "load": "_click_load",
    }

    def __init__(
        self,
        reference: AnnData | Model | str | os.PathLike | None = None,
        query: AnnData | str | os.PathLike | None = None,
        tissue: AnnData | str | os.PathLike | None = None,
        *,
        session: Session | None = None,
        folder: str | os.PathLike = ".",
    ):
        self.session = Session() if session is None else session
        self.folder = Path(folder).expanduser()
        self.widgets: dict[str, View] = {}
        self.reference = self.query = self.tissue = None
        self._groupings: dict[str, list[str]] = {}  # of the reference
        self._shown: AnnData | None = None  # what this suite has put into the session
        self.reference_model: Model | None = None
        self.model_name, self.split_column = "SCVI", None
        self._lock = threading.RLock()
        self._turn = threading.Lock()  # of what is done in the background, one after the other
        self._idle = threading.Condition()
        self._n_jobs = 0  # under way or waiting for their turn
        self._publisher = Publisher(self._show)
        super().__init__()
        self.writable = {"step": lambda value: value}
        for role, given in zip(ROLES, (reference, query, tissue)):
            if given is not None:
                self._give(role, given)
        self.session.observe(self._hear_session, ["steps", "model"])
        self.observe(lambda change: self.touch(), "step")
        self._show()

    def close(self) -> None:
        if self.comm is not None:
            self._publisher.close()
            self.session.unobserve(self._hear_session, ["steps", "model"])
            for name in list(self.widgets):
                self._drop(name)
        super().close()

    # Data

    def _give(self, role: str, given: Any) -> None:
        from anndata import AnnData

        if role == "reference" and isinstance(given, Model):
            if given.adata is not None:
                self._take_role(role, given.adata, Source())
            source = Source(is_model=True, column="reference_cells" if given.adata is not None else None)
            self._use_model(given, source)
        elif isinstance(given, AnnData):
            self._take_role(role, given, Source())
        elif isinstance(given, str | os.PathLike):
            self.read(role, given)
        else:
            raise TypeError(
                f"Suite takes an AnnData or a file as {role} and was given a {type(given).__name__}. Read it first: "
                f"sca.read('{role}.h5ad')."
            )

    def read(self, role: str, path: str | os.PathLike) -> None:
        """Read the cells of a role, "reference", "query" or "tissue", from a file; see `sca.read`.

        What was done with other cells in this role is closed.
        """
        check_role(role)
        path = Path(path).expanduser()
        there = path if path.is_absolute() or path.exists() else self.folder / path
        self._take_role(role, read(there), Source(str(there)))

    def take_query(self, column: str, groups: list[str]) -> None:
        """Make cells of the reference the query, and the others the reference; as copies. Again: further cells of it.

        Parameters
        ----------
        column
            Of the reference's obs.
        groups
            Values of it that are the query's.

        Raises
        ------
        DataError
            If there is no reference, no such column or group, nothing would be left, or cells were taken out by
            another column before.
        """
        if self.reference is None:
            raise DataError("There is no reference that a query could be taken out of. Open one first.")
        groups = list(dict.fromkeys(groups))
        if not groups:
            raise DataError("No group is chosen, so no cell would be the query's. Choose at least one.")
        source = self.session.sources[IN_SCRIPT["reference"]]
        if source.column not in (None, column):
            raise DataError(
                f"Cells were taken out of the reference by '{shown(source.column)}' already. To take others out by "
                f"'{shown(column)}', open the reference's file again."
            )
        query = only_batches(self.reference, column, groups)
        rest = without_batches(self.reference, column, groups)
        if not rest.n_obs:
            raise DataError(f"All cells of the reference are of these groups of '{shown(column)}'. Leave some out.")
        gone = (*source.groups, *groups)
        self._take_role("reference", rest, Source(source.path, column, gone, inside=False))
        self._take_role("query", query, Source(source.path, column, tuple(groups)))
        self.split_column = column

    def _take_role(self, role: str, adata: AnnData, source: Source) -> None:
        if adata.n_obs == 0:
            raise DataError(f"The {role} has no cells. Was a filter too strict?")
        with self._lock:
            session, name = self.session, IN_SCRIPT[role]
            is_shown = role == "query" or (role == "reference" and self.query is None)
            if is_shown and session.adata is not self._shown:
                session.adopt(adata)  # a session that was given keeps its cells
            if role == "tissue":
                self._drop("tissue")
            else:
                for one in OF_QUERY if role == "query" else (*OF_QUERY, "monitor", "training"):
                    self._drop(one)
                kept = ("train", "models") if role == "query" else ()
                session.steps = tuple(one for one in session.steps if one.kind in kept)
                session.review = session.held_review = None
                if role == "reference":
                    self.reference_model = session.model = session.tree = session.made_tree = None
                    self.split_column, self._groupings = None, groupings_of(adata)
            setattr(self, role, adata)
            session.objects[name] = adata
            session.sources = {**session.sources, name: source}
            if is_shown:
                session.selection, session.color = [], None
                session.adata = self._shown = adata
            self.touch()

    def _use_model(self, model: Model, source: Source | None = None) -> None:
        """The model to map onto."""
        self.reference_model = self.session.model = model
        self.session.objects["reference_model"] = model
        if source is not None:
            self.session.sources = {**self.session.sources, "reference_model": source}

    @property
    def latest_model(self) -> Model | None:
        """The model adapted to the query, else the reference's."""
        mapping = self.widgets.get("mapping")
        return mapping.model if mapping is not None and mapping.status == "done" else self.reference_model

    @property
    def label_columns(self) -> list[str]:
        """Columns of the reference of which a tree can be made."""
        return list(self._groupings)

    # Steps

    def open_step(self, step: str) -> None:
        """Open a step, and make its widgets if it is not locked and they are not there yet."""
        if step not in STEPS:
            raise ValueError(
                f"There is no step '{shown(step)}'.{did_you_mean(step, STEPS)} There are: {listed(STEPS, 9)}."
            )
        with self._lock:
            self.step = step
            self._make(step)
            self._show()

    def _make(self, step: str) -> None:
        reason, _ = STEPS[step].locked(self)
        if reason:
            return
        with collected_warnings():
            for name, make in STEPS[step].make(self).items():
                if name not in self.widgets:
                    self.widgets[name] = widget = make()
                    widget.observe(lambda change: self.touch(), "status")
                    if name != "monitor":
                        self.session.follow(widget)
                    if name == "review":
                        widget.observe(self._relabelled, "written")
            if step in WITH_CELLS:
                self._make_cells()
        self.panes = {
            **self.panes,
            step: [_id_of(self.widgets[name]) for name in STEPS[step].make(self) if name in self.widgets],
        }

    def _make_cells(self) -> None:
        adata = self.session.adata
        if adata is None or "cells" in self.widgets:
            return
        latents = [name for name in adata.obsm if name.endswith(("_tsne", "_pca")) and name.startswith("X_")]
        basis = next(iter([*reversed(latents), *(name for name in ("X_umap", "X_tsne") if name in adata.obsm)]), None)
        if basis is not None:
            self.widgets["cells"] = view_of_cells(self, basis)
            self.cells = _id_of(self.widgets["cells"])

    def _drop(self, name: str) -> None:
        """Close a widget, if it is there."""
        widget = self.widgets.pop(name, None)
        if widget is None:
            return
        own = _id_of(widget)
        if name == "training":
            widget.stop()
        if name == "tree" and widget.hierarchy is self.session.tree and self.session.made_tree is not None:
            self.session.made_tree += f"\n{widget.code()}"  # an editor that is made later tells only its own edits
        self.panes = {step: [id for id in ids if id != own] for step, ids in self.panes.items()}
        if name == "cells":
            self.cells = ""
        widget.close()

    def _hear_session(self, change: dict) -> None:
        """What was trained can be mapped onto, what was mapped can be reviewed; on the thread that did it."""
        last = change["new"][-1] if change["name"] == "steps" and change["new"] else None
        if last is not None and last not in (change["old"] or ()):
            if last.kind == "train":
                self._begin("Taking the model over.", self._trained)
            elif last.kind == "map":
                self._begin("Laying the query out.", self._mapped)
        self.touch()

    def _trained(self) -> None:
        with self._lock:
            self._use_model(self.widgets["training"].model)
            if "mapping" in self.widgets:
                for name in ("mapping", "programs"):
                    self._drop(name)

    def _mapped(self) -> None:
        """Lay the query out, and open the review of its new labels."""
        with self._lock:
            mapping, session = self.widgets["mapping"], self.session
            for name in ("review", "cells", "programs"):
                self._drop(name)
            session.review = None
        how, position = laid_out(self.query.obsm[mapping.embedding])
        with self._lock, collected_warnings():
            self.query.obsm[f"{mapping.embedding}_{how}"] = position
            key = mapping.values["labels_key"]
            if key is not None:
                session.color = f"predicted_{key}"
            self._make("map")

    def _relabelled(self, change: dict) -> None:
        """Cells can be coloured by what was written."""
        if "cells" in self.widgets:
            self._begin("Reading the labels.", self.widgets["cells"].refresh)

    # What is shown

    def touch(self) -> None:
        """Something has changed; it is shown soon."""
        self._publisher.touch()

    def _show(self) -> None:
        with self._lock, self.hold_sync():
            done = {step.kind for step in self.session.steps if step.lines[1]}
            marks = {"data": self.session.adata is not None, "monitor": "train" in done}
            self.steps = [
                {
                    "key": key,
                    "title": step.title,
                    "locked": step.locked(self)[0],
                    "mend": step.locked(self)[1],
                    "done": marks.get(key, key in done),
                }
                for key, step in STEPS.items()
            ]
            sources = self.session.sources
            self.facts = {role: words_of(role, getattr(self, role), sources) for role in ROLES}
            self.columns = {name: groups for name, groups in self._groupings.items() if len(groups) <= MOST_GROUPS}
            self.files = files_in(self.folder)
            self.choices = {
                "models": MODELS,
                "model": self.model_name,
                "labels": self.label_columns,
                "has_tree": "tree" in self.widgets,
            }
            self.timeline = [[step.time, step.words] for step in self.session.steps if step.lines[1]]
            self.script = self.code()
            self.status = self._status()

    def _status(self) -> str:
        if self.stage:
            return "running"
        busy = [
            one.status for one in self.widgets.values() if one.status in ("running", "pausing", "paused", "stopping")
        ]
        return busy[0] if busy else "ready" if self.session.adata is not None or self.reference_model else "empty"

    # Work that takes a while, from the browser

    def _begin(self, stage: str, function: Callable[[], Any]) -> None:
        """Do something on a thread, after what was begun before; what goes wrong is on the screen."""
        self.error = None
        with self._idle:
            self._n_jobs += 1

        def work() -> None:
            with self._turn:
                self.stage = stage
                try:
                    function()
                except Exception as error:
                    logger.debug("A step of the suite failed.", exc_info=True)
                    self.show_error(error)
                finally:
                    self.stage = ""
                    self._show()
                    with self._idle:
                        self._n_jobs -= 1
                        self._idle.notify_all()

        threading.Thread(target=work, name="scarches-suite", daemon=True).start()

    def wait(self, timeout: float | None = None) -> str:
        """Wait until nothing that was clicked is under way here, at most `timeout` seconds; the status then.

        Trainings and mappings are their panels': `suite.widgets["training"].wait()`.
        """
        with self._idle:
            self._idle.wait_for(lambda: not self._n_jobs, timeout)
        self._show()
        return self.status

    def _click_open(self, content: dict, buffers: list) -> None:
        step = content["step"]
        if step in STEPS:
            self._begin(f"Opening {STEPS[step].title}.", lambda: self.open_step(step))

    def _click_read(self, content: dict, buffers: list) -> None:
        role, path = content["role"], text_of(content["path"])
        check_role(role)
        self._begin(f"Reading {shown(Path(path).name)}.", lambda: self.read(role, path))

    def _click_take(self, content: dict, buffers: list) -> None:
        column, groups = text_of(content["column"]), [text_of(one) for one in content["groups"]]
        self._begin("Taking the query out of the reference.", lambda: self.take_query(column, groups))

    def _click_model(self, content: dict, buffers: list) -> None:
        if content["name"] in MODELS:
            self.choose_model(content["name"])

    def choose_model(self, name: str) -> None:
        """Train another kind of model: a new form takes the place of the one in step Train.

        Raises
        ------
        ValueError
            If there is no such model.
        RuntimeError
            While one is being trained.
        """
        if name not in MODELS:
            raise ValueError(f"There is no model '{shown(name)}' to train here.{did_you_mean(name, MODELS)}")
        with self._lock:
            panel = self.widgets.get("training")
            if panel is not None and panel.run is not None and panel.run.is_active:
                raise RuntimeError("A model is being trained. End that first, or wait for it.")
            self.model_name = name
            for one in ("monitor", "training"):
                self._drop(one)
            self._make("train")
            self._show()

    def _click_tree(self, content: dict, buffers: list) -> None:
        self.make_tree([text_of(one) for one in content["keys"]])

    def make_tree(self, keys: list[str]) -> None:
        """Make the tree of step Tree anew of the reference's label columns, coarse to fine."""
        if self.reference is None:
            raise DataError("There is no reference yet, so no labels to make a tree of. Open its file.")
        self.error = None
        with self._lock:
            self.session.make_tree(IN_SCRIPT["reference"], keys)
            self._drop("tree")
            self._make("tree")
            self._show()

    # Sharing

    def _click_write(self, content: dict, buffers: list) -> None:
        what, path, overwrite = content["what"], text_of(content["path"]), content.get("replace") is True
        if what in WRITES:
            self._begin(f"Writing {shown(Path(path).name)}.", lambda: self._write(what, path, overwrite))

    def _write(self, what: str, path: str, overwrite: bool) -> None:
        target = Path(path).expanduser()
        target = target if target.is_absolute() else self.folder / target
        if target.exists() and not overwrite:
            raise FileExistsError(f"'{shown(target)}' exists. Choose another name, or replace it.")
        if what == "session":
            self.save(target)
        elif what == "report":
            self.report(target)
        elif what == "cells":
            self._write_cells(target)
        else:
            self.save_model(target, overwrite)
        self.written = [*self.written, f"{what}: {shown_whole(target)}"]

    def _write_cells(self, target: Path) -> None:
        if self.session.adata is None:
            raise DataError("There are no cells to write yet. Open a file in step Data.")
        self.session.adata.write_h5ad(target, compression="gzip")

    def save_model(self, path: str | os.PathLike, overwrite: bool = False) -> None:
        """Save the model that maps, with a card, to a folder; the session then knows where it is."""
        model = self.latest_model
        if model is None:
            raise DataError("There is no trained model to save yet. Train one in step Train.")
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        hub.save(model, path, overwrite=overwrite)
        name = "reference_model" if model is self.reference_model else "query_model"
        self.session.models = {**self.session.models, name: str(path)}
        if "hub" in self.widgets:
            self.widgets["hub"].refresh()

    def save(self, path: str | os.PathLike) -> Path:
        """Write the session as a small file; see `Session.save`."""
        return self.session.save(path)

    def load(self, path: str | os.PathLike) -> None:
        """Take up a session that `save` wrote, with the same cells; see `Session.load`.

        A saved model of the reference is loaded too; what else was computed comes back when it is computed again, or
        by the script.
        """
        with self._lock:
            for name in ("review", "tree"):
                self._drop(name)
            self.session.load(path)
            folder = self.session.models.get("reference_model")
            if folder is not None and self.reference_model is None and Path(folder).is_dir():
                self._use_model(hub.load(folder, self.reference))
            self._make(self.step)
            self._show()

    def _click_load(self, content: dict, buffers: list) -> None:
        path = Path(text_of(content["path"])).expanduser()
        path = path if path.is_absolute() else self.folder / path
        self._begin(f"Loading {shown(path.name)}.", lambda: self.load(path))

    def report(self, path: str | os.PathLike, title: str = "") -> Path:
        """Write what was done as one page that opens offline: pictures, tables, settings, script, versions."""
        from .suite_report import write_suite_report

        path = Path(path).expanduser()
        write_suite_report(self, path, title)
        return path

    def code(self) -> str:
        """The whole work as one script; see `Session.code`."""
        return self.session.code()

    # Without a kernel

    def _summary(self) -> str:
        facts = [f"{role}: {words}" for role, words in self.facts.items() if words]
        n = len(self.timeline)
        done = f"{n:,} step{'s' * (n != 1)} done" if n else "nothing done yet"
        return f"Suite; {'; '.join([*facts, done])}."

    def _picture(self, format: str) -> bytes:
        from .suite_report import suite_picture

        return suite_picture(self, format)

    def _static_html(self) -> str:
        return f"{super()._static_html()}<pre><code>{html.escape(self.code())}</code></pre>"


def _id_of(widget: View) -> str:
    return widget.model_id if widget.comm is not None else ""
