"""A model's card: what it is, what it was trained on, and whether my cells fit, before the model itself is fetched.

A card is one JSON file, `card.json`, with the SHA-256 of its own content and the digest of the model that it describes.
Its text is made from these facts, and can be edited: `card.text = …`.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as typed_dataclass

from .. import models
from ..data.container import DamagedFile
from ..data.findings import counted
from ..data.genes import WORTH_A_WARNING
from ..data.names import DataError, listed, shown
from ..data.schema import BATCH, LABEL, DataSchema, as_text
from ..data.strict_json import parse_json
from ..data.validate import validate
from ..models.base import LEAST_OVERLAP, Model
from ..training.options import typed

CARD, FORMAT, VERSION = "card.json", "scarches_widgets card", 1
LARGEST_CARD = 64_000_000  # bytes; 60,000 genes take 1 MB
Counts = dict[str, Annotated[int, Field(ge=0)]]


@typed_dataclass(config=ConfigDict(extra="forbid", validate_assignment=True))
class ModelCard:
    """What stands on a model's card.

    Attributes
    ----------
    title, text
        For readers; plain text. Both can be set.
    family
        Name of the model's class, such as "SCANVI".
    digest
        Of the model's folder, as `Model.save` returned it.
    n_bytes
        Size of the model's files.
    config
        Options of the network.
    data
        Genes, batches, labels and keys: a `DataSchema`.
    expects
        The kind of values: "counts", "normalized" or "any".
    n_cells
        How many cells of each batch and of each label the model held; empty if it held none.
    training
        Epochs, and the last value of each loss.
    """

    title: Annotated[str, Field(max_length=200)]
    text: Annotated[str, Field(max_length=100_000)]
    family: Annotated[str, Field(max_length=100)]
    digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    n_bytes: Annotated[int, Field(ge=0)]
    config: dict[str, Any]
    data: dict[str, Any]
    expects: Literal["counts", "normalized", "any"]
    n_cells: dict[Literal["batch", "label"], Counts] = field(default_factory=dict)
    training: dict[str, float] = field(default_factory=dict)

    @property
    def schema(self) -> DataSchema:
        """Genes, batches, labels and keys."""
        return typed(DataSchema, self.data, of="the card")

    def __str__(self) -> str:
        return f"{self.title}\n\n{self.text}"

    def save(self, folder: str | os.PathLike) -> None:
        """Put the card, as edited, in the place of that of a saved model.

        Raises
        ------
        ValueError
            If it is another model's.
        """
        folder = Path(folder).expanduser()
        there = read_card(folder)
        if there.digest != self.digest:
            raise ValueError(f"'{folder}' holds another model than this card describes. Save the card beside its own.")
        handle, name = tempfile.mkstemp(prefix=".card-", dir=folder.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(encoded(self))
        os.chmod(name, (folder / CARD).stat().st_mode & 0o777)
        os.replace(name, folder / CARD)


def card_of(model: Model, digest: str, n_bytes: int, title: str | None = None) -> ModelCard:
    """A card of a saved model, with a text made from what is known of it."""
    schema, epochs = model.schema, model._epochs
    training: dict[str, float] = {}
    if epochs:
        last = epochs[-1]
        training = {"epochs": len(epochs), **{f"train_{name}": value for name, value in last.train.items()}}
        training |= {f"val_{name}": value for name, value in (last.validation or {}).items()}
        training = {name: float(value) for name, value in training.items() if np.isfinite(value)}
    card = ModelCard(
        title=title or f"{type(model).__name__} of {counted(schema.n_genes, schema.noun)}",
        text="",
        family=type(model).__name__,
        digest=digest,
        n_bytes=n_bytes,
        config=json.loads(json.dumps(asdict(model.config))),
        data=json.loads(json.dumps(asdict(schema))),
        expects=model.expects,
        n_cells=_cells_by_level(model),
        training=training,
    )
    card.text = written(card)
    return card


def _cells_by_level(model: Model) -> dict[str, Counts]:
    if model.adata is None:
        return {}
    schema, obs, counts = model.schema, model.adata.obs, {}
    keys = {BATCH: (schema.batch_key, schema.batches), LABEL: (schema.labels_key, schema.labels)}
    for what, (key, levels) in keys.items():
        if key is not None and key in obs:
            values, of_value = np.unique(as_text(obs[key]).astype(str), return_counts=True)
            found = dict(zip(values.tolist(), of_value.tolist()))
            counts[what] = {level: found.get(level, 0) for level in levels}
    return counts


def written(card: ModelCard) -> str:
    """A card's facts in sentences."""
    schema = card.schema
    lines = [
        f"A {card.family} of scarches_widgets: {counted(schema.n_genes, schema.noun)} "
        f"({listed(schema.genes)}), {card.expects if card.expects != 'any' else 'values of any kind'}.",
        f"Batches ({schema.batch_key or 'no batch_key'}): {_with_counts(schema.batches, card.n_cells.get('batch'))}.",
    ]
    if schema.labels:
        lines.append(f"Labels ({schema.labels_key}): {_with_counts(schema.labels, card.n_cells.get('label'))}.")
    if schema.proteins:
        lines.append(f"Proteins: {listed(schema.proteins, 10)}.")
    for what, keys in {
        "Categorical covariates": [key for key, _ in schema.categorical_covariates],
        "Continuous covariates": schema.continuous_covariates,
    }.items():
        if keys:
            lines.append(f"{what}: {listed(keys, 10)}.")
    options = {name: value for name, value in card.config.items() if not isinstance(value, list | dict)}
    lines.append("Network: " + ", ".join(f"{name}={shown(value)}" for name, value in options.items()) + ".")
    if card.training:
        losses = [f"{name} {value:.4g}" for name, value in card.training.items() if name != "epochs"]
        lines.append(f"Trained for {counted(int(card.training['epochs']), 'epoch')}; last {', '.join(losses)}.")
    return "\n".join(lines)


