"""Reads what scArches wrote, for comparison in tests only: nothing in the package unpickles."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from pathlib import Path

import torch

from scarches_widgets.data.schema import DataSchema
from scarches_widgets.models.expimap import EXPIMAPConfig, EXPIMAPModule
from scarches_widgets.models.scpoli import ScPoliConfig, ScPoliModule
from scarches_widgets.models.trvae import TRVAEConfig, TRVAEModule


class Builtins(pickle.Unpickler):
    """Takes dicts, lists, strings and numbers; a file that names anything else is refused."""

    def find_class(self, module, name):
        raise pickle.UnpicklingError(f"{module}.{name} is no builtin")


class Stand:
    """Takes the place of an object that is not looked at, and whatever it is made with."""

    def __new__(cls, *arguments, **more):
        return super().__new__(cls)

    def __setstate__(self, state):
        pass

    def __setitem__(self, key, value):
        pass


class Tensors(Builtins):
    """Besides, tensors, each saved as a file within the file; of data frames and the like, a stand-in without content.
    No code that the file names is run."""

    def find_class(self, module, name):
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return lambda data: torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return torch._utils._rebuild_tensor_v2
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        return Stand


def read_scarches(folder: Path, reader: type[Builtins] = Builtins) -> tuple[dict, dict, tuple[str, ...]]:
    """Attributes, tensors and genes of a model that scArches saved."""
    with (folder / "attr.pkl").open("rb") as file:
        attributes = reader(file).load()
    tensors = torch.load(folder / "model_params.pt", map_location="cpu", weights_only=True)
    return attributes, tensors, tuple((folder / "var_names.csv").read_text().split())


def trvae_module(folder: Path) -> tuple[TRVAEModule, DataSchema]:
    """Our module with the weights of a saved TRVAE."""
    attributes, theirs, genes = read_scarches(folder)
    schema = DataSchema(
        genes, batch_key=attributes["condition_key_"], batches=tuple(map(str, attributes["conditions_"]))
    )
    config = TRVAEConfig(
        hidden_layer_sizes=attributes["hidden_layer_sizes_"],
        n_latent=attributes["latent_dim_"],
        gene_likelihood=attributes["recon_loss_"],
        use_layer_norm=attributes["use_ln_"],
        use_batch_norm=attributes["use_bn_"],
    )
    module = TRVAEModule(schema, config)
    ours = {
        "decoder.log_inverse_dispersion.table.blocks.0": theirs["theta"].T,
        **first_layer("encoder.hidden", theirs, "encoder.FC.L0"),
        **first_layer("decoder.hidden", theirs, "decoder.FirstL.L0"),
        **linear("encoder.mean", theirs, "encoder.mean_encoder"),
        **linear("encoder.log_variance", theirs, "encoder.log_var_encoder"),
        **linear("decoder.fraction_logits", theirs, "decoder.mean_decoder.0"),
    }
    for i in range(1, len(config.hidden_layer_sizes)):
        ours |= linear(f"encoder.hidden.linears.{i}", theirs, f"encoder.FC.L{i}")
        ours |= linear(f"decoder.hidden.linears.{i}", theirs, f"decoder.HiddenL.L{i}")
    module.load_state_dict(ours)  # refuses a tensor too many or too few
    return module.eval(), schema


def expimap_module(folder: Path) -> tuple[EXPIMAPModule, DataSchema]:
    """Our module with the weights of a saved EXPIMAP of a hard mask, without new programs."""
    attributes, theirs, genes = read_scarches(folder)
    schema = DataSchema(
        genes, batch_key=attributes["condition_key_"], batches=tuple(map(str, attributes["conditions_"]))
    )
    config = EXPIMAPConfig(
        hidden_layer_sizes=attributes["hidden_layer_sizes_"],
        gene_likelihood=attributes["recon_loss_"],
        use_layer_norm=attributes["use_ln_"],
        use_batch_norm=attributes["use_bn_"],
        terms=tuple(map(str, range(attributes["latent_dim_"]))),
    )
    module = EXPIMAPModule(schema, config)
    ours = {
        "decoder.log_inverse_dispersion.table.blocks.0": theirs["theta"].T,
        "decoder.hidden.weight": theirs["decoder.L0.expr_L.weight"],
        "decoder.hidden.mask": theirs["decoder.L0.expr_L.mask"],
        "decoder.hidden.offsets.0.blocks.0": theirs["decoder.L0.cond_L.weight"].T,
        **first_layer("encoder.hidden", theirs, "encoder.FC.L0"),
        **linear("encoder.mean", theirs, "encoder.mean_encoder"),
        **linear("encoder.log_variance", theirs, "encoder.log_var_encoder"),
    }
    for i in range(1, len(config.hidden_layer_sizes)):
        ours |= linear(f"encoder.hidden.linears.{i}", theirs, f"encoder.FC.L{i}")
    module.load_state_dict(ours)  # refuses a tensor too many or too few
    return module.eval(), schema


def scpoli_module(folder: Path) -> tuple[ScPoliModule, DataSchema]:
    """Our module with the weights and prototypes of a saved scPoli of one condition key and one label key."""
    attributes, theirs, genes = read_scarches(folder, Tensors)
    ((key, conditions),) = attributes["conditions_"].items()
    (labels_key,) = attributes["cell_type_keys_"]
    schema = DataSchema(
        genes, batch_key=key, batches=tuple(conditions), labels_key=labels_key, labels=tuple(attributes["cell_types_"])
    )
    config = ScPoliConfig(
        hidden_layer_sizes=attributes["hidden_layer_sizes_"],
        n_latent=attributes["latent_dim_"],
        embedding_dims=tuple(attributes["embedding_dims_"]),
        gene_likelihood=attributes["recon_loss_"],
        use_layer_norm=attributes["use_ln_"],
        use_batch_norm=attributes["use_bn_"],
    )
    module = ScPoliModule(schema, config)
    ours = {
        "conditions.tables.0.blocks.0": theirs["embeddings.0.weight"],
        "decoder.log_inverse_dispersion.table.blocks.0": theirs["theta"].T,
        **linear("encoder.mean", theirs, "encoder.mean_encoder"),
        **linear("encoder.log_variance", theirs, "encoder.log_var_encoder"),
        **linear("decoder.fraction_logits", theirs, "decoder.mean_decoder.0"),
        "prototypes.0.means": attributes["prototypes_labeled_"]["mean"],
        "prototypes.0.n_cells": torch.ones(len(schema.labels), dtype=torch.int64),
    }
    for part, name in (("encoder", "encoder.FC.L0"), ("decoder", "decoder.FirstL.L0")):
        ours |= linear(f"{part}.hidden.linears.0", theirs, f"{name}.expr_L")
        ours[f"{part}.hidden.linears.0.of_conditions"] = theirs[f"{name}.cond_L.weight"]
    for i in range(1, len(config.hidden_layer_sizes)):
        ours |= linear(f"encoder.hidden.linears.{i}", theirs, f"encoder.FC.L{i}")
        ours |= linear(f"decoder.hidden.linears.{i}", theirs, f"decoder.HiddenL.L{i}")
    missing, surplus = module.load_state_dict(ours, strict=False)
    assert not surplus and all(name.startswith(("prototypes", "clusters", "label_novelty")) for name in missing)
    module.conditions.clip()  # as theirs do when they are looked up
    return module.eval(), schema


def first_layer(ours: str, theirs: dict, name: str) -> dict:
    """The layer that the conditions enter: theirs have one column each, ours one row of a table."""
    rows = {f"{ours}.linears.0.offsets.0.blocks.0": theirs[f"{name}.cond_L.weight"].T}
    return rows | linear(f"{ours}.linears.0", theirs, f"{name}.expr_L")


def linear(ours: str, theirs: dict, name: str) -> dict:
    return {f"{ours}.{part}": theirs[f"{name}.{part}"] for part in ("weight", "bias") if f"{name}.{part}" in theirs}
