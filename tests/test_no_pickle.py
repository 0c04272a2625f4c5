"""Nothing that the package reads may run: no pickle in any disguise, no evaluated text, no shell."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "scarches_widgets"

FORBIDDEN_MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
FORBIDDEN_NAMES = {"eval", "exec"}
FORBIDDEN_MEMBERS = {"torch.load", "pandas.read_pickle", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "os.system"}
OF_AUTHORS = {"widgets/exercise.py": ["eval"]}  # the checks of an exercise, which the lesson's author writes in Python
USUAL_SHORT_NAMES = {"pd": "pandas", "np": "numpy"}
FORBIDDEN_ARGUMENTS = {"allow_pickle": True, "shell": True, "weights_only": False}


def forbidden(source: str) -> list[str]:
    """What a piece of source imports, names or calls that could run what it reads."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found += [alias.name for alias in names if alias.name.split(".")[0] in FORBIDDEN_MODULES]
            case ast.ImportFrom(module=str(module), names=names):
                members = [f"{module}.{alias.name}" for alias in names]
                found += [member for member in members if member in FORBIDDEN_MEMBERS]
                found += [module] if module.split(".")[0] in FORBIDDEN_MODULES else []
            case ast.Attribute(value=ast.Name(id=module), attr=member):
                full_name = f"{USUAL_SHORT_NAMES.get(module, module)}.{member}"
                found += [full_name] if full_name in FORBIDDEN_MEMBERS else []
            case ast.Call(func=ast.Name(id=name)) if name in FORBIDDEN_NAMES:
                found.append(name)
            case ast.keyword(arg=name, value=value) if name in FORBIDDEN_ARGUMENTS:
                harmless = ast.Constant(not FORBIDDEN_ARGUMENTS[name])
                found += [] if ast.dump(value) == ast.dump(harmless) else [name]
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_of_the_package_can_run_what_it_reads(path):
    of_authors = OF_AUTHORS.get(path.relative_to(PACKAGE).as_posix(), [])
    assert forbidden(path.read_text(encoding="utf-8")) == of_authors


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import joblib.numpy_pickle as j",
        "from dill import loads",
        "from torch import load",
        "torch.load(path)",
        "pd.read_pickle(path)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=trusted)",
        "read(path, weights_only=False)",
        "subprocess.run(command, shell=True)",
        "os.system(command)",
        "yaml.load(text)",
        "eval(text)",
        "exec(text)",
    ],
)
def test_the_scan_finds(source):
    assert forbidden(source)


@pytest.mark.parametrize(
    "source", ["model.eval()", "np.load(path, allow_pickle=False)", "'import pickle'", "json.load(f)"]
)
def test_the_scan_leaves_alone(source):
    assert not forbidden(source)
