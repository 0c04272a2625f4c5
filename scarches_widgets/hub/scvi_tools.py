"""Models of scvi-tools, read and written: SCVI, SCANVI and TOTALVI of versions 0.8 to 1.5.

Since 0.15, a model is one `model.pt`: tensors, names of genes, and a dict with the options (`init_params_`) and what
was known of the data (`registry_`). Before, the same content stood in three files (`model_params.pt`, `attr.pkl`,
`var_names.csv`), arranged in another way. Their networks append one-hot codes to a layer's input, in the order
[features | continuous covariates | batch | further covariates]; a variable of one level has no column. Here they are
rows of tables (see `nn.layers`).

What the version decides: before 1.2, totalVI's background had an exponential scale; before 1.3, no efficiency of a
batch. Before 1.1, scANVI's classifier ended in a softmax, which gives the same probabilities as that of its logits.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.container import DamagedFile
from ..data.names import listed, shown
from ..models import SCANVI, SCVI, TOTALVI
from ..training.options import respelled
from .foreign import UnsupportedModel, Weights, assembled, check_plain, names_of, read_gene_list, text_or_none
from .pickles import Stand, read_pickle, read_torch

CLASSES = {"SCVI": SCVI, "SCANVI": SCANVI, "TOTALVI": TOTALVI}
WARM_UP_EPOCHS = {"SCVI": 400, "SCANVI": 400, "TOTALVI": 0.75 * 256 / 0.9}  # of totalVI, 0.75 steps per cell
LEGACY = ("model_params.pt", "attr.pkl", "var_names.csv")
NOT_OF_THE_NETWORK = (
    *("use_cuda", "use_gpu", "unlabeled_category", "pretrained_model", "datamodule", "registry"),
    *("override_missing_proteins", "use_size_factor_key"),
)
ONLY = {  # options that networks here have in one form
    "latent_distribution": ("normal",),
    "log_variational": (True,),
    "batch_representation": ("one-hot",),
    "gene_likelihood": ("zinb", "nb", "poisson"),
    "var_activation": (None,),
}
EMPTY = ("extra_encoder_kwargs", "batch_embedding_kwargs")  # options that must not be used


@dataclass
class _Saved:
    """What a file says, in whichever form it was written."""

    version: tuple[int, int]
    name: str
    tensors: dict[str, Any]
    genes: tuple[str, ...]
    options: dict[str, Any]
    schema: dict[str, Any]
    is_trained: bool
    kl_weight: float  # that its training ended with
    measured: dict[str, np.ndarray] = field(default_factory=dict)  # proteins, by batch; none if all are everywhere


def from_scvi_tools(path: str | os.PathLike, adata=None, *, prefix: str = "") -> SCVI | SCANVI | TOTALVI:
    """Read a model that scvi-tools 0.8 to 1.5 saved: SCVI, SCANVI or TOTALVI. Nothing of the file is run.

    Parameters
    ----------
    path
        The folder, with `model.pt`, or with `model_params.pt`, `attr.pkl` and `var_names.csv`.
    adata
        Cells for the model to hold; may be given later to each call instead. The training data are not needed.
    prefix
        How the names of the files begin, if they were saved with one.

    Returns
    -------
    A model of the same name, trained as the file says, for `get_latent_representation`, `load_query_data`, `save`, …
    Its history is empty, and its `predict_with_uncertainty` knows no novelty: neither can be read from the file.

    Raises
    ------
    DamagedFile
        The file is damaged, hostile, or no such model.
    UnsupportedModel
        It is a model of another kind, or has options that the network here lacks.
    FileNotFoundError
        There is no such folder or file.

    Notes
    -----
    scvi-tools raises the weight of the KL terms over 400 epochs, so a reference of fewer epochs was hardly held to the
    prior, and a query that is trained at full weight leaves it. So by default a query is trained at the weight that the
    reference ended with, as the file's history tells; without one, at full weight. Then pass what you know of the
    reference, its epochs / 400, as `query.train(kl_weight=…)`.
    """
    saved = _read(Path(path).expanduser(), prefix)
    cls = CLASSES[saved.name]
    weights = {"SCVI": _OfSCVI, "SCANVI": _OfSCANVI, "TOTALVI": _OfTOTALVI}[saved.name](saved.tensors)
    if saved.name == "TOTALVI":
        weights.masks = saved.measured
    return assembled(cls, _config(saved), saved.schema, weights, adata, saved.is_trained, saved.kl_weight)


def _read(folder: Path, prefix: str) -> _Saved:
    if (folder / f"{prefix}model.pt").is_file():
        content = read_torch(folder / f"{prefix}model.pt")
        match content:
            case {"model_state_dict": dict(tensors), "var_names": genes, "attr_dict": dict(attributes)}:
                return _from_registry(tensors, genes, attributes, folder)
        raise DamagedFile(f"'{folder / f'{prefix}model.pt'}' is a file of torch, but no model of scvi-tools.")
    missing = [name for name in LEGACY if not (folder / f"{prefix}{name}").is_file()]
    if missing:
        there = listed(sorted(os.listdir(folder)), 6) if folder.is_dir() else "no such folder"
        raise FileNotFoundError(f"'{folder}' has neither model.pt nor {listed(missing)} ({there}).")
    attributes = read_pickle(folder / f"{prefix}attr.pkl")
    if not isinstance(attributes, dict) or "scvi_setup_dict_" not in attributes:
        raise DamagedFile(
            f"'{folder / f'{prefix}attr.pkl'}' does not describe a model of scvi-tools. If scArches wrote it, call "
            "sca.hub.from_scarches."
        )
    tensors = read_torch(folder / f"{prefix}model_params.pt")
    return _from_setup_dict(tensors, read_gene_list(folder / f"{prefix}var_names.csv"), attributes, folder)


def _from_registry(tensors: dict, genes: Any, attributes: dict, folder: Path) -> _Saved:
    """Since 0.15."""
    try:
        registry, fields = attributes["registry_"], attributes["registry_"]["field_registries"]
        name = text_or_none(registry.get("model_name")) or _told(tensors)
        version = _version(registry["scvi_version"])
        if name not in CLASSES:
            raise UnsupportedModel(f"'{folder}' holds a {shown(name)}; {listed(CLASSES)} can be read.")
        states = {what: entry["state_registry"] for what, entry in fields.items()}
        places = {what: entry["data_registry"] for what, entry in fields.items()}
        if isinstance(genes, dict):
            genes = genes[places["X"].get("mod_key") or next(iter(genes))]
        batch, labels = states["batch"], states["labels"]
        schema = {
            "genes": names_of(genes),
            "layer": text_or_none(places["X"]["attr_key"]) if places["X"]["attr_name"] == "layers" else None,
            **_batch(batch["original_key"], batch["categorical_mapping"]),
            **_labels(labels["original_key"], labels["categorical_mapping"], labels.get("unlabeled_category")),
        }
        covariates = states.get("extra_categorical_covs") or {}
        keys = names_of(covariates.get("field_keys", ()))
        schema["categorical_covariates"] = tuple((key, names_of(covariates["mappings"][key])) for key in keys)
        schema["continuous_covariates"] = names_of((states.get("extra_continuous_covs") or {}).get("columns", ()))
        if place := places.get("size_factor"):
            schema["size_factor_key"] = text_or_none(_original(registry, "size_factor_key") or place["attr_key"])
        measured: dict[str, np.ndarray] = {}
        if name == "TOTALVI":
            place, proteins = places["proteins"], states["proteins"]
            schema["proteins"] = names_of(proteins["column_names"])
            schema["protein_key"] = text_or_none(place.get("mod_key") or place["attr_key"])
            schema["protein_names_key"] = text_or_none(_original(registry, "protein_names_uns_key"))
            if place["attr_name"] == "layers":
                schema["protein_layer"] = text_or_none(place["attr_key"])
            measured = proteins.get("protein_batch_mask") or {}
            if _original(registry, "panel_key") is not None:
                raise UnsupportedModel(
                    f"The TOTALVI in '{folder}' has panels of proteins (panel_key), which none has here."
                )
        options = _flat(attributes["init_params_"])
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise DamagedFile(f"'{folder}' lacks what scvi-tools writes of a model's data ({shown(error)!r}).") from error
    trained = _is_trained(attributes), _kl_weight(attributes, name)
    return _Saved(version, name, tensors, schema["genes"], options, schema, *trained, measured)


def _from_setup_dict(tensors: dict, genes: tuple[str, ...], attributes: dict, folder: Path) -> _Saved:
    """Before 0.15."""
    try:
        setup, name = attributes["scvi_setup_dict_"], _told(tensors)
        mappings, places = setup["categorical_mappings"], setup["data_registry"]
        options = _flat(attributes["init_params_"])
        unlabeled = attributes.get("unlabeled_category_", options.get("unlabeled_category"))
        batch, labels = mappings["_scvi_batch"], mappings["_scvi_labels"]
        schema = {
            "genes": genes,
            "layer": text_or_none(places["X"]["attr_key"]) if places["X"]["attr_name"] == "layers" else None,
            **_batch(batch["original_key"], batch["mapping"]),
            **_labels(labels["original_key"], labels["mapping"], unlabeled if name == "SCANVI" else None),
        }
        covariates = setup.get("extra_categoricals") or {}
        keys = names_of(covariates.get("keys", ()))
        schema["categorical_covariates"] = tuple((key, names_of(covariates["mappings"][key])) for key in keys)
        continuous = setup.get("extra_continuous_keys")
        schema["continuous_covariates"] = () if continuous is None else names_of(continuous)
        measured: dict[str, np.ndarray] = {}
        if name == "TOTALVI":
            schema["proteins"] = names_of(setup["protein_names"])
            schema["protein_key"] = text_or_none(places["protein_expression"]["attr_key"])
            measured = setup.get("totalvi_batch_mask") or {}
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise DamagedFile(f"'{folder}' lacks what scvi-tools writes of a model's data ({shown(error)!r}).") from error
    return _Saved(
        _version(setup.get("scvi_version", "0")),
        name,
        tensors,
        genes,
        options,
        schema,
        _is_trained(attributes),
        _kl_weight(attributes, name),
        measured,
    )


def _told(tensors: Mapping[str, Any]) -> str:
    """The model's name by what it is made of: old files do not say it."""
    if "py_r" in tensors:
        return "TOTALVI"
    return "SCANVI" if any(name.startswith("classifier.") for name in tensors) else "SCVI"


