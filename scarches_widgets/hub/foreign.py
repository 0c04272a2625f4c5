"""What the readers of foreign models share: names as this package knows them, tensors under its names, and a model."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..data.container import DamagedFile
from ..data.names import listed, shown
from ..data.schema import DataSchema, as_text
from ..models.base import Model
from ..nn.layers import initialize
from ..nn.noise import generator_of
from ..training.options import typed

M = TypeVar("M", bound=Model)
LARGEST_ADDITION = 256_000_000  # bytes of what a network has and the file does not
MOST_PARTS = 64  # of an option that is a list
LARGEST_GENE_LIST = 20_000_000  # bytes


class UnsupportedModel(ValueError):
    """A sound file of a model that this package cannot compute."""


def names_of(values: Any) -> tuple[str, ...]:
    """Genes, levels or labels, as `data.schema` writes them."""
    values = list(values)
    if not all(isinstance(value, str | int | float | bool | np.generic) for value in values):
        raise DamagedFile("The file has names that are neither text nor numbers, so no model was read.")
    return tuple(map(str, as_text(pd.Series(values, dtype=object))))


def text_or_none(value: Any) -> str | None:
    return None if value is None else names_of([value])[0]


def check_plain(options: dict[str, Any]) -> None:
    """Refuse options that are no numbers, words or short lists of them: others may be without end when shown."""
    for name, value in options.items():
        parts = value if isinstance(value, list | tuple) and len(value) <= MOST_PARTS else [value]
        if not all(part is None or isinstance(part, str | int | float | bool | np.generic) for part in parts):
            raise DamagedFile(f"The option '{shown(name)}' of the file's model is no number, word or short list.")


def assembled(
    cls: type[M], config: dict, schema: dict, weights: Weights, adata, is_trained: bool, kl_weight: float = 1.0
) -> M:
    """A model of class `cls` of these options, with the file's tensors; nothing large is built before they fit."""
    model = cls.__new__(cls)
    try:
        model.config = typed(cls.config_class, config, of=cls.__name__)
    except (TypeError, ValueError) as error:
        raise UnsupportedModel(f"The file's {cls.__name__} has options that the network here lacks: {error}") from error
    try:
        model.schema = DataSchema(**schema)
        with torch.device("meta"):
            wanted = model._new_module(model.schema).state_dict()
    except ValueError as error:
        raise DamagedFile(f"The file describes a model that cannot be: {error}") from error
    if _n_bytes(wanted.values()) > 2 * _n_bytes(weights.theirs.values()) + LARGEST_ADDITION:
        raise DamagedFile("The file describes a model that is far larger than its tensors.")
    found = weights.under_our_names(wanted)
    if wrong := [n for n, t in found.items() if n not in wanted or t.shape != wanted[n].shape]:
        raise DamagedFile(f"{len(wrong)} tensors do not fit the model that the file describes ({listed(wrong)}).")
    own = [name for name in wanted if name not in found]
    if missing := [name for name in own if not name.startswith(weights.added_here)]:
        raise DamagedFile(f"{len(missing)} tensors of the model are missing from the file ({listed(missing)}).")
    if bad := [name for name, tensor in found.items() if tensor.is_floating_point() and not tensor.isfinite().all()]:
        raise DamagedFile(f"{len(bad)} tensors hold NaN or infinite values ({listed(bad)}). The training had failed.")
    model.module = model._new_module(model.schema)
    initialize(model.module, generator_of(0, "weights"))
    model.module.load_state_dict(model.module.state_dict() | found)
    model._start(None)
    model._is_trained, model._kl_weight = is_trained, kl_weight
    if adata is not None:
        model.adata = adata
        model.adata = model._adata_or_own(None)  # a MuData's RNA, where the model reads one
        model._examine(model.adata)
    return model


def _n_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class Weights:
    """A file's tensors, taken one by one under this package's names.

    Parameters
    ----------
    theirs
        The file's tensors, by its names.

    Attributes
    ----------
    added_here
        How the names begin of what only this package's networks have.
    """

    added_here: tuple[str, ...] = ()

    def __init__(self, theirs: dict[str, Any]):
        self.theirs = {name: tensor for name, tensor in theirs.items() if isinstance(tensor, Tensor)}
        self.ours: dict[str, Tensor] = {}
        self.wanted: dict[str, Tensor] = {}

    def under_our_names(self, wanted: dict[str, Tensor]) -> dict[str, Tensor]:
        """Those of a network's tensors that the file has; `wanted` are all of the network's, without values."""
        self.wanted = wanted
        self.rename()
        return {name: tensor.to(wanted[name].dtype) if name in wanted else tensor for name, tensor in self.ours.items()}

    def rename(self) -> None:
        raise NotImplementedError

    def take(self, name: str) -> Tensor:
        if name not in self.theirs:
            raise DamagedFile(f"The file lacks the tensor '{shown(name)}', which the model that it describes has.")
        return self.theirs[name]

    def tables(self, ours: str) -> Iterable[str]:
        """Names of a layer's tables of categories, in order."""
        i = 0
        while f"{ours}.offsets.{i}.blocks.0" in self.wanted:
            yield f"{ours}.offsets.{i}.blocks.0"
            i += 1


def read_gene_list(path: str | os.PathLike) -> tuple[str, ...]:
    """One name per line, as both upstreams wrote `var_names.csv`."""
    with open(path, "rb") as file:
        data = file.read(LARGEST_GENE_LIST + 1)
    if len(data) > LARGEST_GENE_LIST:
        raise DamagedFile(f"'{path}' has more than {LARGEST_GENE_LIST:,} bytes, and should be a list of genes.")
    try:
        return tuple(line.strip() for line in data.decode().splitlines() if line.strip())
    except UnicodeDecodeError as error:
        raise DamagedFile(f"'{path}' is no text, and should be a list of genes.") from error
