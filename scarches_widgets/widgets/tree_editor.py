"""A tree of cell types to edit by mouse or keyboard, with its cells, its problems and what was learnt about it."""

from __future__ import annotations

import html
import threading
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import traitlets

from ..data.names import DataError, listed, shown
from ..mapping.hierarchy import Edit, Hierarchy, Patch, Proposal
from .base import HERE, Publisher, View, inlined
from .session import CellIndices, CellsSelected, Session

if TYPE_CHECKING:
    from anndata import AnnData

LONGEST_NAME = 500
MOST_ROWS = 200  # of problems, edits and differences that are sent to a page
MOST_LINES = 300  # of the tree in a saved notebook
ANY_BATCH = None

# what a page may ask for: a command of the tree, and the kinds of its arguments
EDITS = {
    "rename": {"node": "node", "name": "text"},
    "add": {"name": "text", "parent": "node", "position": "place"},
    "remove": {"nodes": "one or more", "keep_children": "flag"},
    "move": {"nodes": "one or more", "parent": "node", "position": "place"},
    "group": {"nodes": "nodes", "name": "text"},
    "merge": {"nodes": "nodes", "name": "text"},
    "split": {"node": "node", "names": "texts", "below": "flag"},
    "add_alias": {"node": "node", "alias": "text", "dataset": "text"},
    "drop_alias": {"node": "node", "alias": "text", "dataset": "text"},
    "reorder": {"node": "node"},
}


