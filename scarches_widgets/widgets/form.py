"""Forms out of typed options: what each field takes, whether an entry is that, and which entries were chosen.

A config class (a pydantic dataclass) says by itself which fields a form has: its JSON schema holds types, choices,
bounds and defaults. `words` says it to people. An entry is what someone has typed or a browser has sent, so it may be
anything.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import TypeAdapter

from ..data.findings import counted
from ..data.names import did_you_mean, shown
from .words import OPTIONS, VALUES, Words

Entry = bool | int | float | str | None
LARGEST = 2**53 - 1  # above, a browser cannot tell neighbouring whole numbers apart
LONGEST = 1000  # characters of an entry
MOST_LAYERS = 16
WHOLE = re.compile(r"[0-9]{1,9}")
KINDS = {"integer": "whole", "number": "number", "boolean": "switch", "string": "text"}
ARTICLES = {
    "whole": "a whole number",
    "number": "a number",
    "switch": "yes or no",
    "text": "a text",
    "widths": "whole numbers with commas between them",
}


@dataclass(frozen=True)
class Choice:
    """One line of a select."""

    value: str | bool | None
    label: str
    group: str = ""  # heading under which it stands


@dataclass(frozen=True)
class Field:
    """One option of a form."""

    name: str
    section: str  # heading under which it stands
    kind: Literal["whole", "number", "switch", "choice", "text", "widths"]  # widths: as text, "256, 64"
    default: Entry
    label: str
    hint: str = ""
    main: bool = False
    optional: bool = False  # whether None is an entry
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    choices: tuple[Choice, ...] = field(default=())
    is_key: bool = False  # it names a part of the AnnData, for which there is no default

    def problem(self, entry: Entry) -> str | None:
        """What is wrong with an entry, as a sentence with its value; None if nothing is."""
        if self._takes(entry):
            return None
        given = "empty" if entry is None or entry == "" else shown(entry)
        return f"{self.label} must be {self.expected}, not {given}."

    @property
    def expected(self) -> str:
        """What an entry must be, in words."""
        if self.kind == "choice":
            return "one of the choices"
        if self.kind == "widths":
            each = f"{ARTICLES['widths']}, each from {self.least:,} to {self.most:,}"
            return each + (", or empty" if self.optional else "")
        if self.least is not None and self.most is not None and self.most < LARGEST:
            limits = f" from {self.least:,} to {self.most:,}"
        else:
            low = _bound("at least", self.least) or _bound("above", self.above)
            high = _bound("at most", self.most) or _bound("below", self.below)
            limits = "".join(f", {limit}" for limit in (low, high) if limit)
        return ARTICLES[self.kind] + limits + (", or empty" if self.optional else "")

    def _takes(self, entry: Entry) -> bool:
        if entry is None:
            return self.optional
        match self.kind:
            case "switch":
                return isinstance(entry, bool)
            case "choice":
                return isinstance(entry, str | bool) and any(choice.value == entry for choice in self.choices)
            case "text":
                return isinstance(entry, str)
            case "widths":
                widths = _widths(entry)
                return (
                    bool(widths)
                    and len(widths) <= MOST_LAYERS
                    and self.least <= min(widths) <= max(widths) <= self.most
                )
        if isinstance(entry, bool) or not isinstance(entry, int if self.kind == "whole" else int | float):
            return False
        return (
            (self.least is None or entry >= self.least)
            and (self.above is None or entry > self.above)
            and (self.most is None or entry <= self.most)
            and (self.below is None or entry < self.below)
        )

    def entry_of(self, value: Any) -> Entry:
        """A value as this field holds it: widths, however they are given, as a text of one form."""
        if self.kind != "widths":
            return as_entry(value)
        if isinstance(value, list | tuple | np.ndarray):
            widths = [as_entry(one) for one in value]
            fits = all(type(width) is int for width in widths)
            return _as_text(widths) if fits else as_entry(repr(value))
        widths = _widths(value)
        return as_entry(value) if widths is None else _as_text(widths)

    def value_of(self, entry: Entry) -> Any:
        """What an entry that the field takes means in Python."""
        return _widths(entry) if self.kind == "widths" and entry is not None else entry


def _widths(entry: Entry) -> list[int] | None:
    """The numbers of `"256, 64"`; None if there is anything else in it."""
    parts = entry.replace(",", " ").split() if isinstance(entry, str) else ()
    return [int(part) for part in parts] if parts and all(map(WHOLE.fullmatch, parts)) else None


def _as_text(widths: Iterable[int]) -> str:
    return ", ".join(map(str, widths))


def _bound(word: str, limit: float | None) -> str:
    """`at most 4,096`; nothing for no limit, or one that nobody reaches."""
    return "" if limit is None or limit >= LARGEST else f"{word} {limit:,}"


def fields_of(cls: type, section: str, words: Mapping[str, Words] = OPTIONS) -> Iterator[Field]:
    """A field for each option of a config class; those that are no single value are left out."""
    for name, schema in TypeAdapter(cls).json_schema()["properties"].items():
        kinds = schema.get("anyOf", [schema])
        optional = {"type": "null"} in kinds
        [what, *others] = [kind for kind in kinds if kind != {"type": "null"}]
        label, hint, main = words.get(name, Words(name))
        items = what.get("items", {})
        if not others and items.get("type") == "integer" and "minimum" in items:
            given, limits = schema.get("default"), {"least": items["minimum"], "most": items["maximum"]}
            default = None if given is None else _as_text(given)
            yield Field(name, section, "widths", default, label, hint, main, optional, **limits)
        if others or what.get("type") not in KINDS:
            continue
        kind = "choice" if "enum" in what else KINDS[what["type"]]
        most, below = what.get("maximum"), what.get("exclusiveMaximum")
        if kind == "whole":
            most = min(LARGEST, LARGEST if most is None else most, LARGEST if below is None else below - 1)
            below = None
        limits = {"least": what.get("minimum"), "above": what.get("exclusiveMinimum"), "most": most, "below": below}
        choices = choices_of(name, what.get("enum", ()))
        if kind == "switch" and optional:
            kind, choices = "choice", SWITCH_OR_NONE
        yield Field(name, section, kind, schema.get("default"), label, hint, main, optional, **limits, choices=choices)


def choices_of(name: str, values: Iterable[str]) -> tuple[Choice, ...]:
    """Values of an option, each with its words if it has any."""
    words = VALUES.get(name, {})
    return tuple(Choice(value, words.get(value, value)) for value in values)


def key_field(name: str, section: str, choices: Iterable[Choice], words: Mapping[str, Words] = OPTIONS) -> Field:
    """A field that names a part of the AnnData."""
    label, hint, main = words[name]
    return Field(name, section, "choice", None, label, hint, main, optional=True, choices=tuple(choices), is_key=True)


def text_field(name: str, section: str) -> Field:
    """A field for what stands outside the AnnData, such as a file."""
    label, hint, main = OPTIONS[name]
    return Field(name, section, "text", None, label, hint, main, optional=True, is_key=True)


def columns_of(obs: pd.DataFrame, numeric: bool = False) -> tuple[Choice, ...]:
    """The columns of obs, each with what is in it; those of the wanted kind first."""
    fitting, others = [Choice(None, "none")], []
    for name in dict.fromkeys(obs.columns):
        if not isinstance(name, str) or as_entry(name) != name:
            continue
        fits, what = _described(obs[name], numeric)
        (fitting if fits else others).append(Choice(name, f"{shown(name)}, {what}", "" if fits else "Other columns"))
    return (*fitting, *others)


def _described(column: pd.Series | pd.DataFrame, numeric: bool) -> tuple[bool, str]:
    """Whether a column is of the wanted kind, and what it holds."""
    if isinstance(column, pd.DataFrame):
        return False, "several columns of this name"
    is_number = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    if pd.api.types.is_float_dtype(column):
        return numeric, "numeric"
    try:
        levels = counted(column.nunique(), "level")
    except TypeError:  # lists and the like
        return False, "no categories"
    if is_number:
        return True, f"numeric, {levels}"
    return not numeric, levels


SWITCH_OR_NONE = (Choice(None, "automatic"), Choice(True, "yes"), Choice(False, "no"))


class Form:
    """Fields by name, in the order in which they are shown."""

    def __init__(self, fields: Iterable[Field]):
        self._fields = {field.name: field for field in fields}

    def __getitem__(self, name: str) -> Field:
        return self._fields[name]

    def __contains__(self, name: object) -> bool:
        return name in self._fields

    @property
    def defaults(self) -> dict[str, Entry]:
        return {name: field.default for name, field in self._fields.items()}

    def names(self, section: str) -> list[str]:
        """The options of one section."""
        return [name for name, field in self._fields.items() if field.section == section]

    def as_json(self) -> list[dict[str, Any]]:
        """The fields, for the browser."""
        return [
            {**asdict(field), "choices": [asdict(choice) for choice in field.choices]}
            for field in self._fields.values()
        ]

    def known(self, entries: Mapping[Any, Any]) -> dict[str, Entry]:
        """Those entries that have a field, each as something that a form can hold."""
        return {name: self._fields[name].entry_of(value) for name, value in entries.items() if name in self._fields}

    def problems(self, entries: Mapping[str, Entry]) -> dict[str, str]:
        """A sentence for each entry that its field does not take."""
        found = {name: field.problem(entries[name]) for name, field in self._fields.items()}
        return {name: problem for name, problem in found.items() if problem is not None}

    def usable(self, entries: Mapping[str, Entry]) -> dict[str, Any]:
        """What the entries mean in Python, with the default in place of each that cannot be used."""
        wrong = self.problems(entries)
        return {
            name: field.value_of(field.default if name in wrong else entries[name])
            for name, field in self._fields.items()
        }

    def checked(self, options: Mapping[str, Any]) -> dict[str, Entry]:
        """Options given in Python.

        Raises
        ------
        TypeError, ValueError
            If there is no such option, or it does not take this value.
        """
        for name in options:
            if name not in self:
                raise TypeError(f"There is no option '{name}'.{did_you_mean(name, self._fields)}")
        entries = self.known(options)
        for name, entry in entries.items():
            if self[name].kind == "text" and not isinstance(options[name], str | None):
                raise TypeError(f"{name} must be a text here, not {type(options[name]).__name__}.")
            if problem := self[name].problem(entry):
                near = did_you_mean(entry, [c.value for c in self[name].choices if c.value]) if entry else ""
                raise ValueError(problem.replace(self[name].label, name, 1) + near)
        return entries

    def chosen(self, entries: Mapping[str, Entry], names: Iterable[str]) -> dict[str, Any]:
        """What those of these entries mean in Python that are not the default."""
        changed = [name for name in names if name in self and entries[name] != self[name].default]
        return {name: self[name].value_of(entries[name]) for name in changed}


def as_entry(value: Any) -> Entry:
    """A value as a form can hold it and a message carry it; anything that is no entry becomes a text that says so."""
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # NumPy's scalars
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value) if abs(value) <= LARGEST else "(too large)"
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else f"({float(value)})"
    if not isinstance(value, str):
        return f"({type(value).__name__})"
    if len(value) > LONGEST:
        return "(too long)"
    return value if value.isprintable() or _is_utf8(value) else "(not text)"


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def as_python(value: Any) -> str:
    """A value as it stands in Python code, strings in double quotes."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{as_python(key)}: {as_python(item)}" for key, item in value.items()) + "}"
    if not isinstance(value, str):
        return repr(value)
    quoted = repr(value)
    return f'"{quoted[1:-1]}"' if quoted[0] == "'" and '"' not in quoted else quoted


def as_arguments(options: Mapping[str, Any]) -> str:
    """`name=value, …`"""
    return ", ".join(f"{name}={as_python(value)}" for name, value in options.items())
