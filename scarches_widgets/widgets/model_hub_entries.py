"""Models as entries of a list: those of a folder, those of Zenodo's records, and whether cells fit them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ..data.container import MANIFEST, DamagedFile
from ..data.findings import counted
from ..data.names import listed, shown
from ..hub.cards import CARD, Compatibility, ModelCard, compatibility, read_card
from ..hub.zenodo import Record

MOST_FOLDERS = 200  # of models that are listed
LONGEST_TITLE, LONGEST_TEXT = 200, 4_000  # characters that a page is told
MOST_REASONS = 20
FOREIGN = {"model.pt": "scvi-tools", "attr.pkl": "scvi-tools or scArches"}  # a file that only their models have


@dataclass
class Entry:
    """A model, as far as it is known.

    Attributes
    ----------
    card
        None: it has none, or it was not fetched yet.
    facts
        The card in a few words.
    problem
        Why it cannot be used, or what is not known of it; empty if nothing is wrong.
    fit
        Whether the cells fit; "checking" while that is found out, None before.
    """

    where: ClassVar[str]
    card: ModelCard | None = None
    facts: list[str] = field(default_factory=list)
    problem: str = ""
    fit: Compatibility | str | None = None

    @property
    def key(self) -> str:
        """By which the page names it."""
        raise NotImplementedError

    def take(self, card: ModelCard) -> None:
        """It has this card."""
        self.card, self.facts = card, _facts(card)

    def check(self, cells: Any) -> None:
        """Find out whether the cells fit the card."""
        try:
            self.fit = compatibility(cells, self.card)
        except Exception as error:  # noqa: BLE001 - becomes a sentence
            self.fit = Compatibility("unfit", 0.0, (f"The cells could not be compared ({shown(error)}).",), (), ())

    def for_page(self) -> dict[str, Any]:
        card = self.card
        return {
            "key": self.key,
            "where": self.where,
            "facts": self.facts,
            "digest": card.digest if card else "",
            "problem": self.problem,
            "fit": self.fit if not isinstance(self.fit, Compatibility) else _fit_for_page(self.fit),
        }


@dataclass
class LocalEntry(Entry):
    """A model in a folder of this machine.

    Attributes
    ----------
    kind
        "ours", or whose it is.
    size
        Bytes of its files.
    """

    where = "local"
    name: str = ""
    kind: str = "ours"
    size: int = 0

    @property
    def key(self) -> str:
        return f"local:{self.name}"

    @property
    def title(self) -> str:
        return self.card.title if self.card else self.name

    def for_page(self) -> dict[str, Any]:
        return super().for_page() | {
            "title": readable(self.title, LONGEST_TITLE),
            "text": readable(self.card.text if self.card else "", LONGEST_TEXT),
            "folder": shown(self.name),
            "kind": self.kind,
            "size": self.size,
            "loadable": not self.problem,
            "shareable": self.kind == "ours" and not self.problem,
        }


@dataclass
class RemoteEntry(Entry):
    """A record.

    Attributes
    ----------
    here
        Name of the folder that holds the same model; empty if none does.
    begun
        File → bytes of it that an earlier download left.
    taken
        Files whose folder is taken.
    """

    where = "remote"
    record: Record | None = None
    here: str = ""
    begun: dict[str, int] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)

    @property
    def key(self) -> str:
        return f"remote:{self.record.link}"

    @property
    def title(self) -> str:
        return self.record.title

    @property
    def size_of_card(self) -> int:
        return sum(file.size for file in self.record.files if file.name.endswith(CARD))

    def look_into(self, folder: Path, local: dict[str, LocalEntry]) -> None:
        """See what of it is on this machine."""
        stems = {file.name: file.name.removesuffix(".zip") for file in self.record.archives}
        self.taken = {name for name, stem in stems.items() if (folder / stem).exists()}
        parts = {name: folder / f".{name}.part" for name in stems}
        self.begun = {name: path.stat().st_size for name, path in parts.items() if path.is_file()}
        same = (one.name for one in local.values() if one.card and self.card and one.card.digest == self.card.digest)
        self.here = next(same, "")

    def for_page(self) -> dict[str, Any]:
        record = self.record
        return super().for_page() | {
            "title": readable(self.title, LONGEST_TITLE) or f"Record {record.id}",
            "text": readable(record.description, LONGEST_TEXT),
            "by": listed(record.creators, 4),
            "published": shown(record.published or ""),
            "doi": shown(record.doi or ""),
            "link": record.link,
            "here": self.here,
            "has_card": record.has_card,
            "files": [
                {
                    "name": file.name,
                    "size": file.size,
                    "md5": file.md5,
                    "begun": self.begun.get(file.name, 0),
                    "taken": file.name in self.taken,
                }
                for file in record.archives
            ],
            "n_files": len(record.files),
        }


def found_in(folder: Path) -> Iterator[LocalEntry]:
    """The models that lie in a folder, each in a folder of its own, by name."""
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_dir():
            continue
        names = set(os.listdir(path))
        kind = next((whose for name, whose in FOREIGN.items() if name in names), "")
        if MANIFEST in names or CARD in names:
            kind = "ours"
        if not kind:
            continue
        size = sum(one.stat().st_size for one in path.iterdir() if one.is_file())
        entry = LocalEntry(name=path.name, kind=kind, size=size)
        if CARD in names:
            try:
                entry.take(read_card(path))
            except (DamagedFile, OSError) as error:
                entry.problem = str(error)
        yield entry


def readable(text: str, longest: int) -> str:
    """A text of someone unknown, cut: its lines kept, blanks of all kinds plain, other control characters visible."""
    text = text if len(text) <= longest else f"{text[: longest - 1]}…"
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join("".join(_visible(character) for character in line) for line in lines)


def _visible(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else repr(character)[1:-1]


def _facts(card: ModelCard) -> list[str]:
    schema = card.schema
    facts = [card.family, counted(schema.n_genes, schema.noun)]
    if schema.batch_key is not None:
        facts.append(counted(len(schema.batches), "batch", "batches"))
    if schema.labels:
        facts.append(counted(len(schema.labels), "label"))
    if schema.proteins:
        facts.append(counted(len(schema.proteins), "protein"))
    if card.n_cells:
        facts.append(counted(max(sum(levels.values()) for levels in card.n_cells.values()), "cell"))
    return [shown(fact) for fact in facts]


def _fit_for_page(fit: Compatibility) -> dict[str, Any]:
    def some(sentences: tuple[str, ...]) -> list[str]:
        return [readable(one, 1000) for one in sentences[:MOST_REASONS]]

    return {
        "verdict": fit.verdict,
        "overlap": fit.overlap,
        "noun": fit.noun,
        "errors": some(fit.errors),
        "warnings": some(fit.warnings),
        "notes": some(fit.notes),
    }
