"""A folder of tensors and JSON is whole or absent, and comes back to the bit or not at all."""

import errno
import hashlib
import itertools
import json
import os
import pickle
import random
import resource
import struct
import subprocess
import sys
import time
import tracemalloc
from collections import namedtuple
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save

from scarches_widgets.data import atomic, container
from scarches_widgets.data.container import DamagedFile, check_target, read_document, write_container
from scarches_widgets.data.strict_json import parse_json

MEMBERS = ("model.json", "model.safetensors", "manifest.json")
NAMES = [
    "CD3D",
    "HLA-A,B",
    "#gene",
    'quo"te',
    "tab\tnew\nline",
    "back\\slash",
    "[{]}",
    "β-actin 🧬 \u202e",
    "x" * 10_000,
    "",
]
DOCUMENT = {"genes": NAMES, "n_latent": 10, "lr": 1e-3, "seed": 2**63, "best": None, "nested": {"a": [[], {}, [True]]}}
ARRAYS = {
    "weight": np.random.default_rng(0).normal(size=(7, 5)).astype("float32"),
    "step": np.array(12345, "int64"),
    "empty": np.zeros((0, 5), "float64"),
    "transposed": np.arange(6, dtype="int32").reshape(2, 3).T,
    "random state": np.arange(17, dtype="uint8"),
    "mask": np.array([True, False, True]),
    **{name: np.full(2, np.nan, "float64") for name in NAMES},
}


def write(path, document=DOCUMENT, tensors=ARRAYS, version=1, **options):
    return write_container(path, kind="model", format_version=version, document=document, tensors=tensors, **options)


def read(path):
    return read_document(path, kind="model", newest_version=1)


def content(path):
    """All that a container holds, in a form that compares NaN as equal."""
    held = read(path)
    return held.document, {name: (t.dtype, t.shape, t.numpy().tobytes()) for name, t in held.tensors().items()}


def forge(path, document=b"{}", tensors=None, **changes):
    """A folder whose checksums are right whatever its members are, as someone with bad intent would make it."""
    members = {"model.json": document, "model.safetensors": save({}) if tensors is None else tensors}
    manifest = json.loads(container._encode_manifest("model", 1, members)[1])
    manifest = {**manifest, **changes}
    manifest.pop("digest")
    digest = hashlib.sha256(container._canonical(manifest)).hexdigest()
    path.mkdir()
    for name, data in {**members, "manifest.json": container._canonical({**manifest, "digest": digest})}.items():
        (path / name).write_bytes(data)


def safetensors(header, data=b"", length=None):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def tensor(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@contextmanager
def quick_and_small():
    """Less than a second of computing, and less than 50 MB of memory."""
    tracemalloc.start()
    start = time.process_time()
    yield
    seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 1 and peak < 50e6, (seconds, peak)


@pytest.fixture
def saved(tmp_path):
    write(tmp_path / "atlas")
    return tmp_path / "atlas"


# What is written comes back


def test_a_container_comes_back_to_the_bit(saved):
    held = read(saved)
    assert held.document == DOCUMENT
    assert held.tensor_shapes == {name: (a.shape, str(a.dtype)) for name, a in ARRAYS.items()}
    tensors = held.tensors()
    for name, array in ARRAYS.items():
        assert tensors[name].numpy().dtype == array.dtype
        np.testing.assert_array_equal(tensors[name].numpy(), array)


def test_tensors_of_torch_come_back_with_their_dtype(tmp_path):
    torch = pytest.importorskip("torch")
    tensors = {str(dtype): torch.ones(2, 3, dtype=dtype) for dtype in (torch.float32, torch.float64, torch.bool)}
    tensors |= {"parameter": torch.nn.Parameter(torch.randn(3)), "view": torch.arange(12).reshape(3, 4).T[1:]}
    write(tmp_path / "atlas", tensors=tensors)
    back = read(tmp_path / "atlas").tensors()
    assert all(torch.equal(back[name], tensor) and back[name].dtype == tensor.dtype for name, tensor in tensors.items())


def test_the_safetensors_library_reads_the_same_values(saved):
    theirs = load_file(saved / "model.safetensors")
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(theirs[name], array)


def test_the_tensors_that_are_read_belong_to_the_reader(saved):
    before = content(saved)
    for tensor in read(saved).tensors().values():
        tensor.zero_()
    assert content(saved) == before


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text(), json_values))
def test_any_json_comes_back_as_it_was(document):
    assert parse_json(container._encode_document(document)) == document


