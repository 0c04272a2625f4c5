"""The way back: an SCVI or SCANVI in the format of scvi-tools, which its version 1.4 loads."""

from __future__ import annotations

import io
import os
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data import atomic
from ..data.schema import DataSchema
from ..models.base import Model
from ..nn.layers import CategoryTable, ConditionalLinear, Encoder
from .foreign import UnsupportedModel

FORMAT_VERSION = "1.4.2"  # of scvi-tools, whose layout is written
FILE = "model.pt"
IN_KEYWORDS = ("encode_covariates", "deeply_inject_covariates", "use_batch_norm", "use_layer_norm")


def to_scvi_tools(model: Model, path: str | os.PathLike, overwrite: bool = False) -> None:
    """Write an SCVI or SCANVI as scvi-tools saves its own, for `scvi.model.SCVI.load(path, adata)` there.

    Parameters
    ----------
    model
        A reference, or a query after surgery, whose batches then stand behind the reference's.
    path
        The folder to write; its parent must exist. Batches and labels are text in it, as they are here.
    overwrite
        Whether to replace a folder that holds such a file and nothing else.

    Raises
    ------
    UnsupportedModel
        It is another model, or has options that scvi-tools' network lacks.
    OSError
        The folder cannot be written.
    """
    name = type(model).__name__
    if name not in ("SCVI", "SCANVI"):
        raise UnsupportedModel(f"A {name} cannot be written for scvi-tools; an SCVI or a SCANVI can. Use sca.hub.save.")
    if model.config.gene_likelihood == "normal":
        raise UnsupportedModel("gene_likelihood='normal' decodes otherwise there than here, so it is not written.")
    model._refuse_while_training()
    target = atomic.check_target(path, (FILE,), overwrite)
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in _Written(model).tensors().items()}
    content = {
        "model_state_dict": tensors,
        "var_names": np.array(model.schema.genes, dtype=object),
        "attr_dict": _attributes(model),
    }
    data = io.BytesIO()
    torch.save(content, data)
    atomic.write_folder(target, {FILE: data.getvalue()})


def _attributes(model: Model) -> dict[str, Any]:
    config, schema, name = asdict(model.config), model.schema, type(model).__name__
    keywords = {key: config.pop(key) for key in IN_KEYWORDS}
    if name == "SCVI":
        config["latent_distribution"] = "normal"
    else:
        keywords["latent_distribution"] = "normal"
    keyword = "kwargs" if name == "SCVI" else "model_kwargs"
    attributes = {
        "is_trained_": bool(model.is_trained or model._surgeries),
        "init_params_": {"kwargs": {keyword: keywords}, "non_kwargs": config},
        "registry_": _registry(schema, name),
        "history_": {},
        "train_indices_": None,
        "validation_indices_": None,
        "test_indices_": None,
    }
    if name == "SCANVI":
        attributes["unlabeled_category_"] = _unlabeled(schema)
    return attributes


def _unlabeled(schema: DataSchema) -> str:
    """The name for "not labelled", which scvi-tools cannot do without."""
    if schema.unlabeled_category is not None:
        return schema.unlabeled_category
    free = (f"Unknown{'_' * n}" for n in range(len(schema.labels) + 1))
    return next(name for name in free if name not in schema.labels)


def _registry(schema: DataSchema, name: str) -> dict[str, Any]:
    """What scvi-tools knows of a model's data."""
    continuous, categorical = schema.continuous_covariates, dict(schema.categorical_covariates)
    setup = {
        "layer": schema.layer,
        "batch_key": schema.batch_key,
        "labels_key": schema.labels_key,
        "size_factor_key": schema.size_factor_key,
        "categorical_covariate_keys": list(categorical) or None,
        "continuous_covariate_keys": list(continuous) or None,
    }
    batches = [0] if schema.batch_key is None else schema.batches
    labels = {"categorical_mapping": np.array([0]), "original_key": "_scvi_labels"}
    if schema.labels_key is not None:
        labels = {"categorical_mapping": _names(schema.labels), "original_key": schema.labels_key}
    if name == "SCANVI":
        setup["unlabeled_category"] = labels["unlabeled_category"] = _unlabeled(schema)
        labels["categorical_mapping"] = _names((*schema.labels, _unlabeled(schema)))
    n_labels = len(labels["categorical_mapping"])
    layer = {"attr_name": "X", "attr_key": None}
    if schema.layer is not None:
        layer = {"attr_name": "layers", "attr_key": schema.layer}
    covariates, of_covariates = {}, {}
    if categorical:
        counts = [len(levels) for levels in categorical.values()]
        covariates = {
            "mappings": {key: _names(levels) for key, levels in categorical.items()},
            "field_keys": list(categorical),
            "n_cats_per_key": counts,
        }
        of_covariates = {"n_extra_categorical_covs": len(categorical)}
    size_factor = {"attr_name": "obs", "attr_key": "_scvi_size_factor"} if schema.size_factor_key else {}
    fields = {
        "X": (layer, {"n_obs": 0, "n_vars": schema.n_genes, "column_names": _names(schema.genes)}, {
            "n_vars": schema.n_genes, "n_cells": 0}),
        "batch": ({"attr_name": "obs", "attr_key": "_scvi_batch"}, {
            "categorical_mapping": np.array(batches) if schema.batch_key is None else _names(batches),
            "original_key": schema.batch_key or "_scvi_batch"}, {"n_batch": len(batches)}),
        "labels": ({"attr_name": "obs", "attr_key": "_scvi_labels"}, labels, {"n_labels": n_labels}),
        "size_factor": (size_factor, {}, {}),
        "extra_categorical_covs": (
            {"attr_name": "obsm", "attr_key": "_scvi_extra_categorical_covs"} if categorical else {},
            covariates, of_covariates),
        "extra_continuous_covs": (
            {"attr_name": "obsm", "attr_key": "_scvi_extra_continuous_covs"} if continuous else {},
            {"columns": _names(continuous)} if continuous else {},
            {"n_extra_continuous_covs": len(continuous)} if continuous else {}),
    }  # fmt: skip
    parts = ("data_registry", "state_registry", "summary_stats")
    return {
        "scvi_version": FORMAT_VERSION,
        "model_name": name,
        "setup_method_name": "setup_anndata",
        "setup_args": setup,
        "field_registries": {what: dict(zip(parts, entry)) for what, entry in fields.items()},
    }


