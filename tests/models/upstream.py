"""Reads what scvi-tools wrote, for comparison in tests only: nothing in the package unpickles."""

from __future__ import annotations

import numpy as np
import torch

from scarches_widgets.data.schema import DataSchema
from scarches_widgets.models.scvi import SCVIConfig, SCVIModule

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
    attributes = saved["attr_dict"]
    fields = attributes["registry_"]["field_registries"]
    options = dict(attributes["init_params_"]["non_kwargs"])
    for extra in attributes["init_params_"]["kwargs"].values():
        options |= extra
    known = set(SCVIConfig.__dataclass_fields__)
    config = SCVIConfig(**{name: value for name, value in options.items() if name in known})
    schema = DataSchema(
        genes=tuple(map(str, saved["var_names"])),
        batch_key=fields["batch"]["state_registry"]["original_key"],
        batches=tuple(map(str, fields["batch"]["state_registry"]["categorical_mapping"])),
    )
    module = SCVIModule(schema, config)
    module.load_state_dict(_renamed(saved["model_state_dict"], module, schema))
    return module.eval(), schema


def _renamed(theirs: dict, module: SCVIModule, schema: DataSchema) -> dict:
    ours = {}
    pairs = [
        ("encoder.mean", "z_encoder.mean_encoder"),
        ("encoder.log_variance", "z_encoder.var_encoder"),
        ("decoder.fraction_logits", "decoder.px_scale_decoder.0"),
        ("decoder.zero_inflation_logits", "decoder.px_dropout_decoder"),
    ]
    for i in range(len(module.decoder.hidden.linears)):
        pairs.append((f"encoder.hidden.linears.{i}", f"z_encoder.encoder.fc_layers.Layer {i}.0"))
        pairs.append((f"decoder.hidden.linears.{i}", f"decoder.px_decoder.fc_layers.Layer {i}.0"))
        for ours_part, theirs_part in (("encoder.hidden", "z_encoder.encoder"), ("decoder.hidden", "decoder.px_decoder")):
            for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                key = f"{theirs_part}.fc_layers.Layer {i}.1.{name}"
                if key in theirs:
                    ours[f"{ours_part}.batch_norms.{i}.{name}"] = theirs[key]
    wanted = module.state_dict()
    for our_name, their_name in pairs:
        if f"{our_name}.weight" not in wanted:
            continue
        n_features = wanted[f"{our_name}.weight"].shape[1]
        weight = theirs[f"{their_name}.weight"]
        ours[f"{our_name}.weight"] = weight[:, :n_features]
        ours[f"{our_name}.bias"] = theirs[f"{their_name}.bias"]
        if f"{our_name}.offsets.0.blocks.0" in wanted:
            ours[f"{our_name}.offsets.0.blocks.0"] = weight[:, n_features:].T
    if "decoder.log_inverse_dispersion.shared" in wanted:
        ours["decoder.log_inverse_dispersion.shared"] = theirs["px_r"]
    return ours