def test_the_same_content_has_the_same_digest_and_other_content_another(tmp_path):
    first, again = write(tmp_path / "a"), write(tmp_path / "b")
    assert first == again == read(tmp_path / "a").digest
    assert first != write(tmp_path / "c", document={**DOCUMENT, "n_latent": 11})
    assert first != write(tmp_path / "d", tensors={**ARRAYS, "step": np.array(12346)})


@pytest.mark.parametrize(
    ("document", "error", "message"),
    [
        ({"loss": float("nan")}, ValueError, "NaN and infinity as None"),
        ({"loss": [float("inf")]}, ValueError, "NaN and infinity as None"),
        ({0: "B cell"}, TypeError, "the key 0, and JSON has only text keys"),
        ({"a": [{"b": ({1.5: 2},)}]}, TypeError, "the key 1.5"),
        ({"0": 1, 0: 2}, ValueError, "stands twice"),
        ({"a": np.float32(1)}, TypeError, "float32"),
        ({"a": {"b": set()}}, TypeError, "set"),
        (["no object"], ValueError, "not a JSON object"),
    ],
)
def test_a_document_that_would_not_come_back_is_not_written(tmp_path, document, error, message):
    with pytest.raises(error, match=message):
        write(tmp_path / "atlas", document=document)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("depth", [70, 100_000])
def test_a_document_of_endless_depth_is_not_written(tmp_path, depth):
    document = {}
    for _ in range(depth):
        document = {"a": document}
    with pytest.raises(ValueError, match="cannot be saved as JSON"):
        write(tmp_path / "atlas", document=document)


@pytest.mark.parametrize("dtype", ["float16", "complex64", ">f4", "object", "U3", "bfloat16"])
def test_a_tensor_of_another_dtype_is_not_written(tmp_path, dtype):
    torch = pytest.importorskip("torch")
    array = torch.zeros(2, dtype=torch.bfloat16) if dtype == "bfloat16" else np.zeros(2, dtype)
    with pytest.raises(TypeError, match=r"Tensor 'w' is .* convert it to float32"):
        write(tmp_path / "atlas", tensors={"w": array})
    assert not any(tmp_path.iterdir())


# What is damaged is refused


def test_any_flipped_bit_is_refused(saved):
    rng = random.Random(0)
    originals = {name: (saved / name).read_bytes() for name in MEMBERS}
    for flip in range(200):
        name = MEMBERS[flip % 3]
        data = bytearray(originals[name])
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        (saved / name).write_bytes(data)
        with pytest.raises(DamagedFile, match=str(saved)):
            read(saved)
        (saved / name).write_bytes(originals[name])
    assert read(saved).document == DOCUMENT


def test_a_file_cut_short_anywhere_is_refused(saved):
    rng = random.Random(0)
    originals = {name: (saved / name).read_bytes() for name in MEMBERS}
    for cut in range(100):
        name = MEMBERS[cut % 3]
        (saved / name).write_bytes(originals[name][: rng.randrange(len(originals[name]))])
        with pytest.raises(DamagedFile, match=name):
            read(saved)
        (saved / name).write_bytes(originals[name])


@pytest.mark.parametrize("name", MEMBERS)
def test_members_of_another_model_are_refused(saved, tmp_path, name):
    write(tmp_path / "other", document={**DOCUMENT, "n_latent": 11}, tensors={**ARRAYS, "step": np.array(0)})
    (tmp_path / "other" / name).replace(saved / name)
    with pytest.raises(DamagedFile, match=r"SHA-256 differs|bytes instead of"):
        read(saved)


