"""Reads what scvi-tools wrote, for comparison in tests only: nothing in the package unpickles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from scarches_widgets.data.schema import DataSchema
from scarches_widgets.models.scanvi import SCANVIConfig, SCANVIModule
from scarches_widgets.models.scvi import SCVIConfig, SCVIModule
from scarches_widgets.models.totalvi import TOTALVIConfig, TOTALVIModule

NORMS = ("encoder", "decoder", "none", "both")


class Inert:
    """Stands for a pandas object in the file: takes anything, does nothing."""

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass


def plain_dict(*args):
    """Stands for collections.defaultdict, which torch's reader refuses to fill (trap T15)."""
    return {}


def read_model_pt(path) -> dict:
    """The dict in a `model.pt`, by torch's weights-only reader: no code of the file runs."""
    try:
        from numpy._core.multiarray import _reconstruct, scalar
    except ImportError:
        from numpy.core.multiarray import _reconstruct, scalar
    dtypes = {type(np.dtype(code)) for code in ("O", "i8", "i4", "f8", "f4", "U3", "?", "u1")}
    # whatever of pandas stands in the training history
    pandas = [name for name in torch.serialization.get_unsafe_globals_in_checkpoint(path) if name.startswith("pandas.")]
    allowed = [
        (plain_dict, "collections.defaultdict"),
        *((Inert, name) for name in pandas),
        (_reconstruct, "numpy._core.multiarray._reconstruct"),
        (_reconstruct, "numpy.core.multiarray._reconstruct"),
        (scalar, "numpy._core.multiarray.scalar"),
        (scalar, "numpy.core.multiarray.scalar"),
        np.ndarray,
        np.dtype,
        slice,
        bytes,
        dict,
        list,
        *dtypes,
    ]
    with torch.serialization.safe_globals(allowed):
        return torch.load(path, map_location="cpu", weights_only=True)


def scvi_module(saved: dict) -> tuple[SCVIModule, DataSchema]:
    """Our module with the weights of a saved SCVI (or the scVI part of a SCANVI)."""
    schema = schema_of(saved)
    module = SCVIModule(schema, config_of(saved, SCVIConfig))
    module.load_state_dict(_Renamed(saved["model_state_dict"], module).of_scvi())
    return module.eval(), schema


def scanvi_module(saved: dict) -> tuple[SCANVIModule, DataSchema]:
    """Our module with the weights of a saved SCANVI."""
    schema = schema_of(saved)
    module = SCANVIModule(schema, config_of(saved, SCANVIConfig))
    renamed = _Renamed(saved["model_state_dict"], module).of_scanvi()
    novelty = {name: value for name, value in module.state_dict().items() if name.startswith("label_novelty.")}
    module.load_state_dict(renamed | novelty)
    return module.eval(), schema


def totalvi_module(saved: dict) -> tuple[TOTALVIModule, DataSchema]:
    """Our module with the weights of a saved TOTALVI."""
    registry = saved["attr_dict"]["registry_"]
    proteins = registry["field_registries"]["proteins"]
    key = proteins["data_registry"].get("mod_key") or proteins["data_registry"]["attr_key"]
    genes = saved["var_names"]
    saved = saved | {"var_names": genes["rna"] if isinstance(genes, dict) else genes}
    names = tuple(map(str, proteins["state_registry"]["column_names"]))
    schema = replace(schema_of(saved), protein_key=key, proteins=names)
    old = tuple(map(int, registry["scvi_version"].split(".")[:2])) < (1, 2)
    config = replace(config_of(saved, TOTALVIConfig), background_scale="exp" if old else "softplus")
    module = TOTALVIModule(schema, config)
    renamed = _Renamed(saved["model_state_dict"], module).of_totalvi()
    ours = {name: value for name, value in module.state_dict().items() if name.startswith("adversary.")}
    ours["proteins.measured.blocks.0"] = torch.ones(len(schema.batches), len(names))
    module.load_state_dict(renamed | ours)
    return module.eval(), schema


def schema_of(saved: dict) -> DataSchema:
    fields = saved["attr_dict"]["registry_"]["field_registries"]
    batch, labels = (fields[name]["state_registry"] for name in ("batch", "labels"))
    unlabeled = labels.get("unlabeled_category")
    return DataSchema(
        genes=tuple(map(str, saved["var_names"])),
        batch_key=None if batch["original_key"] == "_scvi_batch" else batch["original_key"],
        batches=tuple(map(str, batch["categorical_mapping"])),
        labels_key=None if unlabeled is None else labels["original_key"],
        labels=tuple(map(str, labels["categorical_mapping"]))[:-1] if unlabeled else (),  # it stands last (trap T10)
        unlabeled_category=unlabeled,
    )


