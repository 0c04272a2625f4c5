"""A saved model: `model.safetensors`, `model.json`, `manifest.json`, verified before a network is built."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, TypeVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from ..data.container import Container, DamagedFile, read_document, write_container
from ..data.names import listed, shown
from ..data.schema import LABEL, DataSchema
from ..training.events import EpochEnded
from ..training.options import typed
from . import surgery

if TYPE_CHECKING:
    from .base import Model

KIND, VERSION = "model", 1
LONGEST_MESSAGE = 500  # characters, when a file's own values are in it
T = TypeVar("T")
NewLevels = dict[str, Annotated[int, Field(ge=1, le=100_000)]]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ModelDocument:
    """What `model.json` says."""

    family: str
    config: dict
    data: dict  # a DataSchema
    surgeries: Annotated[list[NewLevels], Field(max_length=1000)]  # what each added to each variable, oldest first
    is_trained: bool
    history: list[EpochEnded]
    gene_map: str | dict[str, str] | None  # how the names of a query's genes became the reference's
    min_gene_overlap: Annotated[float, Field(ge=0, le=1)]
    flags: dict[str, bool] = Field(default_factory=dict)  # of the model's class
    kl_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0  # that it, or its reference, was trained with


def save(model: Model, path: str | os.PathLike, overwrite: bool) -> str:
    """Write `model`; return the digest of what was written."""
    gene_map = model.gene_map
    if isinstance(gene_map, Mapping):
        gene_map = {str(name): str(of_reference) for name, of_reference in gene_map.items()}
    document = ModelDocument(
        family=type(model).__name__,
        config=asdict(model.config),
        data=asdict(model.schema),
        surgeries=model._surgeries,
        is_trained=model.is_trained,
        history=model._epochs,
        gene_map=gene_map,
        min_gene_overlap=model.min_gene_overlap,
        flags={name: getattr(model, name) for name in model.flags},
        kl_weight=model._kl_weight,
    )
    return write_container(
        path,
        kind=KIND,
        format_version=VERSION,
        document=asdict(document),
        tensors=model.module.state_dict(),
        overwrite=overwrite,
    )


def load(cls: type[Model], path: str | os.PathLike, adata) -> Model:
    """Read a model of class `cls`; refuse whatever does not fit before its tensors are used."""
    container = read_document(path, kind=KIND, newest_version=VERSION)
    document = _typed(ModelDocument, container.document, path)
    if document.family != cls.__name__:
        family = shown(document.family)
        raise TypeError(f"'{path}' holds a {family}, not a {cls.__name__}. Call {family}.load.")
    model = cls.__new__(cls)
    model.config = _typed(cls.config_class, document.config, path)
    model.schema = _typed(DataSchema, document.data, path)
    model.module = _network(cls, model, document, container)
    model._start(adata)
    model._surgeries, model._is_trained, model._epochs = document.surgeries, document.is_trained, document.history
    model.gene_map, model.min_gene_overlap = document.gene_map, document.min_gene_overlap
    model._kl_weight = document.kl_weight
    for name, value in document.flags.items():
        if name not in cls.flags:
            raise DamagedFile(f"'{path}' says '{shown(name)}' of the model, which a {cls.__name__} does not have.")
        setattr(model, name, value)
    model._thaw()
    if adata is not None:
        model._examine(adata)
    return model


def _typed(cls: type[T], values: dict, path: str | os.PathLike) -> T:
    try:
        return typed(cls, values, of=f"'{path}'")
    except (TypeError, ValueError) as error:
        fault, half = str(error), LONGEST_MESSAGE // 2
        if len(fault) > LONGEST_MESSAGE:
            fault = f"{fault[:half]} … {fault[-half:]}"
        raise DamagedFile(f"{fault} It was written by another release, or changed: save the model again.") from error


def _network(cls: type[Model], model: Model, document: ModelDocument, container: Container) -> torch.nn.Module:
    """The network with the container's tensors. It is first laid out without memory, and compared."""
    with torch.device("meta"):
        module = model._new_module(_before(model, document.surgeries))
        for n_new in document.surgeries:
            surgery.freeze(module)
            surgery.grow(module, n_new)
    wanted = {name: (tuple(tensor.shape), str(tensor.dtype)) for name, tensor in module.state_dict().items()}
    found = {name: (tuple(shape), f"torch.{dtype}") for name, (shape, dtype) in container.tensor_shapes.items()}
    later = {name: cls.later_tensors.get(name.rpartition(".")[2]) for name in wanted if name not in found}
    later = {name: value for name, value in later.items() if value is not None}
    if wanted != found | {name: wanted[name] for name in later}:
        names = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
        raise DamagedFile(
            f"The weights do not fit the model that is described beside them: {len(names)} tensors are missing, "
            f"surplus or of another shape ({listed(names)}). The file was put together from parts of several models."
        )
    tensors = container.tensors()
    for name, value in later.items():
        tensors[name] = torch.full_like(module.get_buffer(name), value, device="cpu")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise DamagedFile(f"The weights '{name}' hold NaN or infinite values. Train the model again and save it.")
    module.load_state_dict(tensors, assign=True)
    return module


def _before(model: Model, surgeries: list[dict[str, int]]) -> DataSchema:
    """The schema that the first reference had: without the levels that surgeries appended."""
    schema, n_added = model.schema, Counter[str]()
    for n_new in surgeries:
        n_added.update(n_new)
    for what, n in getattr(model.config, "added", {}).items():  # what is no variable of the cells
        if n_added.pop(what, 0) != n:
            raise DamagedFile(f"The model's surgeries and its options disagree on how many times '{what}' was added.")
    kept = {}
    all_levels = {name: levels for name, (_, levels) in schema.variables.items()} | {LABEL: schema.labels}
    for variable, levels in all_levels.items():
        n = len(levels) - n_added.pop(variable, 0)
        if n < min(1, len(levels)):
            raise DamagedFile(f"The model's surgeries add more levels to '{variable}' than it has.")
        kept[variable] = levels[:n]
    if n_added:
        raise DamagedFile(f"The model's surgeries name variables that it does not have ({listed(n_added)}).")
    covariates = tuple((key, kept[f"covariate {key}"]) for key, _ in schema.categorical_covariates)
    return replace(schema, batches=kept["batch"], labels=kept[LABEL], categorical_covariates=covariates)
