"""Lessons, executed top to bottom: what holds of each, and what its kernel then says."""

import json
from pathlib import Path
from typing import ClassVar

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
# The peak is read from /proc: getrusage's may be that of the process that started the kernel, here all tests before.
COST = r"""
import json, re, time
print(json.dumps({
    "CPU seconds": time.process_time(),
    "peak GB": int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1]) / 1e6,
    %s
}))
"""


@pytest.mark.slow
class Lesson:
    """What holds of every lesson. A subclass names the notebook, what to ask its kernel, and tests what it claims.

    The fixture `lesson` executes it once per class: the notebook with its outputs, and what the kernel said; `said` is
    the second.
    """

    path: ClassVar[Path]
    before: ClassVar[str] = ""  # code that the kernel runs after the lesson and before it is asked
    asked: ClassVar[dict[str, str]]  # name: expression whose value JSON can tell

    def test_it_fits_a_small_machine(self, said, record_property):
        fits_a_small_machine(said, record_property)

    def test_it_is_kept_without_outputs_and_is_small_with_them(self, lesson):
        kept = json.loads(self.path.read_text(encoding="utf-8"))
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in kept["cells"])
        notebook, _ = lesson
        assert len(nbformat.writes(notebook).encode()) - self.path.stat().st_size < 300_000


def executed(lesson: Path, before: str = "", **asked: str) -> tuple[nbformat.NotebookNode, dict]:
    """The notebook with its outputs, and what its kernel then said: its cost, and the value of each expression `asked`
    for, evaluated after the code `before`."""
    notebook = nbformat.read(lesson, 4)
    entries = "\n    ".join(f"{name!r}: {expression}," for name, expression in asked.items())
    notebook.cells.append(nbformat.v4.new_code_cell(before + COST % entries))
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    said = json.loads(notebook.cells.pop().outputs[-1]["text"])
    return notebook, {"lesson": lesson.stem, **said}


def fits_a_small_machine(said: dict, record_property) -> None:
    """A minute on one CPU that nobody else uses, and as much memory as Binder gives a kernel; noted for the table that
    the tests end with."""
    record_property("cost of a lesson", f"{said['lesson']:18} {said['CPU seconds']:11.0f} {said['peak GB']:8.2f}")
    assert said["CPU seconds"] < 120 and said["peak GB"] < 1.2, said