def config_of(saved: dict, cls: type):
    parameters = saved["attr_dict"]["init_params_"]
    options = dict(parameters["non_kwargs"])
    for extra in parameters["kwargs"].values():
        options |= extra
    return cls(**{name: value for name, value in options.items() if name in cls.__dataclass_fields__})


class _Renamed:
    """Their tensors under our names: one-hot columns stand behind the features, and become tables."""

    def __init__(self, theirs: dict, module: torch.nn.Module):
        self.theirs, self.wanted, self.ours = theirs, module.state_dict(), {}

    def of_scvi(self) -> dict:
        self.linear("encoder.mean", "z_encoder.mean_encoder")
        self.linear("encoder.log_variance", "z_encoder.var_encoder")
        self.linear("decoder.fraction_logits", "decoder.px_scale_decoder.0")
        self.linear("decoder.zero_inflation_logits", "decoder.px_dropout_decoder")
        self.hidden("encoder.hidden", "z_encoder.encoder")
        self.hidden("decoder.hidden", "decoder.px_decoder")
        if "decoder.log_inverse_dispersion.shared" in self.wanted:
            self.ours["decoder.log_inverse_dispersion.shared"] = self.theirs["px_r"]
        return self.ours

    def of_scanvi(self) -> dict:
        self.of_scvi()
        for ours, theirs, part in (
            ("z2_encoder", "encoder_z2_z1", "encoder"),
            ("z1_decoder", "decoder_z1_z2", "decoder"),
        ):
            self.hidden(f"{ours}.hidden", f"{theirs}.{part}")
            self.linear(f"{ours}.mean", f"{theirs}.mean_{part}")
            self.linear(f"{ours}.log_variance", f"{theirs}.var_{part}")
        self.hidden("classifier.hidden", "classifier.classifier.0")
        last = f"classifier.classifier.{int('classifier.hidden.linears.0.weight' in self.wanted)}"  # 0: linear
        self.ours["classifier.rows.blocks.0"] = self.theirs[f"{last}.weight"]
        self.ours["classifier.biases.blocks.0"] = self.theirs[f"{last}.bias"][:, None]
        return self.ours

    def of_totalvi(self) -> dict:
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
            self.linear(f"{ours}.linear", f"decoder.{theirs}.fc_layers.Layer 0.0")
        self.ours["decoder.log_inverse_dispersion.shared"] = self.theirs["px_r"]
        self.ours["proteins.log_inverse_dispersion.shared"] = self.theirs["py_r"]
        for ours, theirs in {
            "log_efficiency": "log_per_batch_efficiency",
            "prior_mean": "background_pro_alpha",
            "prior_log_scale": "background_pro_log_beta",
        }.items():
            table = f"proteins.{ours}.blocks.0"
            theirs = self.theirs.get(theirs)  # before 1.3, there was no efficiency
            self.ours[table] = torch.zeros_like(self.wanted[table]) if theirs is None else theirs.T
        return self.ours

    def hidden(self, ours: str, theirs: str) -> None:
        i = 0
        while f"{ours}.linears.{i}.weight" in self.wanted:
            self.linear(f"{ours}.linears.{i}", f"{theirs}.fc_layers.Layer {i}.0")
            for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                key = f"{theirs}.fc_layers.Layer {i}.1.{name}"
                if key in self.theirs:
                    self.ours[f"{ours}.batch_norms.{i}.{name}"] = self.theirs[key]
            i += 1

    def linear(self, ours: str, theirs: str) -> None:
        if f"{ours}.weight" not in self.wanted:
            return
        n_features = self.wanted[f"{ours}.weight"].shape[1]
        weight = self.theirs[f"{theirs}.weight"]
        self.ours[f"{ours}.weight"] = weight[:, :n_features]
        self.ours[f"{ours}.bias"] = self.theirs[f"{theirs}.bias"]
        table = f"{ours}.offsets.0.blocks.0"
        if table in self.wanted:  # a single category has no column there and a row of zeros here (trap T2)
            rows = weight[:, n_features:].T
            self.ours[table] = rows if len(rows) else torch.zeros_like(self.wanted[table])
