"""What was done in a session, step by step, and the script that does it again.

A step's code is written by the widget in which it was done, and speaks of `adata`, `reference`, `query`, `model`: the
script gives these names to the right things before each step (`given`), and keeps what a step made (`then`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ..data.names import listed, shown

if TYPE_CHECKING:
    from .session import Session

READ = "import scarches_widgets as sca"


@dataclass(frozen=True)
class Source:
    """Where cells or a model of a session come from.

    Attributes
    ----------
    path
        File of the cells, or folder of the model; None: it was given in Python.
    column, groups, inside
        Of cells: only those whose `obs[column]` is one of `groups`, or (not `inside`) all others; None: all.
    is_model
        Whether it is a model; then `column` names the variable of its cells, if it holds any.
    """

    path: str | None = None
    column: str | None = None
    groups: tuple[str, ...] = ()
    inside: bool = True
    is_model: bool = False

    def code(self, name: str) -> list[str]:
        """Lines that bring it back as a variable `name`."""
        if self.is_model:
            cells = f", {self.column}" if self.column else ""
            given = (
                [] if self.path else [f'# Given in Python. To find it here, save it: sca.hub.save({name}, "{name}").']
            )
            return [*given, f"{name} = sca.hub.load({self.path or name!r}{cells})"]
        file = f"{name}.h5ad"
        given = [] if self.path else [f'# Given in Python. To find it here, save it: {name}.write_h5ad("{file}").']
        lines = [*given, f"{name} = sca.read({self.path or file!r})"]
        if self.column is not None:
            within = f"{name}.obs[{self.column!r}].astype(str).isin({list(self.groups)!r})"
            lines.append(f"{name} = {name}[{'' if self.inside else '~'}{within}].copy()")
        return lines


@dataclass(frozen=True)
class Step:
    """Something that was done.

    Attributes
    ----------
    kind
        "train", "map", "review", "tree", "tissue", "programs" or "models".
    title
        In words; or a function that gives them.
    code
        Python that does it again; or, of what still goes on, a function that gives it.
    given, then
        Lines before and after it; see the module's text.
    facts
        Of a training: its model, status and history, in plain values.
    """

    kind: str
    title: str | Callable[[], str]
    code: str | Callable[[], str]
    given: tuple[str, ...] = ()
    then: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    time: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def words(self) -> str:
        """The title as it is now."""
        return self.title if isinstance(self.title, str) else self.title()

    @property
    def text(self) -> str:
        """The code as it is now."""
        return self.code if isinstance(self.code, str) else self.code()

    @property
    def lines(self) -> tuple[list[str], list[str]]:
        """Its imports, and its other lines without comments at the ends; no others, if nothing was done yet."""
        imports, lines = [], []
        for line in self.text.splitlines():
            (imports if line.startswith(("import ", "from ")) else lines).append(line)
        for end in (0, -1):
            while lines and (not lines[end].strip() or lines[end].startswith("#")):
                del lines[end]
        return imports, lines


def script_of(sources: Mapping[str, Source], steps: Iterable[Step]) -> str:
    """One script: imports, what is read, then the steps in their order."""
    imports = {READ: None}
    blocks = [[line for name, source in sources.items() for line in source.code(name)]]
    number = 0
    for step in steps:
        needed, lines = step.lines
        if lines:
            number += 1
            imports.update(dict.fromkeys(needed))
            blocks.append([f"# {number}. {shown_line(step.words)}", *step.given, *lines, *step.then])
    ordered = sorted(imports, key=lambda line: (line == READ, "scarches_widgets" in line, line))
    return "\n\n".join("\n".join(block) for block in [ordered, *blocks] if block) + "\n"


def shown_line(text: str) -> str:
    """A text as one line of a comment."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def follow(session: Session, widget: Any) -> None:
    """Record what is done in a widget, from now on."""
    name = type(widget).__name__
    if name not in _FOLLOWERS:
        raise TypeError(f"A session follows {listed(_FOLLOWERS, 20)}, and was given a {name}.")
    _FOLLOWERS[name](session, widget)


def _follow_training(session: Session, panel: Any) -> None:
    adata = session.name_of(panel.adata, "reference_cells")

    def record(change: Mapping[str, Any]) -> None:
        run = panel.run
        if change["new"] in ("done", "stopped") and panel.model is not None and panel.model.is_trained:
            name = type(panel.model).__name__
            session.objects["reference_model"] = panel.model
            session.model = panel.model
            code = _stopped_alike(panel.code(), run)
            facts = {"model": name, **facts_of(run)}
            given, then = _bound(adata=adata), ("reference_model = model",)
            session.record(Step("train", f"Trained {name}: {_in_words(run)}", code, given, then, facts))

    panel.observe(record, "status")


