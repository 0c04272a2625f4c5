"""What a sweep may vary: options of a model and of its training, each with its values, checked before any is tried."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from ..data.names import did_you_mean, listed
from ..models.base import Model
from ..training.options import field_names, planned, respelled, typed
from ..training.plan import EarlyStopping

LOG = "log"
Options = dict[str, Any]


def checked_space(space: Mapping[str, Any]) -> dict[str, list | tuple]:
    """The space under the names used here: lists of choices, and ranges as (low, high) or (low, high, "log").

    Raises
    ------
    TypeError, ValueError
        If it is empty, or an option's values are neither; it says which.
    """
    if not space:
        raise ValueError('The space is empty. Give options with their values: {"n_latent": [10, 20], "lr": (…, …)}.')
    found = respelled(space)
    for name, values in found.items():
        if isinstance(values, list) and values:
            strange = [value for value in values if not isinstance(value, str | int | float | bool | None)]
            if strange:
                raise TypeError(f"{name} has the choice {strange[0]!r}, which is no number, text, bool or None.")
        elif not _is_range(values):
            raise TypeError(
                f"{name}={values!r} says not what to try. Give a list of choices, [10, 20, 30], or a range of numbers, "
                '(low, high) or (low, high, "log"); whole numbers give whole numbers.'
            )
    return found


def _is_range(values: Any) -> bool:
    if not isinstance(values, tuple) or len(values) not in (2, 3) or values[2:] not in ((), (LOG,)):
        return False
    low, high = values[:2]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (low, high))
    return numbers and low < high and (len(values) == 2 or low > 0)


def checked_options(cls: type[Model], fixed: Mapping[str, Any], space: Mapping[str, list | tuple]) -> None:
    """See that the model takes all these options, and each one's every choice, or both ends of its range.

    Raises
    ------
    TypeError, ValueError
        What the model would raise; for an unknown name with the nearest one that it knows.
    """
    twice = sorted(set(fixed) & set(space))
    if twice:
        raise TypeError(f"{listed(twice)} is given twice: with one value, and to be varied. Give it once.")
    for options in _corners(fixed, space):
        of_model, of_training = parted(cls, options)
        config = typed(cls.config_class, _of_config(cls, of_model), of=cls.__name__)
        planned(cls.plan_class_for(config), of_training)


def _corners(fixed: Mapping[str, Any], space: Mapping[str, list | tuple]) -> Iterator[Options]:
    """Options in which one varies at a time."""
    first = {name: values[0] for name, values in space.items()}
    for name, values in space.items():
        for value in values if isinstance(values, list) else values[:2]:
            yield {**fixed, **first, name: value}


def parted(cls: type[Model], options: Mapping[str, Any]) -> tuple[Options, Options]:
    """Options of the class and of `train()`; a seed is both's.

    Raises
    ------
    TypeError
        If neither has an option of this name.
    """
    options = respelled(options)
    of_model = {*field_names(cls.config_class), *_arguments(cls)}
    of_training = {*field_names(cls.plan_class), *field_names(EarlyStopping), "early_stopping_kwargs"}
    for name in options:
        if name not in of_model | of_training:
            raise TypeError(
                f"Neither {cls.__name__} nor its train() has an option '{name}'."
                f"{did_you_mean(name, [*of_model, *of_training])}"
            )
    return (
        {name: value for name, value in options.items() if name in of_model},
        {name: value for name, value in options.items() if name in of_training},
    )


def _arguments(cls: type[Model]) -> set[str]:
    """Keyword arguments of the class besides its config."""
    parameters = inspect.signature(cls.__init__).parameters.values()
    base = inspect.signature(Model.__init__).parameters.values()
    named = {one.name for one in (*parameters, *base) if one.kind is one.KEYWORD_ONLY}
    return named | {*getattr(cls, "obsm_keys", ()), *getattr(cls, "var_keys", ())}


def _of_config(cls: type[Model], options: Options) -> Options:
    return {name: value for name, value in options.items() if name in field_names(cls.config_class)}