def _version(text: Any) -> tuple[int, int]:
    found = re.match(r"(\d{1,4})\.(\d{1,4})", text) if isinstance(text, str) else None
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _is_trained(attributes: dict) -> bool:
    return attributes.get("is_trained_") is True


def _kl_weight(attributes: dict, name: str) -> float:
    """What training ended with: as newer files tell it, or, by the default of scvi-tools, from the number of epochs."""
    history = attributes.get("history_")
    columns = {}
    for column, table in history.items() if isinstance(history, dict) else ():
        values = (array for array in table.arrays() if array.ndim == 2) if isinstance(table, Stand) else ()
        columns[column] = next(values, np.empty((1, 0)))
    try:
        told = [float(value) for value in columns.get("kl_weight", np.empty(0)).ravel()[-1:]]
    except (TypeError, ValueError):
        told = []
    if told and 0 < told[0] <= 1:
        return told[0]
    n_epochs = max((values.size for column, values in columns.items() if not column.endswith("_step")), default=0)
    return min(1.0, n_epochs / WARM_UP_EPOCHS[name]) if n_epochs else 1.0


def _original(registry: dict, key: str) -> Any:
    return registry.get("setup_args", {}).get(key)


def _batch(key: Any, levels: Any) -> dict[str, Any]:
    return {"batch_key": None if key == "_scvi_batch" else text_or_none(key), "batches": names_of(levels)}


