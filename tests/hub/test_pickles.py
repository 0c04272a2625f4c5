"""Hostile and damaged files of models: none runs anything, all are refused in words, and none asks for trust."""

import io
import os
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import torch

import scarches_widgets as sca
from scarches_widgets.data.container import DamagedFile
from scarches_widgets.hub.pickles import read_pickle, read_torch

UNSAFE_ADVICE = ("weights_only", "allow_pickle", "pickle.load", "safe_globals", "trust")


class Calls:
    """When unpickled by Python, calls a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def touching(canary) -> Calls:
    return Calls(os.system, f"touch {canary}")


def torch_zip(program: bytes, storages: dict[str, bytes] | None = None, compression=zipfile.ZIP_STORED) -> bytes:
    """A file as `torch.save` lays it out, around any pickle."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", compression) as archive:
        archive.writestr("model/data.pkl", program)
        for key, data in (storages or {}).items():
            archive.writestr(f"model/data/{key}", data)
    return target.getvalue()


def torch_legacy(thing) -> bytes:
    target = io.BytesIO()
    torch.save(thing, target, _use_new_zipfile_serialization=False)
    return target.getvalue()


def in_tar(program: bytes) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            member = tarfile.TarInfo(name)
            member.size = len(program)
            archive.addfile(member, io.BytesIO(program))
    return target.getvalue()


def tensor_of(shape: tuple, stride: tuple) -> bytes:
    """A pickle of one tensor, of a storage of four numbers."""
    shape, stride = ("(" + "".join(f"I{n}\n" for n in numbers) + "t" for numbers in (shape, stride))
    storage = "(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI4\ntQ"
    return f"ctorch._utils\n_rebuild_tensor_v2\n({storage}I0\n{shape}{stride}I00\nNtR.".encode()


HOSTILE = {
    "a call of the shell": lambda c: pickle.dumps(touching(c)),
    "the same in the oldest protocol": lambda c: pickle.dumps(touching(c), protocol=0),
    "the same within a model's dict": lambda c: pickle.dumps({"scvi_setup_dict_": {}, "x": [touching(c)]}),
    "in torch's zip": lambda c: torch_zip(pickle.dumps({"model_state_dict": touching(c)}, protocol=2)),
    "in torch's old format": lambda c: torch_legacy({"weights": touching(c)}),
    "in a tensor within a pickle": lambda c: pickle.dumps(
        Calls(torch.storage._load_from_bytes, torch_legacy({"weights": touching(c)}))
    ),
    "in torch's oldest format, a tar": lambda c: in_tar(pickle.dumps(touching(c))),
    "by eval": lambda c: pickle.dumps(Calls(eval, f"open('{c}', 'w')")),
    "by a chain of getattr": lambda c: b"cbuiltins\ngetattr\n(cbuiltins\nobject\nS'__subclasses__'\ntR(tR.",
    "by numpy's own reader": lambda c: b"cnumpy\nload\n(S'/etc/passwd'\nI00\nI01\ntR.",
    "by torch's own reader": lambda c: b"ctorch\nload\n(S'/etc/passwd'\ntR.",
    "by pandas' eval": lambda c: b"cpandas.core.computation.eval\neval\n(S'1'\ntR.",
    "by an instance of protocol 0": lambda c: f"(S'touch {c}'\nios\nsystem\n.".encode(),
    "by an extension": lambda c: b"\x80\x02\x82\x01.",
    "a dotted name": lambda c: b"\x80\x04\x8c\x08builtins\x8c\x0dlist.__init__\x93.",
}  # fmt: skip


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("name", ["model.pt", "attr.pkl", "model_params.pt"])
def test_a_hostile_file_is_refused_under_every_name_and_nothing_of_it_runs(make, name, tmp_path):
    canary = tmp_path / "canary"
    (tmp_path / "var_names.csv").write_text("g0\ng1\n")
    if name == "model_params.pt":
        (tmp_path / "attr.pkl").write_bytes(pickle.dumps({"mmd_on_": "z", "scvi_setup_dict_": {}}))
    (tmp_path / name).write_bytes(make(canary))
    for other in ("model_params.pt", "attr.pkl"):
        if not (tmp_path / other).exists():
            (tmp_path / other).write_bytes(b"")
    readers = [sca.hub.from_scvi_tools] + ([sca.hub.from_scarches] if name != "model.pt" else [])
    for read in readers:
        with pytest.raises(DamagedFile) as refusal:
            read(tmp_path)
        assert not canary.exists()
        assert not any(advice in str(refusal.value) for advice in UNSAFE_ADVICE)


