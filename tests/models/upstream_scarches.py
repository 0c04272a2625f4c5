"""Reads what scArches wrote, for comparison in tests only: nothing in the package unpickles."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch

from scarches_widgets.data.schema import DataSchema
from scarches_widgets.models.expimap import EXPIMAPConfig, EXPIMAPModule
from scarches_widgets.models.trvae import TRVAEConfig, TRVAEModule


class Builtins(pickle.Unpickler):
    """Takes dicts, lists, strings and numbers; a file that names anything else is refused."""

    def find_class(self, module, name):
        raise pickle.UnpicklingError(f"{module}.{name} is no builtin")


def read_scarches(folder: Path) -> tuple[dict, dict, tuple[str, ...]]:
    """Attributes, tensors and genes of a model that scArches saved."""
    with (folder / "attr.pkl").open("rb") as file:
        attributes = Builtins(file).load()
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


def first_layer(ours: str, theirs: dict, name: str) -> dict:
    """The layer that the conditions enter: theirs have one column each, ours one row of a table."""
    rows = {f"{ours}.linears.0.offsets.0.blocks.0": theirs[f"{name}.cond_L.weight"].T}
    return rows | linear(f"{ours}.linears.0", theirs, f"{name}.expr_L")


def linear(ours: str, theirs: dict, name: str) -> dict:
    return {f"{ours}.{part}": theirs[f"{name}.{part}"] for part in ("weight", "bias") if f"{name}.{part}" in theirs}