def _names(values) -> np.ndarray:
    return np.array(list(values), dtype=object)


class _Written:
    """A network's tensors under scvi-tools' names. Parts that its networks have and the chosen options do not use are
    written as zeros."""

    def __init__(self, model: Model):
        self.model, self.module, self.config = model, model.module, model.config
        self.theirs: dict[str, Tensor] = {}

    def tensors(self) -> dict[str, Tensor]:
        module, config, n_genes = self.module, self.config, self.model.schema.n_genes
        self.encoder("z_encoder", module.encoder, "encoder")
        if module.library is not None:
            self.encoder("l_encoder", module.library.encoder, "encoder")
            mean, log_variance = module.library.prior.rows().T
            self.theirs["library_log_means"], self.theirs["library_log_vars"] = mean[None], log_variance.exp()[None]
        else:
            self.unused_library_encoder()
        decoder = module.decoder
        self.hidden("decoder.px_decoder", decoder.hidden)
        self.linear("decoder.px_scale_decoder.0", decoder.fraction_logits)
        self.zeros("decoder.px_r_decoder", n_genes, config.n_hidden)
        if config.gene_likelihood == "zinb":
            self.linear("decoder.px_dropout_decoder", decoder.zero_inflation_logits)
        else:
            self.zeros("decoder.px_dropout_decoder", n_genes, config.n_hidden)
        if config.gene_likelihood == "poisson":
            levels = {"gene-batch": len(self.model.schema.batches), "gene-label": len(self.model.schema.labels)}
            n = levels.get(config.dispersion)
            self.theirs["px_r"] = torch.zeros(n_genes) if n is None else torch.zeros(n_genes, n)
        else:
            dispersion = decoder.log_inverse_dispersion
            self.theirs["px_r"] = dispersion.table.rows().T if dispersion.per_level else dispersion.shared
        if hasattr(module, "classifier"):
            self.labels()
        return self.theirs

    def labels(self) -> None:
        module, n_labels = self.module, len(self.model.schema.labels)
        self.encoder("encoder_z2_z1", module.z2_encoder, "encoder")
        self.encoder("decoder_z1_z2", module.z1_decoder, "decoder")
        self.theirs["y_prior"] = torch.full((1, n_labels), 1 / n_labels)
        last = "classifier.classifier.0"
        if module.classifier.hidden is not None:
            self.hidden("classifier.classifier.0", module.classifier.hidden)
            last = "classifier.classifier.1"
        self.theirs[f"{last}.weight"] = module.classifier.rows.rows()
        self.theirs[f"{last}.bias"] = module.classifier.biases.rows().squeeze(1)

    def encoder(self, theirs: str, encoder: Encoder, part: str) -> None:
        self.hidden(f"{theirs}.{part}", encoder.hidden)
        self.linear(f"{theirs}.mean_{part}", encoder.mean)
        self.linear(f"{theirs}.var_{part}", encoder.log_variance)

    def hidden(self, theirs: str, hidden: nn.Module) -> None:
        for i, layer in enumerate(hidden.linears):
            self.linear(f"{theirs}.fc_layers.Layer {i}.0", layer)
        for i, norm in enumerate(hidden.batch_norms):
            for name, tensor in norm.state_dict().items():
                self.theirs[f"{theirs}.fc_layers.Layer {i}.1.{name}"] = tensor

    def linear(self, theirs: str, layer: ConditionalLinear) -> None:
        tables = [table.rows().T for table in layer.offsets if n_rows(table) > 1]
        self.theirs[f"{theirs}.weight"] = torch.cat([layer.weight, *tables], dim=1)
        bias = layer.bias
        for table in layer.offsets:
            if n_rows(table) == 1:
                bias = bias + table.rows()[0]  # of an only level, which has no column there
        self.theirs[f"{theirs}.bias"] = bias

    def zeros(self, theirs: str, n_out: int, n_in: int) -> None:
        self.theirs[f"{theirs}.weight"], self.theirs[f"{theirs}.bias"] = torch.zeros(n_out, n_in), torch.zeros(n_out)

    def unused_library_encoder(self) -> None:
        """It has one hidden layer, of the same input as z's."""
        first = "z_encoder.encoder.fc_layers.Layer 0"
        for name in [name for name in self.theirs if name.startswith(f"{first}.")]:
            like = self.theirs[name]
            self.theirs[name.replace("z_encoder", "l_encoder", 1)] = (
                torch.ones_like(like) if name.endswith((".1.weight", ".running_var")) else torch.zeros_like(like)
            )
        for part in ("mean", "var"):
            self.zeros(f"l_encoder.{part}_encoder", 1, self.config.n_hidden)


def n_rows(table: CategoryTable) -> int:
    return sum(len(block) for block in table.blocks)