def test_tensors_replaced_after_the_document_was_read_are_refused(saved):
    held = read(saved)
    data = bytearray((saved / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (saved / "model.safetensors").write_bytes(data)
    with pytest.raises(DamagedFile, match="changed after it had been opened"):
        held.tensors()


@pytest.mark.parametrize("name", MEMBERS)
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(DamagedFile, match=f"lacks {name}"):
        read(saved)


@pytest.mark.parametrize("extra", ["attr.pkl", "numpy.py", ".DS_Store"])
def test_a_file_too_many_is_named(saved, extra):
    (saved / extra).touch()
    with pytest.raises(DamagedFile, match=f"also holds {extra}"):
        read(saved)


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("replacement", ["link", "folder", "pipe"])
def test_only_plain_files_are_opened(saved, tmp_path, name, replacement):
    (saved / name).replace(tmp_path / "elsewhere")
    {
        "link": lambda: (saved / name).symlink_to(tmp_path / "elsewhere"),
        "folder": (saved / name).mkdir,
        "pipe": lambda: os.mkfifo(saved / name),
    }[replacement]()
    with pytest.raises(DamagedFile, match=f"{name} is a link or a folder"):
        read(saved)


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"", "an empty file"),
        (pickle.dumps({"a": 1}), "a pickle, which can run code"),
        (b"<!DOCTYPE html><html>404", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a git-lfs pointer"),
        (b"PK\x03\x04rest", "a zip archive"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    ],
)
def test_a_file_in_the_place_of_a_folder_is_named(tmp_path, start, kind):
    (tmp_path / "atlas").write_bytes(start)
    with pytest.raises(DamagedFile, match=kind):
        read(tmp_path / "atlas")


def test_a_pointer_of_git_lfs_in_the_place_of_the_weights_is_named(saved):
    (saved / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(DamagedFile, match="git lfs pull"):
        read(saved)


def test_a_missing_model_brings_a_near_name(saved):
    with pytest.raises(FileNotFoundError, match="Did you mean 'atlas'"):
        read(saved.with_name("atlsa"))


def test_a_newer_format_says_so(tmp_path):
    write(tmp_path / "atlas", version=3)
    with pytest.raises(DamagedFile, match=r"by a newer scarches_widgets \(format 3\), this one reads up to 1: upgrade"):
        read(tmp_path / "atlas")


def test_a_container_of_another_kind_says_so(saved):
    with pytest.raises(DamagedFile, match="holds a 'model', not a 'training run'"):
        read_document(saved, kind="training run", newest_version=1)


# What is hostile is refused before use


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b'{"a": NaN}', "NaN is not a finite number"),
        (b'{"a": [1, -Infinity]}', "not a finite number"),
        (b'{"a": 1e999}', "1e999 is not a finite number"),
        (b'{"a": 1, "b": 2, "a": 3}', "'a' stands twice"),
        (b'{"x": {"a": 1, "a": 1}}', "'a' stands twice"),
        (b'{"a": ' + b"[" * 64 + b"]" * 64 + b"}", "more than 64 within each other"),
        (b"[" * 200_000, "more than 64 within each other"),
        (b'{"a":' * 200_000, "more than 64 within each other"),
        (b'{"a": [' + b"[]," * 1_000_001 + b"1]}", "more than 1,000,000 lists"),
        (b'{"a": ' + b"9" * 5000 + b"}", "cannot be read"),
        (b"[1, 2]", "not a JSON object"),
        (b'\xef\xbb\xbf{"a": 1}', "cannot be read"),
        ('{"a": 1}'.encode("utf-16"), "cannot be read"),
        (b'{"a": "\xff"}', "cannot be read"),
        (pickle.dumps({"a": 1}), "a pickle"),
        (b"", "an empty file"),
    ],
)
def test_a_hostile_document_is_refused(tmp_path, document, message):
    forge(tmp_path / "atlas", document=document)
    with quick_and_small(), pytest.raises(DamagedFile, match=message):
        read(tmp_path / "atlas")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (b"", "claims a header"),
        (b"\0" * 7, "claims a header"),
        (safetensors({}, length=10**12), "claims a header of 1,000,000,000,000 bytes"),
        (safetensors({}, length=2**63), "claims a header"),
        (safetensors({"a": tensor([2], 0, 8)}, bytes(8), length=12), "cannot be read"),
        (safetensors({"a": tensor([2], 0, 8), "b": tensor([2], 0, 8)}, bytes(8)), "overlap or leave gaps"),
        (safetensors({"a": tensor([2], 0, 8), "b": tensor([1], 4, 8)}, bytes(8)), "overlap or leave gaps"),
        (safetensors({"a": tensor([2], 0, 8), "b": tensor([1], 12, 16)}, bytes(16)), "overlap or leave gaps"),
        (safetensors({"a": tensor([2], 0, 8)}, bytes(9)), "overlap or leave gaps"),
        (safetensors({"a": tensor([2], 0, 8)}, bytes(4)), "overlap or leave gaps"),
        (safetensors({"a": tensor([2], -8, 0)}, bytes(8)), "overlap or leave gaps"),
        (safetensors(b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{}}'), "'a' stands twice"),
        (safetensors({"a": tensor([-2], 0, 8)}, bytes(8)), "impossible shape"),
        (safetensors({"a": tensor([True, 2], 0, 8)}, bytes(8)), "impossible shape"),
        (safetensors({"a": tensor([10**12], 0, 8)}, bytes(8)), "impossible shape"),
        (safetensors({"a": tensor([0, 2**62, 2**62], 0, 0)}), "impossible shape"),
        (safetensors({"a": tensor([1] * 65, 0, 4)}, bytes(4)), "impossible shape"),
        (safetensors({"a": tensor([4], 0, 8, "BF16")}, bytes(8)), "impossible shape, type"),
        (safetensors({"a": [1, 2]}), "impossible shape"),
        (safetensors({"a": tensor("2", 0, 8)}, bytes(8)), "impossible shape"),
        (safetensors({"__metadata__": {"a": "b"}}), "impossible shape"),
        (safetensors(b" " * 10_000_001), "claims a header of 10,000,001"),
        (safetensors(b"[" * 9_000_000), "lists and objects"),
        (pickle.dumps({"a": np.zeros(3)}), "claims a header"),
    ],
)
def test_hostile_tensors_are_refused(tmp_path, tensors, message):
    forge(tmp_path / "atlas", tensors=tensors)
    with quick_and_small(), pytest.raises(DamagedFile, match=message):
        read(tmp_path / "atlas")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "no manifest of scarches_widgets"),
        ({"members": {}}, "incomplete"),
        ({"members": {"model.json": {}, "model.safetensors": {}}}, "incomplete"),
        ({"members": [1]}, "incomplete"),
        ({"version": "one"}, "incomplete"),
        ({"version": None}, "incomplete"),
        ({"version": 10**30}, "newer"),
        ({"kind": ["model"]}, "not a 'model'"),
        ({"more": "x" * 70_000}, "larger than 64,000 bytes"),
    ],
)
def test_a_hostile_manifest_is_refused(tmp_path, changes, message):
    forge(tmp_path / "atlas", **changes)
    with quick_and_small(), pytest.raises(DamagedFile, match=message):
        read(tmp_path / "atlas")