def _labels(key: Any, levels: Any, unlabeled: Any) -> dict[str, Any]:
    """The labels as the network counts them; the name for "not labelled" stands last in the file."""
    if key == "_scvi_labels":
        return {}
    levels, unlabeled = names_of(levels), text_or_none(unlabeled)
    if unlabeled is not None and levels[-1] != unlabeled:
        raise DamagedFile(f"'{shown(unlabeled)}' stands for unlabelled cells and is not the last label, as it must be.")
    labels = levels if unlabeled is None else levels[:-1]
    return {"labels_key": text_or_none(key), "labels": labels, "unlabeled_category": unlabeled}


def _flat(parameters: dict) -> dict[str, Any]:
    """The options in one dict: since 0.9 in two parts, of which one holds dicts of its own."""
    if "non_kwargs" in parameters:
        parts = [parameters["non_kwargs"], *parameters["kwargs"].values()]
    else:
        parts = [{k: v for k, v in parameters.items() if not isinstance(v, dict)}]
        parts += [v for v in parameters.values() if isinstance(v, dict)]
    return {name: value for part in parts for name, value in part.items()}


def _config(saved: _Saved) -> dict[str, Any]:
    """The options of our network; refuses what it cannot do."""
    options = {name: value for name, value in saved.options.items() if name not in NOT_OF_THE_NETWORK}
    classifier = options.pop("classifier_parameters", None) or {}
    in_decoder = options.pop("extra_decoder_kwargs", None) or {}
    for name in EMPTY:
        if options.pop(name, None):
            raise UnsupportedModel(f"This {saved.name} has {name}, which the network here lacks.")
    check_plain(options)
    for name, allowed in ONLY.items():
        value = options[name] if name == "gene_likelihood" else options.pop(name, allowed[0])
        if value not in allowed:
            raise UnsupportedModel(
                f"This {saved.name} has {name}={shown(repr(value))}, which the network here cannot compute "
                f"(it can: {listed(map(repr, allowed))})."
            )
    if set(classifier) - {"logits"} or set(in_decoder) - {"activation_function_bg"}:
        raise UnsupportedModel(f"This {saved.name} has options of classifier or decoder that the network here lacks.")
    if saved.name == "TOTALVI":
        if options.pop("use_observed_lib_size", True) is not True:
            raise UnsupportedModel("This TOTALVI infers the library size, which the network here does not.")
        options["background_scale"] = in_decoder.get(
            "activation_function_bg", "exp" if saved.version < (1, 2) else "softplus"
        )
    fields = CLASSES[saved.name].config_class.__dataclass_fields__
    if unknown := [name for name in respelled(options) if name not in fields]:
        raise UnsupportedModel(f"This {saved.name} has options that are not known here: {listed(unknown)}.")
    return respelled(options)