BOMBS = {
    "a tensor that repeats one number": torch_zip(tensor_of((10**6, 10**6), (0, 0)), {"0": bytes(16)}),
    "a tensor beyond its storage": torch_zip(tensor_of((2, 3), (3, 1)), {"0": bytes(16)}),
    "a negative stride": torch_zip(tensor_of((4,), (-1,)), {"0": bytes(16)}),
    "a storage of another size": torch_zip(tensor_of((4,), (1,)), {"0": bytes(20)}),
    "a storage that is not there": torch_zip(tensor_of((4,), (1,))),
    "a packed zip": torch_zip(tensor_of((4,), (1,)), {"0": bytes(16)}, zipfile.ZIP_DEFLATED),
    "a file that ends": torch_zip(tensor_of((4,), (1,)), {"0": bytes(16)})[:-30],
    "nothing": b"",
    "text": b"a,b\n1,2\n",
}  # fmt: skip


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS)
def test_what_declares_more_than_it_holds_is_refused(data, tmp_path):
    (tmp_path / "model.pt").write_bytes(data)
    with pytest.raises(DamagedFile, match="was not read"):
        read_torch(tmp_path / "model.pt")


def test_the_same_numbers_cannot_be_asked_for_a_million_times(tmp_path):
    tensor = tensor_of((250_000,), (1,)).replace(b"I4\n", b"I250000\n")[:-1]
    (tmp_path / "model.pt").write_bytes(torch_zip(b"(" + tensor * 200 + b"l.", {"0": bytes(1_000_000)}))
    with pytest.raises(DamagedFile, match="builds many times more than it holds"):
        read_torch(tmp_path / "model.pt")


def test_a_flipped_bit_in_a_file_of_torch_is_noticed(tmp_path):
    good = io.BytesIO()
    torch.save({"weights": torch.arange(1000.0)}, good)
    data, rng = good.getvalue(), np.random.default_rng(0)
    for place in rng.integers(0, len(data), 60):
        flipped = bytearray(data)
        flipped[place] ^= 1 << rng.integers(8)
        (tmp_path / "model.pt").write_bytes(flipped)
        try:
            found = read_torch(tmp_path / "model.pt")
        except DamagedFile:
            continue
        assert torch.equal(found["weights"], torch.arange(1000.0))  # it was in padding or in a date


THINGS = {
    "floats": torch.linspace(-1, 1, 7),
    "whole numbers": torch.arange(6).reshape(2, 3),
    "a transposed matrix": torch.arange(12.0).reshape(3, 4).T,
    "true and false": torch.tensor([True, False]),
    "an empty tensor": torch.zeros(0, 3),
    "one number": torch.tensor(3.5),
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
def test_what_torch_saves_is_read_as_it_was(zipped, tmp_path):
    shared = torch.arange(10.0)
    things = {**THINGS, "part": shared[2:5], "all": shared, "text": ["a", ("b", None, 1.5, {"k": {1, 2}})]}
    torch.save(things, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    found = read_torch(tmp_path / "model.pt")
    assert list(found) == list(things) and found["text"] == things["text"]
    for name, tensor in found.items():
        if name != "text":
            assert tensor.dtype == things[name].dtype and torch.equal(tensor, things[name])


@pytest.mark.parametrize("protocol", range(6))
def test_what_pickle_dumps_is_read_as_it_was(protocol, tmp_path):
    things = {
        "names": np.array(["a", "ä", None], dtype=object),
        "text": np.array(["x", "yz"]),
        "numbers": np.arange(6, dtype=np.int32).reshape(2, 3),
        "columns first": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "one": np.float64(2.5),
        "positions": range(3),
        "tensor": torch.arange(3.0),
    }
    (tmp_path / "attr.pkl").write_bytes(pickle.dumps(things, protocol=protocol))
    found = read_pickle(tmp_path / "attr.pkl")
    assert list(found) == list(things)
    for name in ("names", "text", "numbers", "columns first"):
        assert found[name].dtype == things[name].dtype
        np.testing.assert_array_equal(found[name], things[name])
    assert found["one"] == 2.5 and list(found["positions"]) == [0, 1, 2]
    assert torch.equal(found["tensor"], things["tensor"])


def without_end(depth: int = 60) -> list:
    """A list that holds one of another twice, and so on: small in a file, without end when it is written out."""
    inner = ["x"]
    for _ in range(depth):
        inner = [inner, inner]
    return inner


@pytest.mark.parametrize(
    "where",
    [("init_params_", "non_kwargs", "n_latent"), ("init_params_", "non_kwargs", "latent_distribution"),
     ("registry_", "scvi_version"), ("registry_", "model_name"), ("registry_", "setup_args", "batch_key"),
     ("registry_", "field_registries", "batch", "state_registry", "original_key"),
     ("registry_", "field_registries", "batch", "state_registry", "categorical_mapping")],
    ids=lambda where: where[-1],
)  # fmt: skip
def test_a_value_without_end_is_never_written_out(trained, where, tmp_path):
    sca.hub.to_scvi_tools(trained, tmp_path / "model")
    content = read_torch(tmp_path / "model" / "model.pt")
    place = content["attr_dict"]
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = without_end()
    torch.save(content, tmp_path / "model" / "model.pt")
    try:
        sca.hub.from_scvi_tools(tmp_path / "model")
    except DamagedFile as refusal:
        assert len(str(refusal)) < 2000


def test_keys_within_keys_do_not_overflow_the_stack(tmp_path):
    (tmp_path / "attr.pkl").write_bytes(b"})" + b"\x85" * 100_000 + b"K\x01s.")
    with pytest.raises(DamagedFile, match="neither text nor a number"):
        read_pickle(tmp_path / "attr.pkl")