def _follow_mapping(session: Session, panel: Any) -> None:
    reference = session.name_of(panel.reference, "reference_model")
    query = session.name_of(panel.query, "query")

    def record(change: Mapping[str, Any]) -> None:
        if change["new"] == "done":
            session.objects["query_model"] = panel.model
            session.model = panel.model
            key = panel.values["labels_key"]
            what = "" if key is None else f", labels of {shown(key)}"
            onto = f"{type(panel.reference).__name__}{what}"
            title = f"Mapped {panel.query.n_obs:,} cells onto {onto}: {_in_words(panel.run)}"
            given = _bound(reference=reference, query=query)
            code = _stopped_alike(panel.code(), panel.run)
            session.record(Step("map", title, code, given, ("query_model = model",), facts_of(panel.run)))

    panel.observe(record, "status")


def _follow_review(session: Session, view: Any) -> None:
    is_same, session.review = session.review is view.review, view.review
    given = _bound(query=session.name_of(view.adata, "query"))

    def title() -> str:
        key = view.review.applied_key
        written = "not applied yet" if key is None else f"applied as {shown(key)}"
        return f"Reviewed {view.adata.n_obs:,} labels, {int(view.review.cells('decided').sum()):,} by hand; {written}"

    session.record(Step("review", title, view.code, given), again=is_same)


def _follow_tree(session: Session, editor: Any) -> None:
    tree = editor.hierarchy
    is_same = session.tree is tree
    made = session.made_tree if is_same else None
    if made is None:
        made = f"tree = sca.hierarchy.Hierarchy.from_json({tree.to_json()!r})"
    session.tree = tree

    def title() -> str:
        n = len(tree.history)
        return f"Made a tree of {len(tree.leaves()):,} cell types, {n:,} edit{'s' * (n != 1)}"

    session.record(Step("tree", title, lambda: f"{made}\n{editor.code()}"), again=is_same)


def _follow_tissue(session: Session, mapper: Any) -> None:
    names = {"reference": session.name_of(mapper.reference, "tissue")}
    if mapper.query is not None:
        names["query"] = session.name_of(mapper.query, "query")

    def title() -> str:
        if mapper.locations is None:
            return f"Looked at a tissue of {mapper.reference.n_obs:,} cells"
        return f"Placed {mapper.query.n_obs:,} cells in a tissue of {mapper.reference.n_obs:,}"

    def code() -> str:  # of what was done; mapper.code() is of what is filled in, too
        if mapper.locations is not None:
            return mapper.code()
        made = f"mapper = sca.widgets.SpatialMapper({', '.join(names)})"
        assigned = mapper.assigned_code()
        return "\n".join([made, *assigned]) if assigned else ""

    session.record(Step("tissue", title, code, _bound(**names)))


def _follow_programs(session: Session, view: Any) -> None:
    model, adata = session.name_of(view.model, "program_model"), session.name_of(view.adata, "program_cells")
    session.record(Step("programs", "Looked at gene programs", view.code, _bound(model=model, adata=adata)))


def _follow_hub(session: Session, hub: Any) -> None:
    session.record(Step("models", "Looked for models", hub.code))


_FOLLOWERS: Mapping[str, Callable[[Any, Any], None]] = {
    "TrainingPanel": _follow_training,
    "MappingPanel": _follow_mapping,
    "LabelReview": _follow_review,
    "TreeEditor": _follow_tree,
    "SpatialMapper": _follow_tissue,
    "GenePrograms": _follow_programs,
    "ModelHub": _follow_hub,
}


def _bound(**names: str) -> tuple[str, ...]:
    """A line that gives what the script calls one thing the name that a step's code has for it."""
    names = {name: value for name, value in names.items() if name != value}
    return (f"{', '.join(names)} = {', '.join(names.values())}",) if names else ()


def facts_of(run: Any) -> dict[str, Any]:
    """How a run ended and what its losses were, as plain values; each column of its history is a list."""
    history = {name: [round(float(value), 6) for value in column] for name, column in run.history.items()}
    return {"status": run.status, "reason": run.ended.reason if run.ended else "", "history": history}


def _in_words(run: Any) -> str:
    n = len(run.epochs)
    return f"{n:,} epoch{'s' * (n != 1)}" + (", stopped by hand" if run.status == "stopped" else "")


def _stopped_alike(code: str, run: Any) -> str:
    """Code of a training that ends where the run was stopped."""
    if run is None or run.status != "stopped":
        return code
    line = f"model.watch_runs(lambda run: run.stop_after(steps={run.n_steps}, epochs={len(run.epochs)}))\n"
    return code.replace("model.train(", f"{line}model.train(", 1)
