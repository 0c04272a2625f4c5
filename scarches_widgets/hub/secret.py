"""A token that is used and never shown."""

from __future__ import annotations

import os
from typing import Self


class Secret:
    """Text that no repr, log, copy, pickle or traceback tells; only `reveal` does, where it is sent."""

    __slots__ = ("_told",)

    def __init__(self, text: str):
        if not text.isascii() or not text.isprintable() or not text.strip():
            raise ValueError("A token is one line of plain letters and digits, and this is none. Copy it again.")
        text = text.strip()
        self._told = lambda: text  # a closure, so that no listing of attributes shows it

    @classmethod
    def of(cls, token: str | Secret | None, variable: str) -> Self:
        """The token that is given, or that of the environment's `variable`."""
        token = token if token is not None else os.environ.get(variable)
        if token is None:
            raise ValueError(
                f"There is no token. Pass access_token=…, or set the environment variable {variable}; make one on "
                "Zenodo under Account, Applications, with the scopes deposit:write and deposit:actions."
            )
        return token if isinstance(token, Secret) else cls(token)

    def reveal(self) -> str:
        return self._told()

    def scrub(self, text: str) -> str:
        """`text` without the token, if somebody echoed it."""
        return text.replace(self.reveal(), "***")

    def __repr__(self) -> str:
        return "***"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict) -> Self:
        return self

    def __reduce__(self):
        return str, ("***",)
