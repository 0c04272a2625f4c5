"""A cell type in a hierarchy: its name, its synonyms and its place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Alias:
    """What a data set calls a node, and how it came there."""

    name: str
    dataset: str | None = None  # None: whichever data set
    match: str | None = None  # perfect, split, merge, new or attached, if `learn_tree` placed it
    share_of_label: float | None = None  # of the label's cells, how many the tree called this node (or below), 0 to 1
    share_of_node: float | None = None  # of the node's cells, how many the data set's classifier gave the label


@dataclass(eq=False, slots=True)
class Node:
    """One node, for reading: a `Hierarchy` changes it by commands, which can be undone."""

    id: int  # never used again within its tree
    name: str
    aliases: tuple[Alias, ...] = ()
    parent: Node | None = field(default=None, repr=False)
    children: list[Node] = field(default_factory=list, repr=False)

    @property
    def is_root(self) -> bool:
        return self.parent is None

    @property
    def is_leaf(self) -> bool:
        return not self.children

    @property
    def depth(self) -> int:
        """How many nodes are above it: 0 for the root."""
        return sum(1 for _ in self.ancestors())

    @property
    def position(self) -> int:
        """Its place among its siblings, from 0."""
        return 0 if self.parent is None else self.parent.children.index(self)

    @property
    def names(self) -> list[str]:
        """Its name, then its synonyms, each once."""
        return list(dict.fromkeys([self.name, *(alias.name for alias in self.aliases)]))

    def ancestors(self) -> Iterator[Node]:
        """Its parent, its parent's parent, … up to the root."""
        node = self.parent
        while node is not None:
            yield node
            node = node.parent

    def path(self) -> list[Node]:
        """From the root down to the node itself."""
        return [self, *self.ancestors()][::-1]

    def walk(self) -> Iterator[Node]:
        """Itself and all below it, each before its children."""
        ahead = [self]
        while ahead:
            node = ahead.pop()
            yield node
            ahead.extend(reversed(node.children))

    def leaves(self) -> list[Node]:
        """The leaves below it; itself, if it is one."""
        return [node for node in self.walk() if node.is_leaf]

    def is_below(self, other: Node) -> bool:
        """Whether `other` is one of its ancestors."""
        return any(node is other for node in self.ancestors())


def lowest_common_ancestor(nodes: list[Node]) -> Node:
    """The deepest node that each of them is, or is below."""
    shared = nodes[0].path()
    for node in nodes[1:]:
        path = {id(step) for step in node.path()}
        shared = [step for step in shared if id(step) in path]
    return shared[-1]
