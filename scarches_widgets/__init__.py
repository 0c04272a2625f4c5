"""Map your cells onto a reference atlas, watch it happen, correct it by hand and share it, in Jupyter."""

from importlib import import_module

_HOMES = {
    "models": "scarches_widgets.models",
    "mapping": "scarches_widgets.mapping",
    "hub": "scarches_widgets.hub",
    "hierarchy": "scarches_widgets.mapping.hierarchy",
    "classifiers": "scarches_widgets.classifiers",
    "utils": "scarches_widgets.utils",
    "widgets": "scarches_widgets.widgets",
    "datasets": "scarches_widgets.datasets",
    "bridges": "scarches_widgets.bridges",
    "napari": "scarches_widgets.bridges.napari_viewer",
    "read": "scarches_widgets.data.read:read",
    "validate": "scarches_widgets.data.validate:validate",
}
__all__ = [*_HOMES]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'scarches_widgets' has no attribute '{name}'")
    module, _, member = _HOMES[name].partition(":")
    value = import_module(module)
    value = getattr(value, member) if member else value
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
