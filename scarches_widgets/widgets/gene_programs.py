"""The gene programs of a model: which vary, what tells groups of cells apart, their genes and their activity."""

from __future__ import annotations

import html
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bokeh
import numpy as np
import pandas as pd
import traitlets

from ..data.gene_sets import Source
from ..data.names import DataError, did_you_mean, listed, shown
from ..mapping.pictures import COLOURS, NO_VALUE
from .base import HERE, Publisher, View, inlined
from .bokeh_bridge import ensure_loader, figure_item
from .cell_view import CellView
from .coloring import Coloring, numbers_coloring
from .contrasts import ACTIVITY_CODE, Contrast, Filters, activities, as_options, groupings_of
from .embedding_view import IN_WORDS, cells_figure, find_basis, positions_in
from .panel import collected_warnings
from .program_facts import ProgramFacts, set_sizes
from .session import positions_of

if TYPE_CHECKING:
    from anndata import AnnData

    from ..models.base import Model
    from ..training.events import Event
    from ..training.run import TrainingRun
    from .session import Session

LONGEST_NAME = 200
PATIENCE = 5.0  # seconds that a view waits to be displayed, for the picture that the notebook saves
ROWS = 30  # of the static table


class GenePrograms(CellView):
    """Explore the gene programs of a model: rank them, compare groups of cells, open their genes, see their activity.

    Parameters
    ----------
    model
        A model whose latents are gene programs, such as `EXPIMAP`. If it is not trained yet, the view says so.
    adata
        Up to 200,000 cells; None: the model's own. They are written to only when asked (`write_obs`, `write_obsm`).
    basis
        Key of `obsm` to draw the cells at, with or without "X_"; None: the UMAP if there is one, else any other that
        has two columns, else two programs against each other.
    session
        Views of one session show the same selection and colour.
    gene_sets
        The GMT file, or the dict, that the model was made from: then each program says how many genes of its set are in
        the data. (A model keeps only those that are.)

    Attributes
    ----------
    table
        DataFrame of the programs as they are ranked and filtered now.
    scores
        Activities, DataFrame (cells × programs), as `get_gene_program_scores` gives them; None before they are known.
    term
        The open program; `genes` is the table of its genes. Can be set.
    of
        What a program's activity is read from: "genes", how far the model raises its genes, whichever programs it does
        it by; or "latents", what the program itself adds. See `get_gene_program_scores`. Can be set.
    search, gene, least_genes, with_switched_off
        Which programs are listed: those with this text in their names, annotated with this gene, annotated with at
        least so many genes; and whether those that the group lasso has switched off are too. Can be set.
    basis, against
        Where cells are drawn: a key of `obsm`; or None, then the activity of `against` over that of `term`. Can be set.
    paint
        What colours them: "activity" of the open program, the "groups" compared, or the "color" of the session. Can be
        set.
    selection
        As in `EmbeddingView`; the browser's lasso.

    Raises
    ------
    TypeError
        If the model has no gene programs.
    DataError
        If there are no cells or too many, or the basis does not exist.

    Notes
    -----
    Keys: in the table the arrows, Page Up, Page Down, Home and End move, Enter opens a program, F2 renames it (Enter
    keeps the name, Escape the old one). In the list of genes Enter colours the cells by a gene. On the picture of the
    cells as in `EmbeddingView`.

    Examples
    --------
    >>> view = GenePrograms(model)
    >>> view.compare("condition", "stimulated", "control")
    >>> view.wait()
    >>> view.table.head()
    """

    _esm = inlined(Path(__file__).with_suffix(".js"))
    _css = CellView._css + "".join((HERE / "js" / name).read_text() for name in ("form.css", "programs.css"))
    term = traitlets.Unicode(None, allow_none=True)
    against = traitlets.Unicode(None, allow_none=True)
    basis = traitlets.Unicode(None, allow_none=True)
    gene = traitlets.Unicode()
    of = traitlets.Enum(("genes", "latents"), "genes").tag(sync=True)
    search = traitlets.Unicode().tag(sync=True)
    least_genes = traitlets.Int(0, min=0).tag(sync=True)
    with_switched_off = traitlets.Bool(False).tag(sync=True)
    paint = traitlets.Enum(("activity", "groups", "color"), "activity").tag(sync=True)
    bokeh_version = traitlets.Unicode(bokeh.__version__).tag(sync=True)
    figure = traitlets.Dict().tag(sync=True)  # Bokeh's JSON, without data
    facts = traitlets.Unicode().tag(sync=True)  # model and cells, in words
    progress = traitlets.Dict().tag(sync=True)  # what is being done, in words, and whether it is a training
    terms = traitlets.List().tag(sync=True)  # names, in the model's order: elsewhere programs are positions in it
    ranking = traitlets.Dict().tag(sync=True)  # kind, title, notes, and a row for each program
    groupings = traitlets.Dict().tag(sync=True)  # column of obs -> its groups
    contrast = traitlets.Dict().tag(sync=True)  # what was asked for: the entries of the form
    marked = traitlets.Dict().tag(sync=True)  # selections A and B -> how many cells
    with_gene = traitlets.Dict().tag(sync=True)  # the gene asked for, the programs that have it, or what is wrong
    opened = traitlets.Dict().tag(sync=True)  # the open program and its genes
    sight = traitlets.Dict().tag(sync=True)  # how the cells are drawn, and what else there is
    positions = traitlets.Bytes().tag(sync=True)  # float32: all x, then all y
    label = traitlets.Unicode().tag(sync=True)  # of the picture of the cells
    axes = traitlets.Dict().tag(sync=True)  # its axes in words, and whether both have one scale
    written = traitlets.List().tag(sync=True)  # what was written into the AnnData
    script = traitlets.Unicode().tag(sync=True)  # what code() returns

    commands = {  # noqa: RUF012
        "color": "_recolor",
        "rank": "_click_rank",
        "of": "_click_of",
        "mark": "_click_mark",
        "open": "_click_open",
        "gene": "_click_gene",
        "rename": "_click_rename",
        "look": "_click_look",
        "paint": "_click_paint",
        "write": "_click_write",
        "train": "_click_train",
        "stop": "_click_stop",
        "retry": "_click_retry",
    }

    def __init__(
        self,
        model: Model,
        adata: AnnData | None = None,
        basis: str | None = None,
        session: Session | None = None,
        gene_sets: Source | None = None,
    ):
        self.model, adata = _checked(model, adata)
        self.scores: pd.DataFrame | None = None
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._busy = self._closed = False
        self._failure = ""  # of the last computation
        self._wanted: Contrast | None = None  # to rank by; None: by activity
        self._ranked: pd.DataFrame | None = None  # all programs
        self._ranked_by: Contrast | None = None
        self._score_notes: list[str] = []  # warnings of the activities
        self._marks: dict[str, np.ndarray | None] = {"A": None, "B": None}
        self._writes: dict[tuple[str, str], str | None] = {}  # where -> the program written there; None: all
        self._old_names: dict[int, str] = {}
        self._publisher = Publisher(self._show)
        self._programs = ProgramFacts(model)
        ensure_loader()
        bases = _bases(adata)
        basis = next(iter(bases), None) if basis is None else find_basis(adata, basis)
        super().__init__(adata, None, session, figure=figure_item(cells_figure(adata.n_obs)), basis=basis)
        self._set_sizes = {} if gene_sets is None else set_sizes(gene_sets, self._programs.sets)
        self.writable |= {"search": _text, "least_genes": _count, "with_switched_off": _flag}
        self.groupings, self.contrast = groupings_of(adata), {"kind": "activity"}
        self.marked = {"A": None, "B": None}
        self.observe(self._filtered, ["search", "least_genes", "with_switched_off", "gene"])
        self.observe(self._opened_another, "term")
        self.observe(self._read_anew, "of")
        self.observe(self._look, ["against", "basis"])
        self.observe(self._repaint, "paint")
        model.watch_runs(self._follow_run)
        if model.run is not None and model.run.is_active:
            self._follow_run(model.run)
        self._look()
        self._request()

    def close(self) -> None:
        if self.comm is not None:
            self._closed = True
            self._publisher.close()
        super().close()

    # What is known of the model

    @property
    def _usable(self) -> bool:
        return self.model.is_trained or bool(self.model._surgeries)

    @property
    def _run(self) -> TrainingRun | None:
        """The training under way."""
        run = self.model.run
        return run if run is not None and run.is_active else None

    def refresh(self) -> None:
        """Read model and cells again, after they were changed."""
        with self._lock:
            super().refresh()
            self.groupings = groupings_of(self.adata)
            self._request(anew=True)

    def _follow_run(self, run: TrainingRun) -> None:
        run.subscribe(self._hear)
        self._publisher.touch()

    def _hear(self, event: Event) -> None:
        """On the run's thread."""
        if self._closed:
            return
        if type(event).__name__ == "RunEnded":
            self._request(anew=True)
        self._publisher.touch()

    def _show(self) -> None:
        """Bring to the page what is not told by traits of their own."""
        with self._lock, self.hold_sync():
            run = self._run
            if run is not None:
                of = f" of {run.started.max_epochs:,}" if run.started else ""
                stage = f"The model is being trained: epoch {len(run.epochs):,}{of}."
                self.status, self.progress = "running", {"stage": stage, "training": not run.in_foreground}
            elif self._busy:
                stage = "Comparing the groups." if self.scores is not None and self._wanted else "Reading the cells."
                self.status, self.progress = "running", {"stage": stage, "training": False}
            else:
                self.status = "failed" if self._failure else "ready" if self._usable else "empty"
                self.progress = {"stage": "", "training": False}
            kind, n_on = type(self.model).__name__, int(self._programs.is_on.sum())
            self.facts = f"{kind}: {len(self.model.terms):,} programs, {n_on:,} active · {self.n_cells:,} cells"
            self.script = self.code()

    # Ranking

    def rank_by_activity(self) -> None:
        """List those programs first that vary most among the cells."""
        with self._lock:
            self._wanted, self.contrast = None, {"kind": "activity"}
            self._request()

    def compare(self, column: str, group: str, comparison: str | None = None) -> None:
        """List those programs first that tell a group of a column from another one, or (None) from all other cells.

        It is computed in the background; `wait()` waits for it.

        Raises
        ------
        DataError
            If there is no such column or group.
        """
        wanted = Contrast.of_groups(self.adata, column, group, comparison)
        with self._lock:
            self._wanted = wanted
            self.contrast = {"kind": "groups", "column": column, "group": group, "comparison": comparison}
            self._request()

    def mark(self, name: str, cells: Any = None) -> None:
        """Keep the selection, or the cells given, as "A" or "B"."""
        if name not in self._marks:
            raise ValueError(f"'{name}' is neither 'A' nor 'B'.")
        chosen = self.selection if cells is None else positions_of(cells, self.adata)
        if not len(chosen):
            raise DataError(f"No cells are selected, so they cannot be {name}. Draw around some on the picture first.")
        mask = np.zeros(self.n_cells, dtype=bool)
        mask[chosen] = True
        self._keep(name, mask)

    def unmark(self, name: str) -> None:
        """Forget "A" or "B"; without B, A is compared to all other cells."""
        if name not in self._marks:
            raise ValueError(f"'{name}' is neither 'A' nor 'B'.")
        self._keep(name, None)

    def _keep(self, name: str, mask: np.ndarray | None) -> None:
        with self._lock:
            self._marks = {**self._marks, name: mask}
            self.marked = {key: None if one is None else int(one.sum()) for key, one in self._marks.items()}

    def compare_selections(self) -> None:
        """List those programs first that tell the cells of A from those of B, or from all others if there is no B.

        Raises
        ------
        DataError
            If there is no A, or cells are in both.
        """
        with self._lock:
            if self._marks["A"] is None:
                raise DataError("There is no A yet. Select some cells, then keep them as A.")
            self._wanted = Contrast.of_cells(self._marks["A"], self._marks["B"])
            self.contrast = {"kind": "selections"}
            self._request()

    @property
    def _reading(self) -> dict[str, str]:
        """As options of the model's verbs; none for what is their default."""
        return {} if self.of == "genes" else {"of": self.of}

    def _read_anew(self, change: dict) -> None:
        self._request(anew=True)

    def wait(self, timeout: float | None = None) -> str:
        """Wait until nothing is computed any more, at most `timeout` seconds; the status then."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy, timeout)
            return self.status

    def _request(self, anew: bool = False) -> None:
        """Rank as is wanted now, on a thread; what is under way begins again if it is not wanted any more."""
        with self._lock:
            self._requested = object()
            if anew:
                self.scores = None
            if not self._usable or self._run is not None:
                self._name()
                self._show()
                return
            if not self._busy:
                self._busy = True
                threading.Thread(target=self._compute, name="scarches-programs", daemon=True).start()
            self._show()

    def _compute(self) -> None:
        while True:
            with self._lock:
                requested, wanted, scores, reading = self._requested, self._wanted, self.scores, self._reading
            table, failure, notes, texts = None, None, self._score_notes, []
            try:
                if scores is None:
                    with collected_warnings() as notes:
                        scores = self.model.get_gene_program_scores(self.adata, **reading)
                if wanted is None:
                    table = activities(self.model, scores)
                else:
                    with collected_warnings() as texts:
                        table = wanted.table(self.model, self.adata, reading)
            except Exception as error:  # noqa: BLE001 - shown
                failure = error
            with self._changed:
                is_last = self._requested is requested or self._closed
                if is_last and not self._closed:
                    try:
                        self._take(scores, notes, table, wanted, texts, failure)
                    except Exception as error:  # noqa: BLE001 - shown
                        self._fail(error)
                if is_last:
                    self._busy = False
                    self._show()
                    self._changed.notify_all()
                    return

    def _fail(self, error: Exception | None) -> None:
        self._failure, self.error = "" if error is None else str(error), None
        if error is not None:
            self.show_error(error)

    def _name(self) -> None:
        """Call programs as the model does now."""
        self._programs, self.terms = ProgramFacts(self.model), list(self.model.terms)
        if self.scores is not None:
            self.scores = self.scores.set_axis(pd.Index(self.terms, name="term"), axis=1)

    def _take(
        self,
        scores: pd.DataFrame | None,
        notes: list[str],
        table: pd.DataFrame | None,
        wanted: Contrast | None,
        texts: list[str],
        failure: Exception | None,
    ) -> None:
        """Show what was computed."""
        with self.hold_sync():
            self._fail(failure)
            self.scores, self._score_notes = scores, notes
            self._name()
            if table is not None:
                self._ranked, self._ranked_by = table, wanted
                self.ranking = self._for_page(table, wanted, [*texts, *self._score_notes])
                if wanted is None and self.paint == "groups":
                    self.paint = "activity"
            if self.term not in self.model.terms:
                self.term = self.table["term"].iloc[0] if len(self.table) else None
            self._open()
            self._look()
            self._repaint()

    def _for_page(self, table: pd.DataFrame, contrast: Contrast | None, texts: list[str]) -> dict[str, Any]:
        at = {term: i for i, term in enumerate(self.model.terms)}
        columns = {"i": table["term"].map(at)}
        if contrast is None:
            columns |= {"value": table["activity"], "mean": table["mean"]}
        else:
            columns |= {"value": table["bayes_factor"], "mean": table["mean_shift"], "up": table["prob_up"]}
        rows = pd.DataFrame(columns).astype(float).round(4)
        return {
            "kind": "activity" if contrast is None else "contrast",
            "title": "Activity" if contrast is None else contrast.title,
            "first": "" if contrast is None else contrast.first,
            "second": "" if contrast is None else contrast.second,
            "n": [] if contrast is None else [int(mask.sum()) for mask in contrast.groups.values()],
            "notes": texts,
            "rows": [
                {**row, "i": int(row["i"]), **self._programs.row(int(row["i"]), self.of)}
                for row in rows.to_dict("records")
            ],
        }

    # The table, and which of it is listed

    @property
    def table(self) -> pd.DataFrame:
        """Programs as they are ranked and filtered now: `term`, `genes` (annotated, in the model), and `activity`
        (standard deviation among the cells) and `mean`, or the columns of `latent_enrich`."""
        with self._lock:
            if self._ranked is None:
                return pd.DataFrame({"term": [], "genes": []})
            table = self._ranked
        return self._filters.kept(table, self.model)

    @property
    def _filters(self) -> Filters:
        return Filters(self.search, self.gene, self.least_genes, self.with_switched_off)

    @traitlets.validate("search")
    def _check_search(self, proposal: dict) -> str:
        return _text(proposal["value"])

    @traitlets.validate("gene")
    def _check_gene(self, proposal: dict) -> str:
        gene = proposal["value"]
        if gene and gene not in self.model.schema.genes:
            raise DataError(f"The model has no gene '{shown(gene)}'.{did_you_mean(gene, self.model.schema.genes)}")
        return gene

    def _filtered(self, change: dict) -> None:
        with self._lock, self.hold_sync():
            if change["name"] == "gene":
                having = [i for i, genes in enumerate(self._programs.mask.values()) if self.gene in genes]
                self.with_gene = {"gene": self.gene, "terms": having, "problem": ""} if self.gene else {}
            self.script = self.code()

    # One program

    @property
    def genes(self) -> pd.DataFrame | None:
        """The open program's genes, as `term_genes` gives them; None if no program is open."""
        return None if self.term is None else self.model.term_genes(self.term)

    @traitlets.validate("term", "against")
    def _check_term(self, proposal: dict) -> str | None:
        term = proposal["value"]
        if term is not None and term not in self.model.terms:
            near = did_you_mean(term, self.model.terms)
            raise DataError(f"There is no program '{shown(term)}' among {len(self.model.terms)}.{near}")
        return term

    def _opened_another(self, change: dict) -> None:
        with self._lock, self.hold_sync():
            self._open()
            if self.basis is None:
                self._look()
            if self.paint == "activity":
                self._repaint()
            self.script = self.code()

    def _open(self) -> None:
        if self.term is None or not self._usable:
            self.opened = {}
            return
        i = self.model.terms.index(self.term)
        extra = {"n_set": self._set_sizes.get(i, 0), "old_name": self._old_names.get(i, "")}
        self.opened = {**self._programs.opened(i, self.adata, self.of), **extra}

    def rename(self, old: str, new: str) -> None:
        """Give a program another name, in the model too (`update_terms`).

        Raises
        ------
        DataError
            If there is no such program, or the name is empty, too long, or taken.
        """
        new = new.strip()
        if not new or not new.isprintable():
            raise DataError("A name needs at least one character, and only such as can be seen.")
        if len(new) > LONGEST_NAME:
            raise DataError(f"The name has {len(new)} characters; {LONGEST_NAME} are the most.")
        with self._lock, self.hold_sync():
            if old == new:
                return
            if new in self.model.terms:
                raise DataError(f"Another program is called '{shown(new)}' already. Choose another name.")
            self.model.update_terms({old: new})
            i = self.model.terms.index(new)
            self._old_names.setdefault(i, old)
            if self._old_names[i] == new:
                del self._old_names[i]
            if self._busy:
                self._requested = object()  # what is computed now has the old name
            self._name()
            if self._ranked is not None:
                self._ranked = self._ranked.assign(term=self._ranked["term"].replace({old: new}))
            self._writes = {where: new if term == old else term for where, term in self._writes.items()}
            if self.against == old:
                self.against = new
            if self.term == old:
                self.term = new
            else:
                self._open()
            self._look()
            self.script = self.code()

    # Where cells are drawn, and in which colours

    @traitlets.validate("basis")
    def _check_basis(self, proposal: dict) -> str | None:
        return None if proposal["value"] is None else find_basis(self.adata, proposal["value"])

    def _look(self, change: dict | None = None) -> None:
        """Put the cells where they are to be seen."""
        with self._lock, self.hold_sync():
            if self.basis is not None:
                position = positions_in(self.adata, self.basis)
                name = self.basis.removeprefix("X_")
                self.label = IN_WORDS.get(name, name)
                self.axes = {"x": f"{self.label} 1", "y": f"{self.label} 2", "one_scale": True}
                self.positions = position.T.astype("<f4").tobytes()
            elif self.scores is not None and self.term is not None:
                if self.against is None or self.against == self.term:
                    others = [term for term in self.table["term"] if term != self.term]
                    self.against = others[0] if others else self.term
                pair = self.scores[self.term].to_numpy(), self.scores[self.against].to_numpy()
                self.label = f"{shown(self.against)} over {shown(self.term)}"
                self.axes = {"x": f"Activity of {self.term}", "y": f"Activity of {self.against}", "one_scale": False}
                self.positions = np.stack(pair).astype("<f4").tobytes()
            against = None if self.against is None else self.model.terms.index(self.against)
            bases = [[key, IN_WORDS.get(key.removeprefix("X_"), key)] for key in _bases(self.adata)]
            self.sight = {"basis": self.basis, "against": against, "bases": bases}

    def _repaint(self, change: dict | None = None) -> None:
        with self._lock:
            super().refresh()

    def _colored(self) -> Coloring:
        if self.paint == "color":
            return super()._colored()
        if self.paint == "groups" and self._ranked_by is not None:
            return _groups_coloring(self._ranked_by)
        if self.scores is None or self.term is None:
            return Coloring()
        return numbers_coloring(None, f"Activity of {self.term}", self.scores[self.term].to_numpy())

    @traitlets.observe("color")
    def _show_color(self, change: dict) -> None:
        """The session's colour is shown when it changes."""
        if self.paint == "color":
            self._repaint()
        self.paint = "activity" if self.color is None else "color"
        self.session.color = self.color

    # Writing

    def write_obs(self, term: str | None = None, key: str | None = None) -> str:
        """Write one program's activity, by default the open one's, into `adata.obs`; the column's name.

        Parameters
        ----------
        term
            The program; None: the open one.
        key
            Name of the column; None: "program_" and the program's name.
        """
        term = self.term if term is None else term
        if term is None:
            raise DataError("No program is open, so it is not clear whose activity to write.")
        key = key or f"program_{term}"
        return self._write("obs", key, self._check_term({"value": term}))

    def write_obsm(self, key: str | None = None) -> str:
        """Write all programs' activities into `adata.obsm`, as a DataFrame; the key, by default "X_expimap_programs"
        (after the model's name)."""
        return self._write("obsm", key or f"X_{type(self.model).__name__.lower()}_programs", None)

    def _write(self, part: str, key: str, term: str | None) -> str:
        with self._lock:
            if self.scores is None:
                raise DataError("The activities are not known yet, so there is nothing to write.")
            replaced = " (replaced)" if key in getattr(self.adata, part) else ""
            with collected_warnings():  # a view becomes an AnnData of its own
                if term is None:
                    self.adata.obsm[key] = self.scores.copy()
                else:
                    self.adata.obs[key] = self.scores[term].to_numpy()
            self._writes.pop((part, key), None)
            self._writes[part, key] = term
            said = f"{part}[{key!r}]"
            self.written = [one for one in self.written if not one.startswith(said)] + [said + replaced]
            self._repaint()
            self._look()
            self.script = self.code()
        return key

    # From the browser

    def _click_rank(self, content: dict, buffers: list) -> None:
        self.error = None
        match content:
            case {"kind": "activity"}:
                self.rank_by_activity()
            case {"kind": "selections"}:
                self.compare_selections()
            case {"kind": "groups", "column": str(column), "group": str(group)}:
                comparison = content.get("comparison")
                self.compare(column, group, comparison if isinstance(comparison, str) else None)

    def _click_mark(self, content: dict, buffers: list) -> None:
        self.error = None
        if content.get("remove") is True:
            self.unmark(str(content.get("name")))
        else:
            self.mark(str(content.get("name")))

    def _click_of(self, content: dict, buffers: list) -> None:
        self.of = content.get("of")

    def _term_at(self, place: Any) -> str:
        if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < len(self.model.terms):
            raise ValueError("There is no such program.")
        return self.model.terms[place]

    def _click_open(self, content: dict, buffers: list) -> None:
        self.term = self._term_at(content.get("i"))

    def _click_gene(self, content: dict, buffers: list) -> None:
        wanted = _text(content.get("gene"))
        same = {gene.casefold(): gene for gene in self.model.schema.genes}
        try:
            self.gene, problem = same.get(wanted.casefold(), wanted), {}
        except DataError as error:
            self.gene, problem = "", {"gene": wanted, "terms": None, "problem": str(error)}
        if not self.gene:
            self.with_gene = problem

    def _click_rename(self, content: dict, buffers: list) -> None:
        """The page that asked is told whether it went well."""
        answer = {"op": "renamed", "id": str(content.get("id"))[:60], "problem": ""}
        try:
            new = content.get("name")
            self.rename(self._term_at(content.get("i")), new if isinstance(new, str) else "")
        except ValueError as error:
            answer["problem"] = str(error)
        self.send(answer)

    def _click_look(self, content: dict, buffers: list) -> None:
        match content:
            case {"basis": str(basis)}:
                self.basis = basis
            case {"against": int(place)}:
                self.against, self.basis = self._term_at(place), None
            case {"basis": None}:
                self.basis = None

    def _click_paint(self, content: dict, buffers: list) -> None:
        self.paint = content.get("paint")

    def _recolor(self, content: dict, buffers: list) -> None:
        super()._recolor(content, buffers)
        self.paint = "color"

    def _click_write(self, content: dict, buffers: list) -> None:
        self.error = None
        if content.get("what") == "all":
            self.write_obsm()
        elif content.get("what") == "term":
            key = self.write_obs()
            if content.get("show") is True:
                self.session.color = None  # so that views that show an earlier one read it again
                self.session.color = key

    def _click_train(self, content: dict, buffers: list) -> None:
        self.train()

    def train(self) -> None:
        """Train the model with its defaults, in the background; for one that is not trained yet."""

        def begin() -> None:
            try:
                self.model.train(background=True)
            except Exception as error:  # noqa: BLE001 - shown
                self.show_error(error)

        self.error = None
        threading.Thread(target=begin, name="scarches-programs", daemon=True).start()

    def _click_stop(self, content: dict, buffers: list) -> None:
        if self._run is not None:
            self._run.stop()

    def _click_retry(self, content: dict, buffers: list) -> None:
        self._request()

    # Code and pictures

    def code(self) -> str:
        """Python that makes the table shown, and what was renamed, opened and written; of `model` and `adata`."""
        body = []
        if self._old_names:
            names = ", ".join(f"model.terms[{i}]: {self.model.terms[i]!r}" for i in sorted(self._old_names))
            body.append(f"model.update_terms({{{names}}})")
        if self._ranked_by is None or self._writes:
            body.append(f"scores = model.get_gene_program_scores(adata{as_options(self._reading)})")
        body += ACTIVITY_CODE if self._ranked_by is None else self._ranked_by.code(self._reading)
        body += self._filters.code()
        if self.term is not None:
            body.append(f"genes = model.term_genes({self.term!r})")
        for (part, key), term in self._writes.items():
            value = "scores" if term is None else f"scores[{term!r}].to_numpy()"
            body.append(f"adata.{part}[{key!r}] = {value}")
        text = "\n".join(body)
        imports = {"base64": "base64.", "zlib": "zlib.", "numpy as np": "np.", "pandas as pd": "pd."}
        lines = [f"import {name}" for name, sign in imports.items() if sign in text]
        return "\n".join([*lines, "", text]).lstrip("\n") + "\n"

    def _summary(self) -> str:
        if self._ranked is None:
            return f"Gene programs of {self.facts}; {self.status}."
        by = "by activity" if self._ranked_by is None else f"by Bayes factors of {self._ranked_by.title}"
        table = self.table
        text = f"Gene programs of {self.facts}; {by}"
        return text + (f", first {listed(table['term'])}." if len(table) else "; none is listed.")

    def export_html(self, path: str | Path) -> Path:
        self.wait()
        return super().export_html(path)

    def _picture(self, format: str) -> bytes:
        from .program_picture import program_picture

        self.wait()
        title = "" if self._ranked_by is None else self._ranked_by.title
        position = np.frombuffer(self.positions, dtype="<f4").reshape(2, -1).T if self.positions else None
        return program_picture(self.table, title, position, self.axes, self._coloring, self.mask, format)

    def _static_bundle(self) -> dict[str, str]:
        self.wait(None if self.comm is None else PATIENCE)  # a notebook saves what there is when the view is displayed
        return super()._static_bundle()

    def _static_html(self) -> str:
        parts = [View._static_html(self) if self._ranked is not None else f"<p>{html.escape(self._summary())}</p>"]
        table = self.table
        if len(table):
            parts.append(table.head(ROWS).to_html(index=False, escape=True, float_format="{:.3g}".format, border=0))
            if len(table) > ROWS:
                parts.append(f"<p>The first {ROWS} of {len(table):,} programs.</p>")
        return "".join([*parts, f"<pre><code>{html.escape(self.code())}</code></pre>"])