@pytest.mark.parametrize("name", MEMBERS)
def test_a_file_of_a_terabyte_is_refused_without_being_read(saved, name):
    os.truncate(saved / name, 10**12)  # sparse: takes no space
    with quick_and_small(), pytest.raises(DamagedFile, match=name):
        read(saved)


def test_a_document_that_is_too_large_is_refused(tmp_path):
    forge(tmp_path / "atlas", document=b'{"a": "' + b"x" * 64_000_000 + b'"}')
    with quick_and_small(), pytest.raises(DamagedFile, match="larger than 64,000,000 bytes"):
        read(tmp_path / "atlas")


# Where it may be written


def test_an_existing_model_is_replaced_only_on_request(saved):
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write(saved, document={"new": 1})
    assert read(saved).document == DOCUMENT
    write(saved, document={"new": 1}, overwrite=True)
    assert read(saved).document == {"new": 1}
    assert os.listdir(saved.parent) == ["atlas"]


def test_a_folder_with_other_things_is_never_replaced(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.docx").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"also holds thesis\.docx"):
        write(tmp_path / "home", overwrite=True)
    assert (tmp_path / "home" / "thesis.docx").read_text() == "years of work"


def test_a_bad_place_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "file").write_text("text")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    before = sorted(os.listdir(tmp_path))
    for name, error, message in [
        ("file", FileExistsError, "is a file, and a folder is to be written"),
        ("dangling", FileNotFoundError, "is a link to .*nowhere"),
        ("missing/atlas", FileNotFoundError, "There is no folder .*missing"),
        ("file/atlas", FileNotFoundError, "There is no folder .*file"),
        ("n" * 300, OSError, "cannot be written into .* too long"),
        ("nul\0", ValueError, "null"),
    ]:
        for overwrite in (False, True):
            with pytest.raises(error, match=message):
                check_target(tmp_path / name, overwrite)
    assert sorted(os.listdir(tmp_path)) == before


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    def denied(**_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", denied)  # chmod would not stop root
    with pytest.raises(PermissionError, match=f"'atlas' cannot be written into '{tmp_path}': Permission denied"):
        check_target(tmp_path / "atlas")


def test_a_good_place_is_left_as_it_was(tmp_path, saved, monkeypatch):
    assert check_target(tmp_path / "new") == tmp_path / "new"
    assert check_target(saved, overwrite=True) == saved
    monkeypatch.setenv("HOME", str(tmp_path))
    assert check_target("~/new") == tmp_path / "new"
    assert os.listdir(tmp_path) == ["atlas"]


def test_a_model_behind_a_link_is_replaced_behind_the_link(saved, tmp_path):
    (tmp_path / "latest").symlink_to(saved)
    write(tmp_path / "latest", document={"new": 1}, overwrite=True)
    assert (tmp_path / "latest").is_symlink() and read(saved).document == {"new": 1}


def test_a_model_is_as_readable_as_any_new_file_and_private_while_it_is_written(tmp_path, monkeypatch):
    modes = []
    monkeypatch.setattr(atomic, "_share_like_files", lambda folder: modes.append(folder.stat().st_mode & 0o777))
    write(tmp_path / "private")
    monkeypatch.undo()
    (tmp_path / "usual").mkdir()
    write(tmp_path / "atlas")
    assert modes == [0o700]
    assert (tmp_path / "atlas").stat().st_mode == (tmp_path / "usual").stat().st_mode


# When the disk is full


def test_too_little_space_is_told_in_megabytes_and_the_old_model_stays(saved, monkeypatch):
    disk = namedtuple("disk", "total used free")(0, 0, 1_500_000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: disk)
    with pytest.raises(OSError, match=r"takes 4\.0 MB, should have 2\.2 times that, and 1\.5 MB are free") as caught:
        write(saved, tensors={"w": np.zeros(10**6, "float32")}, overwrite=True)
    assert caught.value.errno == errno.ENOSPC
    assert read(saved).document == DOCUMENT and os.listdir(saved.parent) == ["atlas"]


def test_a_disk_that_fills_at_any_byte_leaves_the_old_model(saved):
    before = content(saved)
    sizes = [(saved / name).stat().st_size for name in MEMBERS]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in sorted({0, 1, *range(100, max(sizes), 997), *(size - 1 for size in sizes)}):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
            with pytest.raises(OSError, match=r"File too large.*MB are free"):
                write(saved, overwrite=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert os.listdir(saved.parent) == ["atlas"]
    assert content(saved) == before


@pytest.mark.parametrize("syncs_that_work", [0, 1, 2])
def test_a_disk_that_is_found_full_at_the_end_of_a_file_leaves_the_old_model(saved, monkeypatch, syncs_that_work):
    results = iter([None] * syncs_that_work + [OSError(errno.ENOSPC, "No space left on device")])

    def sync(descriptor):
        if error := next(results, None):
            raise error

    monkeypatch.setattr("os.fsync", sync)
    with pytest.raises(OSError, match=r"No space left on device.*MB are free"):
        write(saved, document={"new": 1}, overwrite=True)
    assert read(saved).document == DOCUMENT and os.listdir(saved.parent) == ["atlas"]


@pytest.mark.parametrize("failing", [1, 2])
def test_an_interrupt_between_the_renames_leaves_the_old_model(saved, monkeypatch, failing):
    rename, calls = os.rename, []

    def interrupted(source, destination):
        calls.append(source)
        if len(calls) == failing:
            raise KeyboardInterrupt
        rename(source, destination)

    monkeypatch.setattr("os.rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(saved, document={"new": 1}, overwrite=True)
    assert read(saved).document == DOCUMENT and os.listdir(saved.parent) == ["atlas"]


# When the process is killed


STEPS = {"open", "os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.chmod", "os.fsync"}


def die_before(step: int):
    """Kill this process before the given one of its steps on the disk, counted from now."""
    remaining = itertools.count(step, -1)

    def watch(event, _):
        if event in STEPS and next(remaining) == 0:
            os._exit(9)

    sys.addaudithook(watch)


def crash_everywhere(path: Path, overwrite: bool):
    """Kill a writer before each of its steps on the disk in turn; print the state that is read after each."""
    os.fsync = lambda descriptor: sys.audit("os.fsync", descriptor)  # slow, and no matter to a process that is killed
    for step in range(1000):
        if overwrite and not path.exists():
            write(path, document={"state": "old"})
        child = os.fork()
        if child == 0:
            die_before(step)
            write(path, document={"state": "new"}, overwrite=overwrite)
            os._exit(0)
        crashed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        try:
            state = read(path).document["state"]
        except FileNotFoundError:
            state = "absent"
        print(state if crashed else "done")  # noqa: T201
        if not crashed:
            return
        write(path, document={"state": "old"}, overwrite=True)  # writing works after each crash
        assert not [name for name in os.listdir(path.parent) if ".bak-" in name]
        if not overwrite:
            for name in MEMBERS:
                (path / name).unlink()
            path.rmdir()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_crash_before_any_step_leaves_the_old_model_or_the_new_one(tmp_path, overwrite):
    # In a process of its own, because it forks, and a process with threads had better not.
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, __file__, tmp_path / "atlas", str(int(overwrite))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    *states, last = done.stdout.split()
    assert last == "done" and len(states) > 15
    old = "old" if overwrite else "absent"
    assert set(states) == {old, "new"}
    assert states == sorted(states, key=["old", "absent", "new"].index)  # once new, never old again


def test_the_state_in_which_only_the_backup_exists_is_mended_and_said(saved, caplog):
    saved.rename(saved.with_name(".atlas.bak-1-abcd"))
    assert read(saved).document == DOCUMENT
    assert "previous state is back" in caplog.text
    assert os.listdir(saved.parent) == ["atlas"]


def test_a_model_behind_a_link_is_mended_too_and_found_after_a_change_of_folder(saved, tmp_path, monkeypatch):
    (tmp_path / "latest").symlink_to("atlas")
    saved.rename(saved.with_name(".atlas.bak-1-abcd"))
    monkeypatch.chdir(tmp_path)
    held = read("latest")
    monkeypatch.chdir("/")
    assert set(held.tensors()) == set(ARRAYS)


def test_a_backup_counts_as_existing_when_it_would_be_overwritten(saved):
    saved.rename(saved.with_name(".atlas.bak-1-abcd"))
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write(saved)


def test_the_backup_of_a_model_with_a_longer_name_is_left_alone(saved):
    saved.rename(saved.with_name(".atlas.bak-1-abcd"))
    with pytest.raises(FileNotFoundError):
        read(saved.with_name("atla"))


if __name__ == "__main__":
    crash_everywhere(Path(sys.argv[1]), bool(int(sys.argv[2])))
