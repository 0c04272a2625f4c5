"""How names are compared and shown in messages, and the error that bad data raise."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable

LONGEST_NAME_SHOWN = 60


class DataError(ValueError):
    """The data (not the code) are at fault; the message says what, why and how to mend it."""


def nearest(name: object, choices: Iterable[object]) -> str | None:
    """The choice that looks most like `name` (case and blanks ignored first), or None if none is near."""
    choices = [str(choice) for choice in choices]
    plain = {choice.strip().casefold(): choice for choice in reversed(choices)}
    if (match := plain.get(str(name).strip().casefold())) is not None:
        return match
    close = difflib.get_close_matches(str(name), choices, n=1, cutoff=0.6)
    return close[0] if close else None


def digest_of(names: Iterable[object]) -> str:
    """SHA-256 of names in their order, in hexadecimal: tells whether others are the same, not what they are."""
    return hashlib.sha256("\n".join(map(str, names)).encode()).hexdigest()


def shown(name: object) -> str:
    """A name fit for a one-line message: control characters visible, very long names cut."""
    text = "".join(character if character.isprintable() else repr(character)[1:-1] for character in str(name))
    return text if len(text) <= LONGEST_NAME_SHOWN else text[: LONGEST_NAME_SHOWN - 1] + "…"


def listed(names: Iterable[object], limit: int = 3) -> str:
    """`A, B, C, …`: the first `limit` names, and an ellipsis when there are more."""
    names = list(names)
    return ", ".join(shown(name) for name in names[:limit]) + (", …" if len(names) > limit else "")


def did_you_mean(name: object, choices: Iterable[object]) -> str:
    """` Did you mean 'x'?` with a leading blank, or an empty string when nothing is near."""
    guess = nearest(name, choices)
    return f" Did you mean '{shown(guess)}'?" if guess is not None else ""