def _with_counts(names: tuple[str, ...], counts: Mapping[str, int] | None) -> str:
    if not counts:
        return listed(names, 20)
    return ", ".join(f"{shown(name)} {counts[name]:,}" for name in names[:20]) + (", …" if len(names) > 20 else "")


# ---- the file --------------------------------------------------------------------------------------------------------


def encoded(card: ModelCard) -> bytes:
    """The card's file."""
    content = {"format": FORMAT, "version": VERSION, "card": asdict(card)}
    return _canonical({**content, "sha256": hashlib.sha256(_canonical(content)).hexdigest()})


def _canonical(content: dict) -> bytes:
    return json.dumps(content, sort_keys=True, allow_nan=False, ensure_ascii=False, indent=1).encode()


def read_card(source: str | os.PathLike | bytes) -> ModelCard:
    """A card, from its file, from the folder of a model saved by `sca.hub.save`, or from the file's bytes.

    Raises
    ------
    DamagedFile
        It is not what was written.
    FileNotFoundError
        There is none.
    """
    where = "The card"
    if not isinstance(source, bytes):
        path = Path(source).expanduser()
        path = path / CARD if path.is_dir() else path
        if not path.is_file() or path.is_symlink():
            raise FileNotFoundError(f"There is no card '{path}'. sca.hub.save(model, folder) writes one.")
        where = f"'{path}'"
        with open(path, "rb") as file:
            source = file.read(LARGEST_CARD + 1)
    if len(source) > LARGEST_CARD:
        raise DamagedFile(f"{where} has more than {LARGEST_CARD:,} bytes, so it is no card.")
    try:
        content = parse_json(source)
        sha256 = content.pop("sha256", None)
        if content.get("format") != FORMAT or sha256 != hashlib.sha256(_canonical(content)).hexdigest():
            raise DamagedFile(f"{where} is no card of scarches_widgets, or was changed. Get it again.")
        if source != _canonical({**content, "sha256": sha256}):
            raise DamagedFile(f"{where} was changed. Get it again.")
        if content["version"] > VERSION:
            raise DamagedFile(f"{where} was written by a newer scarches_widgets; upgrade with `pip install -U`.")
        card = typed(ModelCard, content["card"], of=where)
        card.schema  # noqa: B018  refuses genes and levels that cannot be
    except DamagedFile:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamagedFile(f"{where} cannot be read ({shown(error)}).") from error
    return card