def _checked(model: Any, adata: Any) -> tuple[Model, AnnData]:
    from anndata import AnnData

    if not hasattr(model, "get_gene_program_scores"):
        raise TypeError(
            f"GenePrograms takes a model of gene programs and was given a {type(model).__name__}. Make one: "
            "sca.models.EXPIMAP(adata, gene_sets='reactome.gmt')."
        )
    adata = model.adata if adata is None else adata
    if adata is None:
        raise TypeError("This model was loaded without cells. Pass some: GenePrograms(model, adata).")
    if not isinstance(adata, AnnData):
        raise TypeError(f"GenePrograms takes an AnnData and was given a {type(adata).__name__}. Read a file first.")
    return model, adata


def _bases(adata: AnnData) -> list[str]:
    """Keys of obsm that can be drawn, a UMAP first."""
    usable = [key for key, values in adata.obsm.items() if len(values.shape) == 2 and values.shape[1] >= 2]
    return sorted(usable, key=lambda key: key != "X_umap")


def _groups_coloring(contrast: Contrast) -> Coloring:
    """The cells of two groups, and the others."""
    codes = np.where(contrast.here, 0, np.where(contrast.there, 1, 2)).astype(np.uint8)
    others = bool((codes == 2).any())
    return Coloring(
        kind="categories",
        label="The groups compared",
        values=codes,
        names=(contrast.first, contrast.second, "neither")[: 2 + others],
        colours=(COLOURS[0], COLOURS[5], NO_VALUE)[: 2 + others],
        has_missing=others,
    )


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > LONGEST_NAME:
        raise ValueError(f"A text of at most {LONGEST_NAME} characters is wanted.")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 1_000_000:
        raise ValueError("A number from 0 to 1,000,000 is wanted.")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("True or False is wanted.")
    return value
