"""What `validate` reports: one `Finding` per fault, and all of them together as `Findings`."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal, overload

import pandas as pd

from .names import DataError, shown

LEVELS = ("error", "warning", "note")  # gravest first, the order in which findings are listed


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """`1 cell`, `2 cells`, `1,200 batches`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def some(names: Sequence[object]) -> dict[str, Any]:
    """`count` and `examples` of a finding about these names."""
    return {"count": len(names), "examples": tuple(shown(name) for name in names[:3])}


@dataclass(frozen=True)
class Finding:
    """One fault of the data: what it is, why it matters and how to mend it.

    Attributes
    ----------
    level
        `"error"`: no work can start. `"warning"`: work goes on, the result may suffer. `"note"`: taken care of.
    code
        Short and stable, for programs: `"negative-values"`.
    where
        The part of the AnnData: `"X"`, `"layers['counts']"`, `"obs['batch']"`, `"var_names"`.
    what, why, mend
        Sentences with the user's own values; `str(finding)` is the three in a row.
    count
        How many values, cells, genes or categories are concerned.
    examples
        At most three of them, by name.
    """

    level: Literal["error", "warning", "note"]
    code: str
    where: str
    what: str
    why: str = ""
    mend: str = ""
    count: int = 1
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join(sentence for sentence in (self.what, self.why, self.mend) if sentence)


# `error(code, where, count=…, examples=…)(what, why, mend)`: first what it is about, then what it says
error, warning, note = (partial(partial, Finding, level) for level in LEVELS)


class Findings(Sequence[Finding]):
    """Every finding of one validation, errors first."""

    def __init__(self, findings: Iterable[Finding] = ()):
        self._findings = tuple(sorted(findings, key=lambda finding: LEVELS.index(finding.level)))

    @overload
    def __getitem__(self, index: int) -> Finding: ...
    @overload
    def __getitem__(self, index: slice) -> Findings: ...
    def __getitem__(self, index):
        return Findings(self._findings[index]) if isinstance(index, slice) else self._findings[index]

    def __len__(self) -> int:
        return len(self._findings)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._findings)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Findings) and self._findings == other._findings

    def __hash__(self) -> int:
        return hash(self._findings)

    @property
    def errors(self) -> Findings:
        """The findings with which no work can start."""
        return self._of_level("error")

    @property
    def warnings(self) -> Findings:
        """The findings that leave the data usable, but may spoil the result."""
        return self._of_level("warning")

    @property
    def notes(self) -> Findings:
        """What was found and is taken care of."""
        return self._of_level("note")

    @property
    def ok(self) -> bool:
        """True if there is no error; there may be warnings and notes."""
        return not self.errors

    def raise_errors(self) -> None:
        """Do nothing if the data are usable.

        Raises
        ------
        DataError
            With the message of every error, numbered when there are several.
        """
        errors = [str(finding) for finding in self.errors]
        if len(errors) == 1:
            raise DataError(errors[0])
        if errors:
            numbered = "\n".join(f"{number}. {error}" for number, error in enumerate(errors, start=1))
            raise DataError(f"{len(errors)} faults of the data need mending first:\n{numbered}")

    def frame(self) -> pd.DataFrame:
        """One row per finding, one column per attribute of `Finding`."""
        return pd.DataFrame([asdict(finding) for finding in self], columns=list(Finding.__dataclass_fields__))

    def __str__(self) -> str:
        return "\n".join([self._summary(), *(f"{finding.level:<8} {finding}" for finding in self)])

    def __repr__(self) -> str:
        return f"<Findings: {self}>"

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col">{title}</th>' for title in ("level", "where", "what, why, how to mend it"))
        rows = "".join(
            f"<tr><td>{html.escape(finding.level)}</td><td>{html.escape(finding.where)}</td>"
            f"<td>{html.escape(str(finding))}</td></tr>"
            for finding in self
        )
        caption = html.escape(self._summary())
        return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"

    def _of_level(self, level: str) -> Findings:
        return Findings(finding for finding in self if finding.level == level)

    def _summary(self) -> str:
        numbers = [counted(len(self._of_level(level)), level) for level in LEVELS if self._of_level(level)]
        return ", ".join(numbers) or "no fault found"
