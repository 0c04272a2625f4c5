"""Changes of a tree as small steps with inverses: what undo, redo and a view in the browser go by.

    ("insert", id, parent, position, name, aliases)    a new leaf
    ("delete", id)                                     a leaf goes
    ("place", id, parent, position)                    a node, with all below it, becomes a child of `parent`
    ("set", id, name, aliases)                         a node's name and synonyms

`id` and `parent` are ids of nodes, `position` counts from 0 among the parent's children, the node itself not counted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field

from .nodes import Alias, Node

Step = tuple


@dataclass(frozen=True)
class Edit:
    """One command as it was done."""

    command: str
    arguments: dict[str, object]  # as given, nodes by name
    steps: tuple[Step, ...] = field(repr=False)
    inverse: tuple[Step, ...] = field(repr=False)  # in the order in which they undo

    @property
    def code(self) -> str:
        """The Python that does it, for a tree called `tree`."""
        if self.command == "accept":
            return self.arguments["proposal"].code
        return line_of_code(self.command, self.arguments)


def line_of_code(command: str, arguments: dict[str, object]) -> str:
    return f"tree.{command}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"


@dataclass(frozen=True)
class Patch:
    """What a view must do to follow the tree from `base` to `version`."""

    base: int
    version: int
    steps: tuple[Step, ...]

    def to_json(self) -> dict:
        """Lists, strings and numbers only: {"base", "version", "steps"}, each step a list in the order shown above."""
        steps = [
            [
                [asdict(alias) for alias in part] if isinstance(part, tuple) else part  # only aliases are a tuple
                for part in step
            ]
            for step in self.steps
        ]
        return {"base": self.base, "version": self.version, "steps": steps}


class NodeTable:
    """The nodes of one tree, found by id, by name and by synonym. Steps are the only way to change them."""

    def __init__(self, root: Node):
        self.root = root
        self.by_id: dict[int, Node] = {}
        self.by_name: dict[str, Node] = {}
        self.by_alias: dict[tuple[str | None, str], Node] = {}  # by data set and label
        self.by_label: dict[str, dict[int, Node]] = {}  # nodes that any data set calls so, by id
        self.n_aliases: Counter[str | None] = Counter()  # by data set
        self.next_id = root.id + 1
        self._enter(root)

    def perform(self, step: Step) -> Step:
        """Do one step and return the one that undoes it."""
        match step:
            case ("insert", id, parent, position, name, aliases):
                node = Node(id, name, aliases, self.by_id[parent])
                node.parent.children.insert(position, node)
                self._enter(node)
                self.next_id = max(self.next_id, id + 1)
                return ("delete", id)
            case ("delete", id):
                node = self.by_id[id]
                position = node.position
                del node.parent.children[position]
                self._leave(node)
                del self.by_id[id]
                return ("insert", id, node.parent.id, position, node.name, node.aliases)
            case ("place", id, parent, position):
                node = self.by_id[id]
                before = ("place", id, node.parent.id, node.position)
                del node.parent.children[node.position]
                node.parent = self.by_id[parent]
                node.parent.children.insert(position, node)
                return before
            case ("set", id, name, aliases):
                node = self.by_id[id]
                before = ("set", id, node.name, node.aliases)
                self._leave(node)
                node.name, node.aliases = name, aliases
                self._enter(node)
                return before
        raise ValueError(f"{step!r} is no step.")

    def _enter(self, node: Node):
        self.by_id[node.id] = node
        self.by_name[node.name] = node
        for alias in node.aliases:
            self.by_alias[alias.dataset, alias.name] = node
            self.by_label.setdefault(alias.name, {})[node.id] = node
            self.n_aliases[alias.dataset] += 1

    def _leave(self, node: Node):
        del self.by_name[node.name]
        for alias in node.aliases:
            del self.by_alias[alias.dataset, alias.name]
            self.by_label[alias.name].pop(node.id, None)
            self.n_aliases[alias.dataset] -= 1


def without(aliases: tuple[Alias, ...], name: str, dataset: str | None) -> tuple[Alias, ...]:
    return tuple(alias for alias in aliases if (alias.name, alias.dataset) != (name, dataset))