class TreeEditor(CellsSelected, View):
    """Edit a tree of cell types: rename, add, delete, move, merge, split, group, sort, with undo.

    Parameters
    ----------
    hierarchy
        The tree. It is edited itself; edits made to it in Python appear on the page too.
    adata
        Cells to count and to select by the tree; None: those of the session, if it has any. They are not modified, but
        the tree's counts are made anew from them (`Hierarchy.count_cells`).
    key
        Column of `obs` with labels; None: the one by which the tree finds the most cells.
    batch_key
        Column of `obs` by which cells are counted apart. Batches are looked up as data sets of aliases.
    proposals
        What `learn_tree(…, apply=False)` proposed, to accept or veto one by one.
    other
        A tree to compare with.
    session
        Views of one session show the same selection of cells.
    readonly
        Whether the tree can only be looked at.

    Attributes
    ----------
    hierarchy
        The tree as it is now.
    nodes
        Ids of the selected nodes. Selecting nodes selects their cells, with those of all nodes below. Can be set.
    selection
        Positions of the selected cells, int64, ascending; `obs_names` and `mask` are the same in other forms. Can be
        set with positions, a boolean mask or names of cells: the nodes of these cells are then highlighted.
    readonly
        Can be set.

    Raises
    ------
    TypeError
        If there is no tree.
    DataError
        If the column does not exist, or the tree knows none of the labels.

    Notes
    -----
    Keys, in the list of nodes as in the dendrogram: the arrows, Home and End move, ← and → close and open a node, *
    opens its siblings, letters find a name. Space selects, with Shift and the arrows several, Ctrl+A all, Escape none.
    F2 renames, Insert adds a child (with Shift a sibling), Delete removes, Ctrl+X and Ctrl+V move, Alt+↑ and ↓ change
    the order, Ctrl+M merges, Ctrl+G groups, Ctrl+E splits, Ctrl+Z and Ctrl+Y undo and redo, Ctrl+F searches. All of it
    has buttons too. Keys and buttons act on the selected nodes, or on the one with the focus if that is not selected.

    Examples
    --------
    >>> tree = sca.hierarchy.Hierarchy.from_obs(adata, ["lineage", "cell_type"])
    >>> editor = TreeEditor(tree, adata, "cell_type", batch_key="donor")
    >>> print(editor.code())
    """

    _esm = inlined(Path(__file__).with_suffix(".js"))
    _css = View._css + "".join((HERE / "js" / name).read_text(encoding="utf-8") for name in ("form.css", "tree.css"))
    saved_as = "svg"
    selection = CellIndices()
    tree = traitlets.Any().tag(sync=True, to_json=lambda _, view: view._flat(), from_json=lambda *_: None)
    cells = traitlets.Any().tag(sync=True, to_json=lambda _, view: view._cells(), from_json=lambda *_: None)
    version = traitlets.Int().tag(sync=True)  # of the tree that the page has when it has got all patches
    nodes = traitlets.List(traitlets.Int()).tag(sync=True)
    hits = traitlets.Dict().tag(sync=True)  # id of a node -> selected cells of its own labels
    readonly = traitlets.Bool(False).tag(sync=True)
    facts = traitlets.Unicode().tag(sync=True)  # nodes and cells, in words
    problems = traitlets.Dict().tag(sync=True)  # rows, how many there are, how many were set aside
    edits = traitlets.Dict().tag(sync=True)  # done and undone, in words
    proposals = traitlets.List().tag(sync=True)
    comparing = traitlets.Enum(("", "start", "other"), "").tag(sync=True)  # with what; the browser may write it
    difference = traitlets.Dict().tag(sync=True)  # rows, how many there are, and whether there is another tree
    script = traitlets.Unicode().tag(sync=True)  # what code() returns

    commands = {  # noqa: RUF012
        "edit": "_click_edit",
        "travel": "_click_travel",
        "judge": "_click_judge",
        "keep": "_click_keep",
        "compare": "_click_compare",
        "resend": "_resend",
    }

    def __init__(
        self,
        hierarchy: Hierarchy,
        adata: AnnData | None = None,
        key: str | None = None,
        batch_key: str | None = None,
        *,
        proposals: Iterable[Proposal] = (),
        other: Hierarchy | None = None,
        session: Session | None = None,
        readonly: bool = False,
    ):
        if not isinstance(hierarchy, Hierarchy):
            raise TypeError(
                f"TreeEditor takes a Hierarchy and was given a {type(hierarchy).__name__}. Make one: "
                "sca.hierarchy.Hierarchy.from_obs(adata, ['cell_type'])."
            )
        self.hierarchy, self.session = hierarchy, Session() if session is None else session
        self.adata = self.session.adata if adata is None else adata
        self.other, self.key, self.batch_key = other, key, batch_key
        self._lock = threading.RLock()
        self._patches: deque[Patch] = deque()
        self._start = hierarchy.history  # edits from before
        self._proposals, self._vetoed = list(proposals), set()
        self._kept: set[str] = set()  # problems that were set aside
        self._selecting = False  # nodes by cells or cells by nodes
        self._publisher = Publisher(self._publish)
        if self.adata is not None:
            self.session.adopt(self.adata)
            self._count_cells()
        super().__init__(readonly=readonly, selection=self.session.selection)
        self.writable = {"nodes": self._checked_nodes, "comparing": lambda value: value}
        self._unsubscribe = hierarchy.subscribe(self._hear)
        self.session.observe(self._follow, "selection")
        self.observe(self._selected_nodes, "nodes")
        self.observe(self._selected_cells, "selection")
        self.observe(self._compare, "comparing")
        self._publish()

    def close(self) -> None:
        if self.comm is not None:
            self._unsubscribe()
            self._publisher.close()
            self.session.unobserve(self._follow, "selection")
        super().close()

    def refresh(self) -> None:
        """Count the cells again, after the AnnData's labels were changed."""
        with self._lock:
            if self.adata is not None:
                self._count_cells()
            self._resend()
            self._publish()

    def propose(self, proposals: Iterable[Proposal]) -> None:
        """Show other proposals to accept or veto."""
        with self._lock:
            self._proposals, self._vetoed = list(proposals), set()
            self._publish()

    def compare(self, other: Hierarchy | None = None) -> pd.DataFrame:
        """Show what differs from another tree, or (None) from this one before all edits; see `Hierarchy.diff`."""
        with self._lock:
            if other is not None:
                self.other = other
            self.comparing = "start" if other is None else "other"
            self._compare()
            return self.hierarchy.diff(other)

    # Cells

    def _count_cells(self) -> None:
        obs = self.adata.obs
        if self.key is None:
            self.key = _best_key(self.hierarchy, obs)
        self.hierarchy.count_cells(self.adata, self.key, self.batch_key)
        labels = _codes(obs[self.key])
        batches = _codes(obs[self.batch_key]) if self.batch_key is not None else (np.zeros(len(obs), int), [ANY_BATCH])
        pairs = labels[0] * (len(batches[1]) + 1) + batches[0] + 1
        pairs[labels[0] < 0] = -1
        kinds, self._kind_of_cell = np.unique(pairs, return_inverse=True)
        self._kinds = [  # (label, batch) of cells that are alike to the tree; None: without a label
            None
            if kind < 0
            else (labels[1][kind // (len(batches[1]) + 1)], [None, *batches[1]][kind % (len(batches[1]) + 1)])
            for kind in kinds.tolist()
        ]

    def _nodes_of_kinds(self) -> list[int | None]:
        found = [None if kind is None else self.hierarchy.find(*kind) for kind in self._kinds]
        return [None if node is None else node.id for node in found]

    def _cells_of(self, nodes: Iterable[int]) -> np.ndarray:
        """Positions of the cells of nodes and of all below them."""
        wanted = {below.id for id in nodes for below in self.hierarchy.node(id).walk()}
        is_wanted = np.array([node in wanted for node in self._nodes_of_kinds()], dtype=bool)
        return np.flatnonzero(is_wanted[self._kind_of_cell])

    def _follow(self, change: dict) -> None:
        self.selection = change["new"]

    def _selected_nodes(self, change: dict) -> None:
        with self._lock:
            if self.adata is None or self._selecting:
                return
            self._selecting = True
            try:
                self.selection = self._cells_of(self.nodes)
            finally:
                self._selecting = False

    def _selected_cells(self, change: dict) -> None:
        with self._lock:
            if not self._selecting and self.nodes and not np.array_equal(self.selection, self._cells_of(self.nodes)):
                self._selecting = True
                try:
                    self.nodes = []
                finally:
                    self._selecting = False
            self._show_hits()
        self.session.selection = self.selection

    def _show_hits(self) -> None:
        if self.adata is None or not len(self.selection):
            self.hits = {}
            return
        counts = np.bincount(self._kind_of_cell[self.selection], minlength=len(self._kinds))
        hits: dict[str, int] = {}
        for node, count in zip(self._nodes_of_kinds(), counts.tolist()):
            if node is not None and count:
                hits[str(node)] = hits.get(str(node), 0) + count
        self.hits = hits

    # From the tree

    def _hear(self, patch: Patch) -> None:
        """On the thread that made the edit."""
        self._patches.append(patch)
        self._publisher.touch()

    def _publish(self) -> None:
        """Bring all that has happened to the pages: patches as one message, the rest as state."""
        with self._lock:
            patches = [self._patches.popleft() for _ in range(len(self._patches))]
            if patches:
                self.send({"op": "patch", "patches": [patch.to_json() for patch in patches], "own": self._own()})
            with self.hold_sync():
                there = {node.id for node in self.hierarchy}
                if lost := [id for id in self.nodes if id not in there]:
                    self.nodes = [id for id in self.nodes if id not in lost]
                self._show_problems()
                self._show_edits()
                self._show_proposals()
                self._compare()
                self._show_hits()
                self.facts = self._facts()
                self.script = self.code()
                self.version = patches[-1].version if patches else self.hierarchy.version

    def _flat(self) -> dict:
        """The whole tree as columns."""
        flat = self.hierarchy.flat()
        columns = ("version", "ids", "parents", "names", "aliases")
        return {**{name: value for name, value in flat.to_json().items() if name in columns}, "own": self._own()}

    def _cells(self) -> dict:
        """Counted cells, for a file that is saved without the kernel, and what their columns are."""
        rows = self.hierarchy.counted_labels()
        return {
            "key": self.key,
            "batch_key": self.batch_key,
            "batches": [_batch(name) for name in _batches(rows)],
            "rows": [[row.label, row.dataset, int(row.n_cells)] for row in rows.itertuples()],
        }

    def _own(self) -> dict[str, list[int]]:
        """Of each node with cells of its own labels, their number in each batch."""
        rows = self.hierarchy.counted_labels()
        place = {batch: i for i, batch in enumerate(_batches(rows))}
        own: dict[str, list[int]] = {}
        for row in rows.itertuples():
            if not pd.isna(row.node):
                own.setdefault(str(row.node), [0] * len(place))[place[row.dataset]] += int(row.n_cells)
        return own

    def _resend(self, content: dict | None = None, buffers: list | None = None) -> None:
        """A page has missed a patch."""
        self.send_state(["tree", "cells", "version"])

    def _facts(self) -> str:
        n, n_leaves = len(self.hierarchy), len(self.hierarchy.leaves())
        text = f"{n:,} node{'s' * (n != 1)}, {n_leaves:,} lea{'ves' if n_leaves != 1 else 'f'}"
        if self.adata is None:
            return text
        text += f" · {self.adata.n_obs:,} cells by {shown(self.key)}"
        return text if self.batch_key is None else f"{text} and {shown(self.batch_key)}"

    def _show_problems(self) -> None:
        every = self.hierarchy.validate()
        kept = [one for one in every if one.message in self._kept]
        rows = [vars(one) | {"nodes": list(one.nodes)} for one in every if one.message not in self._kept]
        self.problems = {"rows": rows[:MOST_ROWS], "n": len(rows), "n_kept": len(kept)}

    def _show_edits(self) -> None:
        done, undone = self.hierarchy.history, self.hierarchy.undone
        self.edits = {
            "n_done": len(done),
            "n_undone": len(undone),
            "done": [in_words(edit) for edit in done[-MOST_ROWS:]],
            "undone": [in_words(edit) for edit in undone[-MOST_ROWS:]],  # the next one last
        }

    def _show_proposals(self) -> None:
        accepted = {id(edit.arguments["proposal"]) for edit in self.hierarchy.history if edit.command == "accept"}
        rows = []
        for i, one in enumerate(self._proposals):
            state = "accepted" if id(one) in accepted else "vetoed" if i in self._vetoed else "open"
            rows.append(
                {
                    "kind": one.kind,
                    "dataset": one.dataset,
                    "labels": list(one.labels),
                    "nodes": list(one.nodes),
                    "matches": [vars(match) for match in one.matches],
                    "code": one.code,
                    "state": state,
                }
            )
        self.proposals = rows

    def _compare(self, change: dict | None = None) -> None:
        with self._lock:
            found = {"rows": [], "n": 0, "has_other": self.other is not None}
            if self.comparing and (self.comparing == "start" or self.other is not None):
                table = self.hierarchy.diff(self.other if self.comparing == "other" else None)
                found |= {"rows": table.head(MOST_ROWS).to_dict("records"), "n": len(table)}
            self.difference = found

    # From the browser

    def _checked_nodes(self, value: Any) -> list[int]:
        if not isinstance(value, list) or len(value) > len(self.hierarchy):
            raise TypeError("Nodes come as a list.")
        return [self._node(id).id for id in dict.fromkeys(value)]

    def _node(self, id: Any):
        if not isinstance(id, int) or isinstance(id, bool):
            raise TypeError("A node is told by its id.")
        try:
            return self.hierarchy.node(id)
        except KeyError:
            raise DataError("This node is not in the tree any more. Somebody else has removed it.") from None

    def _argument(self, kind: str, value: Any) -> Any:
        """One argument of a command as the tree takes it, or ValueError or TypeError."""
        match kind, value:
            case "node", str():
                return _text(value)
            case "node", _:
                return self._node(value)
            case "nodes" | "one or more", list():
                nodes = [self._argument("node", one) for one in value[: len(self.hierarchy)]]
                return nodes[0] if kind == "one or more" and len(nodes) == 1 else nodes
            case "text", str():
                return _text(value)
            case "texts", list():
                return [_text(one) for one in value]
            case "place", int() if not isinstance(value, bool):
                return value
            case "flag", bool():
                return value
        raise TypeError(f"{value!r} does not fit a command.")

    def _answer(self, content: dict, act: Callable[[], list[int]], edits: bool = True) -> None:
        """Do what a page asks for, and tell that page whether it went well."""
        answer = {"op": "answered", "id": str(content.get("id"))[:60], "problem": "", "made": []}
        try:
            if edits and self.readonly:
                raise DataError("This editor is read-only.")
            with self._lock:
                answer["made"] = act()
        except (ValueError, TypeError) as error:
            answer["problem"] = str(error)
        self._publish()  # the patch first, then the answer
        self.send(answer)

    def _click_edit(self, content: dict, buffers: list) -> None:
        command, given = content.get("command"), content.get("arguments")
        if not isinstance(command, str) or command not in EDITS or not isinstance(given, dict):
            return

        def act() -> list[int]:
            if unknown := given.keys() - EDITS[command].keys():
                raise TypeError(f"'{command}' takes no {listed(sorted(unknown))}.")
            arguments = {
                name: self._argument(EDITS[command][name], value) for name, value in given.items() if value is not None
            }
            made = getattr(self.hierarchy, command)(**arguments)
            return [one.id for one in (made if isinstance(made, list) else [made]) if one is not None]

        self._answer(content, act)

    def _click_travel(self, content: dict, buffers: list) -> None:
        by = content.get("by")
        if not isinstance(by, int) or isinstance(by, bool):
            return

        def act() -> list[int]:
            step = self.hierarchy.undo if by < 0 else self.hierarchy.redo
            for _ in range(min(abs(by), len(self.hierarchy.history if by < 0 else self.hierarchy.undone))):
                step()
            return []

        self._answer(content, act)

    def _click_judge(self, content: dict, buffers: list) -> None:
        i, verdict = content.get("i"), content.get("verdict")
        if not isinstance(i, int) or isinstance(i, bool) or not 0 <= i < len(self._proposals):
            return

        def act() -> list[int]:
            if verdict == "accept":
                self._accept(i)
            elif verdict == "veto":
                self._vetoed.add(i)
            elif verdict == "reopen":
                self._vetoed.discard(i)
            return []

        self._answer(content, act)

    def _accept(self, i: int) -> None:
        if self.proposals[i]["state"] == "accepted":
            raise DataError("This proposal was accepted already.")
        if not self._proposals[i].commands:
            raise DataError("This proposal changes nothing: the label has no place in a tree.")
        self.hierarchy.accept(self._proposals[i])
        self._vetoed.discard(i)

    def _click_keep(self, content: dict, buffers: list) -> None:
        """Set a problem aside, or (None) show all again."""
        message = content.get("problem")
        with self._lock:
            if message is None:
                self._kept.clear()
            elif message in {one["message"] for one in self.problems["rows"]}:
                self._kept.add(message)
            self._show_problems()

    def _click_compare(self, content: dict, buffers: list) -> None:
        """Compare with a tree that was pasted."""

        def act() -> list[int]:
            self.compare(Hierarchy.from_newick(content["newick"]))
            return []

        if isinstance(content.get("newick"), str):
            self._answer(content, act, edits=False)

    # Code and pictures

    def code(self) -> str:
        """Python that makes the edits again, of the tree as it was given, called `tree`."""
        done = self.hierarchy.history
        n_kept = next((i for i, (old, new) in enumerate(zip(self._start, done)) if old is not new), None)
        n_kept = min(len(self._start), len(done)) if n_kept is None else n_kept
        lines = ["tree.undo()"] * (len(self._start) - n_kept) + [edit.code for edit in done[n_kept:]]
        text = "\n".join(lines)
        if "Alias(" in text:
            text = f"from scarches_widgets.mapping.hierarchy import Alias\n\n{text}"
        return text + "\n" if text else "# No edits yet.\n"

    def _summary(self) -> str:
        root = self.hierarchy.root
        n = len(self.hierarchy.history)
        below = (
            f" Below '{shown(root.name)}': {listed([node.name for node in root.children], 8)}." if root.children else ""
        )
        return f"Tree of cell types: {self._facts()}; {n:,} edit{'s' * (n != 1)}.{below}"

    def _picture(self, format: str) -> bytes:
        from ..mapping.hierarchy.picture import tree_picture

        return tree_picture(self.hierarchy, format)

    def _static_html(self) -> str:
        lines = str(self.hierarchy).split("\n")
        more = f"\n… and {len(lines) - MOST_LINES:,} more" if len(lines) > MOST_LINES else ""
        text = html.escape("\n".join(lines[:MOST_LINES]) + more)
        code = html.escape(self.code())
        return f"{super()._static_html()}<pre>{text}</pre><pre><code>{code}</code></pre>"


def in_words(edit: Edit) -> str:
    """An edit as a line of the history."""
    get = {name: _quoted(value) for name, value in edit.arguments.items()}.get
    match edit.command:
        case "rename":
            return f"Renamed {get('node')} to {get('name')}"
        case "add":
            return f"Added {get('name')} below {get('parent', 'the root')}"
        case "remove":
            return f"Removed {get('nodes')}{'' if edit.arguments.get('keep_children', True) else ' and all below it'}"
        case "move":
            return f"Moved {get('nodes')} below {get('parent')}"
        case "group":
            return f"Grouped {get('nodes')} as {get('name')}"
        case "merge":
            return f"Merged {get('nodes')}"
        case "split":
            return f"Split {get('names')} from {get('node')}"
        case "add_alias":
            return f"Noted that {get('node')} is also called {get('alias')}"
        case "drop_alias":
            return f"Forgot that {get('node')} is also called {get('alias')}"
        case "reorder":
            return f"Sorted the children of {get('node')}"
        case "accept":
            proposal = edit.arguments["proposal"]
            kind = "match" if proposal.kind == "perfect" else proposal.kind
            return f"Accepted {kind}: {listed(proposal.labels)} of {shown(proposal.dataset)}"
    return edit.command


def _quoted(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_quoted(one) for one in value[:3]) + (", …" if len(value) > 3 else "")
    return f"'{shown(getattr(value, 'name', value))}'"


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > LONGEST_NAME:
        raise DataError(f"A name has at most {LONGEST_NAME} characters.")
    return value.strip()


def _batches(rows: pd.DataFrame) -> list[str | None]:
    return sorted(set(rows["dataset"]), key=lambda name: name or "")


def _batch(name: str | None) -> str:
    return "cells" if name is None else name


def _codes(column: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Whole numbers, -1 where a value is missing, and the values as text."""
    codes, values = pd.factorize(column.astype(object).where(column.isna(), column.astype(str)))
    return codes.astype(np.int64), list(values)


def _best_key(tree: Hierarchy, obs: pd.DataFrame) -> str:
    """The column whose labels the tree knows of the most cells; of several such, the one with the most labels."""
    n_found = {}  # column -> cells, labels
    for key in obs.columns:
        if isinstance(obs[key].dtype, pd.CategoricalDtype) or obs[key].dtype.kind in "OUTb":
            counts = obs[key].value_counts()
            known = [int(n) for label, n in counts.items() if n and tree.find(str(label)) is not None]
            n_found[key] = sum(known), len(known)
    best = max(n_found, key=n_found.get, default=None)
    if best is None or not n_found[best][0]:
        raise DataError(
            f"No column of obs ({listed(obs.columns, 8) or 'it has none'}) has labels of this tree "
            f"({listed([node.name for node in tree.leaves()])}). Name the column, `key='cell_type'`, to see what is "
            "missing, or leave `adata` out."
        )
    return best
