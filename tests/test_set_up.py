"""README's commands are complete, CI runs the same test command, and each lesson is listed and tested."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("word", ["demo", "pytest"])
def test_readme_has_one_whole_command_that_makes_its_own_environment(word):
    command = subprocess.run([ROOT / ".ci" / "readme-command", word], capture_output=True, text=True, check=True).stdout
    assert command.count("\n") == 1
    assert command.startswith("python3 -m venv .venv && .venv/bin/pip install -c binder/constraints.txt -e ")


def test_ci_runs_the_command_that_readme_shows():
    assert ".ci/readme-command pytest | bash" in (ROOT / ".ci" / "run").read_text()


def test_the_top_level_holds_only_what_was_agreed():
    agreed = {"pyproject.toml", "scarches_widgets", "notebooks", "tests", "binder", "README.md", "LICENSE"}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    top = {line.split("/")[0] for line in tracked.splitlines()}
    assert {name for name in top if not name.startswith(".")} <= agreed


def test_each_lesson_is_listed_in_the_readme_and_its_claims_are_tested():
    lessons = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert {name for name in lessons if f"(notebooks/{name}.ipynb)" in readme} == lessons
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert {name for name in lessons if f'/ "{name}.ipynb"' in tests} == lessons
