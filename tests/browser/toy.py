"""The smallest widget that uses all that views share: a list of names, a number to set, a command, a picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import ClassVar

import traitlets

from scarches_widgets.widgets.base import View, inlined


def whole_number(value):
    if type(value) is not int:
        raise TypeError(f"{value!r} is no whole number.")
    return value


class Toy(View):
    """Names, as text, and a counter."""

    _esm = inlined(Path(__file__).with_suffix(".js"))
    names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    count = traitlets.Int(0).tag(sync=True)

    writable: ClassVar = {"count": whole_number}
    commands: ClassVar = {"add": "_add", "break": "_break"}

    def _add(self, content, buffers):
        self.names = [*self.names, str(content["name"])]

    def _break(self, content, buffers):
        raise ValueError("The toy is broken. Buy another one.")

    def _summary(self):
        return f"{len(self.names)} names, counted to {self.count}"

    def _picture(self, format):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(2, 1))
        figure.text(0.1, 0.5, str(self.count))
        stream = io.BytesIO()
        figure.savefig(stream, format=format)
        return stream.getvalue()