# ---- tensors ---------------------------------------------------------------------------------------------------------


class _OfSCVI(Weights):
    def rename(self) -> None:
        self.encoder("encoder", "z_encoder", "encoder")
        self.hidden("decoder.hidden", "decoder.px_decoder")
        self.linear("decoder.fraction_logits", "decoder.px_scale_decoder.0")
        if "decoder.zero_inflation_logits.weight" in self.wanted:
            self.linear("decoder.zero_inflation_logits", "decoder.px_dropout_decoder")
        self.dispersion("decoder.log_inverse_dispersion", "px_r")
        if "library.prior.blocks.0" in self.wanted:
            self.encoder("library.encoder", "l_encoder", "encoder")
            mean, variance = (self.take(f"library_log_{what}").reshape(-1) for what in ("means", "vars"))
            self.ours["library.prior.blocks.0"] = torch.stack([mean, variance.clamp_min(1e-4).log()], dim=1)

    def encoder(self, ours: str, theirs: str, part: str) -> None:
        """Of `part` "encoder" or "decoder"."""
        self.hidden(f"{ours}.hidden", f"{theirs}.{part}")
        self.linear(f"{ours}.mean", f"{theirs}.mean_{part}")
        self.linear(f"{ours}.log_variance", f"{theirs}.var_{part}")

    def hidden(self, ours: str, theirs: str) -> None:
        i = 0
        while f"{ours}.linears.{i}.weight" in self.wanted:
            self.linear(f"{ours}.linears.{i}", f"{theirs}.fc_layers.Layer {i}.0")
            for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                if f"{ours}.batch_norms.{i}.{name}" in self.wanted:
                    self.ours[f"{ours}.batch_norms.{i}.{name}"] = self.take(f"{theirs}.fc_layers.Layer {i}.1.{name}")
            i += 1

    def linear(self, ours: str, theirs: str) -> None:
        """One-hot columns stand behind the features; a variable of one level has none, and here a row of zeros."""
        weight, start = self.take(f"{theirs}.weight"), self.wanted[f"{ours}.weight"].shape[1]
        self.ours[f"{ours}.weight"] = weight[:, :start].contiguous()
        self.ours[f"{ours}.bias"] = self.take(f"{theirs}.bias")
        for table in self.tables(ours):
            n = len(self.wanted[table])
            rows = weight[:, start : start + n].T.contiguous() if n > 1 else torch.zeros(1, len(weight))
            self.ours[table], start = rows, start + n * (n > 1)
        if start != weight.shape[1]:
            raise DamagedFile(
                f"'{theirs}' has {weight.shape[1]} columns, and the model that the file describes takes {start}."
            )

    def dispersion(self, ours: str, theirs: str) -> None:
        """One per gene, or one column per gene and level there, a row here."""
        if f"{ours}.shared" in self.wanted:
            self.ours[f"{ours}.shared"] = self.take(theirs)
        elif f"{ours}.table.blocks.0" in self.wanted:
            self.ours[f"{ours}.table.blocks.0"] = self.take(theirs).T.contiguous()