# ---- my cells and a card ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compatibility:
    """Whether cells fit a model.

    Attributes
    ----------
    verdict
        "fits"; "partly": it can be mapped, and the result may suffer; "unfit": it cannot be mapped as it is.
    overlap
        Share of the model's genes that the cells have, 0 to 1.
    errors, warnings, notes
        Why, in sentences.
    noun
        What one of its genes is called: "gene", or "feature" of a model of modalities.
    """

    verdict: Literal["fits", "partly", "unfit"]
    overlap: float
    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    noun: str = "gene"

    def __str__(self) -> str:
        return "\n".join([self.verdict, *self.errors, *self.warnings, *self.notes])


def compatibility(adata, card: ModelCard | Model, *, gene_map: str | Mapping[str, str] | None = None) -> Compatibility:
    """Tell from a model's card whether `adata` can be mapped onto it. Nothing is downloaded or changed.

    Parameters
    ----------
    adata
        The query.
    card
        A card, or a model itself.
    gene_map
        As in `load_query_data`.
    """
    schema, expects, config = card.schema, card.expects, card.config
    if not isinstance(config, Mapping):
        config = asdict(config)
    errors, warnings, notes = [], [], []
    family = card.family if isinstance(card, ModelCard) else type(card).__name__
    if family not in models.__all__:
        errors.append(f"This release knows no model '{shown(family)}'. Upgrade it.")
    keys, missing = dict(schema.keys), []
    for variable, (key, _) in schema.variables.items():
        if key is not None and key not in adata.obs:
            missing.append(key)
            errors.append(f"obs has no column '{key}' with each cell's {variable}. Add it: adata.obs['{key}'] = …")
    for key in schema.continuous_covariates:
        if key not in adata.obs:
            missing.append(key)
            errors.append(f"obs has no column '{key}', a covariate of the model. Add it.")
    if keys["labels_key"] not in adata.obs:
        keys["labels_key"] = None
    if missing:
        keys |= {"batch_key": None if schema.batch_key in missing else schema.batch_key}
        for name in ("categorical_covariate_keys", "continuous_covariate_keys"):
            keys[name] = tuple(key for key in keys[name] if key not in missing)
    findings = validate(adata, expects=expects, for_training=False, **keys)
    errors += [str(finding) for finding in findings.errors]
    warnings += [str(finding) for finding in findings.warnings]
    overlap = 0.0
    try:
        _, report = schema.align(adata, gene_map)
        overlap = report.overlap
        where = errors if overlap < LEAST_OVERLAP else warnings if overlap < WORTH_A_WARNING else notes
        where.append(str(report))
    except DataError as error:
        errors.append(str(error))
    if not missing:
        _compare_levels(schema, adata, config, warnings, notes)
    if schema.proteins and schema.protein_key not in adata.obsm and not hasattr(adata, "mod"):
        notes.append(f"There is no obsm['{schema.protein_key}']: the model imputes the proteins.")
    verdict = "unfit" if errors else "partly" if warnings else "fits"
    return Compatibility(verdict, overlap, tuple(errors), tuple(warnings), tuple(notes), schema.noun)


def _compare_levels(schema: DataSchema, adata, config: Mapping, warnings: list[str], notes: list[str]) -> None:
    new = schema.new_levels(adata)
    for variable, levels in new.items():
        notes.append(f"New to the model, learned by surgery: {variable} {listed(levels)}.")
    if new and config.get("encode_covariates", True) is False:
        warnings.append("The model's encoder does not see batches, so surgery cannot move these cells' latents.")
    if labels := schema.new_labels(adata):
        warnings.append(
            f"{counted(len(labels), 'label')} of obs['{schema.labels_key}'] {'is' if len(labels) == 1 else 'are'} not "
            f"among the model's ({listed(labels)})."
        )
