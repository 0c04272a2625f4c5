"""Imports run downward only (design, section 3), and importing the package is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import scarches_widgets

PACKAGE = Path(scarches_widgets.__file__).parent
TIERS = [{"data", "nn"}, {"training"}, {"models"}, {"mapping", "hub"}, {"bridges", "widgets"}]
MODELS_MAY_IMPORT = {"base", "surgery", "checkpoint", "expression", "differential", "freezing"}
MODELS_MAY_IMPORT |= {"labels", "places", "programs", "prototypes", "proteins"}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)


def imported(path: Path) -> set[tuple[str, ...]]:
    """Modules of this package that a file imports, as paths within the package, at any depth of the code."""
    here = path.relative_to(PACKAGE).with_suffix("").parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom):
            start = list(here[: -node.level]) if node.level else []
            module = (node.module or "").split(".") if node.module else []
            if not node.level and module[:1] != ["scarches_widgets"]:
                continue
            module = module if node.level else module[1:]
            names = [(*start, *module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [
                tuple(alias.name.split(".")[1:]) for alias in node.names if alias.name.startswith("scarches_widgets")
            ]
        found.update(names)
    return {name for name in found if name}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_from_its_own_folder_or_from_below(path):
    folder = path.relative_to(PACKAGE).parts[0]
    tier = next(i for i, folders in enumerate(TIERS) if folder in folders)
    for module in imported(path):
        target = module[0]
        if target == folder:
            if folder == "models" and path.stem not in (*MODELS_MAY_IMPORT, "__init__"):
                assert module[1] in MODELS_MAY_IMPORT, f"a model file imports the model {module[1]}"
            continue
        below = set().union(*TIERS[:tier])
        is_lazy_list_of_models = module == ("models",) and tier > 2
        assert target in below or is_lazy_list_of_models, f"{path.name} imports {'.'.join(module)} from beside or above"


def test_importing_the_package_takes_less_than_a_second_and_none_of_the_large_libraries():
    code = (
        "import time; start = time.process_time()\n"
        "import sys, scarches_widgets; seconds = time.process_time() - start\n"
        "large = {'torch', 'scanpy', 'squidpy', 'matplotlib', 'anndata'} & set(sys.modules)\n"
        "assert not large, large\nassert seconds < 1, seconds"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_models_bring_no_library_that_training_does_not_need():
    code = (
        "import sys, scarches_widgets.models\n"
        "large = {'sklearn', 'scipy.spatial', 'scipy.sparse.csgraph', 'scipy.stats', 'scanpy'} & set(sys.modules)\n"
        "assert not large, large"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_can_be_reached():
    for name in scarches_widgets.__all__:
        assert getattr(scarches_widgets, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'modles'"):
        scarches_widgets.modles  # noqa: B018


def test_bridges_are_reached_by_name_alone():
    code = "import scarches_widgets as sca; sca.bridges.sweeps.Sweep, sca.bridges.dask_executor.DaskExecutor"
    subprocess.run([sys.executable, "-c", code], check=True)