class _OfSCANVI(_OfSCVI):
    added_here = ("label_novelty.",)

    def rename(self) -> None:
        super().rename()
        self.encoder("z2_encoder", "encoder_z2_z1", "encoder")
        self.encoder("z1_decoder", "decoder_z1_z2", "decoder")
        self.hidden("classifier.hidden", "classifier.classifier.0")
        last = f"classifier.classifier.{int('classifier.hidden.linears.0.weight' in self.wanted)}"  # 0: linear
        self.ours["classifier.rows.blocks.0"] = self.take(f"{last}.weight")
        self.ours["classifier.biases.blocks.0"] = self.take(f"{last}.bias")[:, None]


class _OfTOTALVI(_OfSCVI):
    added_here = ("adversary.",)
    masks: dict[str, np.ndarray]  # which proteins were measured, by batch; none if all were everywhere

    def rename(self) -> None:
        self.hidden("encoder.hidden", "encoder.encoder")
        self.linear("encoder.mean", "encoder.z_mean_encoder")
        self.linear("encoder.log_variance", "encoder.z_var_encoder")
        for ours, theirs in {
            "decoder.hidden": "px_decoder",
            "proteins.background": "py_back_decoder",
            "proteins.foreground": "py_fore_decoder",
            "proteins.mixing": "sigmoid_decoder",
        }.items():
            self.hidden(f"{ours}.layers", f"decoder.{theirs}")
        for ours, theirs in {
            "decoder.fraction_logits": "px_scale_decoder",
            "decoder.inflation": "px_dropout_decoder_gene",
            "proteins.background_mean": "py_back_mean_log_alpha",
            "proteins.background_scale": "py_back_mean_log_beta",
            "proteins.increment": "py_fore_scale_decoder",
            "proteins.background_logits": "py_background_decoder",
        }.items():
            if f"{ours}.linear.weight" in self.wanted:
                self.linear(f"{ours}.linear", f"decoder.{theirs}.fc_layers.Layer 0.0")
        self.dispersion("decoder.log_inverse_dispersion", "px_r")
        self.dispersion("proteins.log_inverse_dispersion", "py_r")
        for ours, theirs in {
            "log_efficiency": "log_per_batch_efficiency",
            "prior_mean": "background_pro_alpha",
            "prior_log_scale": "background_pro_log_beta",
        }.items():
            table = f"proteins.{ours}.blocks.0"
            if theirs == "log_per_batch_efficiency" and theirs not in self.theirs:  # before 1.3
                self.ours[table] = torch.zeros(self.wanted[table].shape)
            else:
                self.ours[table] = self.take(theirs).T.contiguous()
        measured = torch.ones(self.wanted["proteins.measured.blocks.0"].shape)
        for batch, mask in self.masks.items():
            fits = isinstance(mask, np.ndarray) and mask.shape == measured[0].shape
            if not fits or int(batch) not in range(len(measured)):
                raise DamagedFile("The file's batches do not fit what it says of the proteins measured in them.")
            measured[int(batch)] = torch.from_numpy(mask.astype(np.float32))
        self.ours["proteins.measured.blocks.0"] = measured
