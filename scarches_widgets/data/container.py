"""A folder of tensors and JSON that is whole or absent: saved models, and the autosaves of a training run.

    model.json           what the folder holds
    model.safetensors    its tensors
    manifest.json        kind, version, and the size and SHA-256 of the other two

Whole or absent: `atomic` writes the folder beside its target and renames it. Right or refused: every byte is compared
with its SHA-256 before a value is used, because safetensors load a flipped bit without a word. There is no pickle, so
nothing that is read can run.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import atomic
from .names import did_you_mean, listed, shown
from .read import file_kind
from .strict_json import parse_json

if TYPE_CHECKING:
    import torch

FORMAT = "scarches_widgets container"
DOCUMENT, TENSORS, MANIFEST = "model.json", "model.safetensors", "manifest.json"
MEMBERS = {DOCUMENT, TENSORS, MANIFEST}
BESIDE = {"card.json"}  # what may stand beside them, which is not read here
LARGEST_DOCUMENT, LARGEST_HEADER, LARGEST_MANIFEST = 64_000_000, 10_000_000, 64_000  # bytes of JSON
DTYPES = {"F32": "float32", "F64": "float64", "I64": "int64", "I32": "int32", "U8": "uint8", "BOOL": "bool"}


class DamagedFile(ValueError):
    """A file that cannot be trusted: damaged, cut short, foreign, hostile, or from a newer release."""


@dataclass(frozen=True)
class Container:
    """What a verified folder holds; the tensors are still on disk."""

    document: dict
    format_version: int
    digest: str  # of the manifest, hence of everything in the folder
    tensor_shapes: dict[str, tuple[tuple[int, ...], str]]  # (shape, numpy's name of the dtype), in the file's order
    _tensor_file: Path = field(repr=False)
    _tensor_sha256: str = field(repr=False)

    def tensors(self) -> dict[str, torch.Tensor]:
        """All tensors, each in memory of its own; verified again, for the file may have been replaced meanwhile."""
        import torch

        arrays = {name: np.empty(shape, dtype) for name, (shape, dtype) in self.tensor_shapes.items()}
        sha256 = hashlib.sha256()
        with open(self._tensor_file, "rb") as file:
            sha256.update(length := file.read(8))
            sha256.update(file.read(int.from_bytes(length, "little")))
            for array in arrays.values():
                file.readinto(data := array.reshape(-1).view(np.uint8))
                sha256.update(data)
        if sha256.hexdigest() != self._tensor_sha256:
            raise DamagedFile(f"'{self._tensor_file}' changed after it had been opened. Read it again.")
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def write_container(
    path: str | os.PathLike,
    *,
    kind: str,
    format_version: int,
    document: dict,
    tensors: Mapping[str, torch.Tensor | np.ndarray],
    overwrite: bool = False,
) -> str:
    """Write a folder that is whole or absent, whatever happens meanwhile.

    Parameters
    ----------
    path
        The folder to write; its parent must exist.
    kind
        What the folder holds, for example `"model"`; the reader asks for the same word.
    format_version
        The version of what `document` and `tensors` mean, from 1.
    document
        JSON values under text keys. NaN and infinity are refused (write `None`); tuples come back as lists.
    tensors
        float32, float64, int64, int32, uint8 or bool, on any device.
    overwrite
        Replace an earlier container, which stays until the new one is complete. No other folder is ever replaced.

    Returns
    -------
    The digest: the same content, written by the same release, has the same digest.

    Raises
    ------
    OSError
        `path` cannot be written (see `check_target`) or the disk is full. What stood there before is kept.
    ValueError, TypeError
        `document` or `tensors` hold something that would not come back as it is.
    """
    target = check_target(path, overwrite)
    members = {DOCUMENT: _encode_document(document), TENSORS: _encode_tensors(tensors)}
    digest, members[MANIFEST] = _encode_manifest(kind, format_version, members)
    atomic.write_folder(target, members)  # the manifest last
    return digest


def check_target(path: str | os.PathLike, overwrite: bool = False) -> Path:
    """Refuse now what `write_container` could not write later; returns the path as `atomic.check_target` does."""
    return atomic.check_target(path, MEMBERS, overwrite)


def _encode_document(document: dict) -> bytes:
    try:
        data = json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
        if len(data) > LARGEST_DOCUMENT:
            raise ValueError(f"{len(data):,} bytes, more than {LARGEST_DOCUMENT:,}: put long lists into tensors")
        parse_json(data)  # what the reader would refuse is not written
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The document cannot be saved as JSON ({error}). Write NaN and infinity as None.") from error
    _check_keys(document)
    return data


def _check_keys(value: object):
    """JSON would quietly turn the key 0 into "0"."""
    if isinstance(value, dict):
        if other := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"The document has the key {other[0]!r}, and JSON has only text keys. Use str(key).")
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            _check_keys(item)


def _encode_tensors(tensors: Mapping[str, torch.Tensor | np.ndarray]) -> bytes:
    from safetensors.numpy import save

    arrays = {}
    for name, tensor in tensors.items():
        if str(tensor.dtype).removeprefix("torch.") not in DTYPES.values():
            raise TypeError(f"Tensor '{shown(name)}' is {tensor.dtype}; convert it to {', '.join(DTYPES.values())}.")
        array = tensor if isinstance(tensor, np.ndarray) else tensor.detach().cpu().numpy()
        arrays[name] = np.asarray(array, order="C")
    return save(arrays)


def _encode_manifest(kind: str, format_version: int, members: Mapping[str, bytes]) -> tuple[str, bytes]:
    manifest = {
        "format": FORMAT,
        "kind": kind,
        "version": format_version,
        "package_version": _package_version(),
        "members": {name: {"sha256": _sha256(data), "bytes": len(data)} for name, data in members.items()},
    }
    digest = _sha256(_canonical(manifest))
    return digest, _canonical({**manifest, "digest": digest})


def _package_version() -> str:
    try:
        return importlib.metadata.version("scarches-widgets")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        return "unknown"


def _canonical(manifest: dict) -> bytes:
    return json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_document(path: str | os.PathLike, *, kind: str, newest_version: int) -> Container:
    """Verify a folder that `write_container` wrote, and read all of it but the tensors.

    Parameters
    ----------
    path
        The folder.
    kind
        What it should hold, the word given when it was written.
    newest_version
        The newest `format_version` that the caller understands.

    Raises
    ------
    DamagedFile
        One flipped bit, a missing, additional or foreign file, a lying size, another kind, a newer version.
    FileNotFoundError
        There is no such folder.
    """
    folder = Path(os.path.realpath(Path(path).expanduser()))
    atomic.recover(folder)
    _check_files(folder)
    version, digest, expected = _read_manifest(folder / MANIFEST, kind, newest_version)
    for name in (DOCUMENT, TENSORS):
        _verify(folder / name, *expected[name])
    document = _parse(_read_capped(folder / DOCUMENT, LARGEST_DOCUMENT), folder / DOCUMENT)
    tensor_shapes = _read_header(folder / TENSORS)
    return Container(document, version, digest, tensor_shapes, folder / TENSORS, expected[TENSORS][1])


def _check_files(folder: Path):
    """Exactly the three regular files, and perhaps a card; a link or a pipe among them is not even opened."""
    if folder.is_file():
        raise DamagedFile(f"'{folder}' is {file_kind(folder)}, not a folder that scarches_widgets wrote.")
    if not folder.is_dir():
        others = os.listdir(folder.parent) if folder.parent.is_dir() else []
        raise FileNotFoundError(f"There is no folder '{folder}'.{did_you_mean(folder.name, others)}")
    with os.scandir(folder) as entries:
        found = {entry.name: entry for entry in islice(entries, 100)}
    if missing := MEMBERS - set(found):
        held = f"holds {listed(sorted(found))}" if found else "is empty"
        raise DamagedFile(f"'{folder}' lacks {listed(sorted(missing))} and {held}. Copy the complete folder again.")
    if extra := set(found) - MEMBERS - BESIDE:
        raise DamagedFile(f"'{folder}' also holds {listed(sorted(extra))}, which does not belong there. Remove it.")
    if links := [name for name in sorted(found) if not found[name].is_file(follow_symlinks=False)]:
        raise DamagedFile(f"In '{folder}', {listed(links)} is a link or a folder, not a file. Copy the file itself.")


def _read_manifest(path: Path, kind: str, newest_version: int) -> tuple[int, str, dict[str, tuple[int, str]]]:
    """Version, digest, and the size and SHA-256 of each other member."""
    data = _read_capped(path, LARGEST_MANIFEST)
    manifest = _parse(data, path)
    digest = manifest.pop("digest", None)
    if manifest.get("format") != FORMAT:
        raise DamagedFile(f"'{path}' is no manifest of scarches_widgets, so the folder holds something else.")
    if digest != _sha256(_canonical(manifest)) or data != _canonical({**manifest, "digest": digest}):
        raise DamagedFile(f"'{path}' was changed after it had been written. Copy or download the folder again.")
    try:
        held, version, members = manifest["kind"], int(manifest["version"]), manifest["members"]
        expected = {name: (members[name]["bytes"], members[name]["sha256"]) for name in (DOCUMENT, TENSORS)}
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFile(f"'{path}' is incomplete: {error!r}.") from error
    if held != kind:
        raise DamagedFile(f"'{path.parent}' holds a '{shown(held)}', not a '{kind}'.")
    if version > newest_version:
        raise DamagedFile(
            f"'{path.parent}' was written by a newer scarches_widgets (format {version}), this one reads up to "
            f"{newest_version}: upgrade with `pip install -U scarches-widgets`."
        )
    return version, digest, expected


def _verify(path: Path, size: int, sha256: str):
    """The size first: it costs nothing, and it tells a file that was cut short from one that was changed."""
    problem = None
    if (found := path.stat().st_size) != size:
        problem = f"has {found:,} bytes instead of {size}"
    else:
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                problem = "is not what was written (its SHA-256 differs)"
    if problem:
        raise DamagedFile(f"'{path}' {problem}. It looks like {file_kind(path)}. Copy or download the folder again.")


def _read_capped(path: Path, limit: int) -> bytes:
    with open(path, "rb") as file:
        if (size := os.fstat(file.fileno()).st_size) > limit:
            raise DamagedFile(f"'{path}' is larger than {limit:,} bytes, so scarches_widgets did not write it.")
        return file.read(size)


def _parse(data: bytes, path: Path) -> dict:
    try:
        return parse_json(data)
    except ValueError as error:
        raise DamagedFile(f"'{path}' cannot be read: {error}. It looks like {file_kind(path)}.") from error


def _read_header(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shapes and dtypes, once the header is known to describe exactly the bytes that follow it.

    The safetensors library checks most of this too, but takes two tensors of one name for one.
    """
    with open(path, "rb") as file:
        length, size = int.from_bytes(file.read(8), "little"), os.fstat(file.fileno()).st_size - 8
        if length > min(size, LARGEST_HEADER):
            raise DamagedFile(f"'{path}' claims a header of {length:,} bytes, and has {size:,}. Download it again.")
        header = _parse(file.read(length), path)
    spans = sorted((*_span(name, entry, path), name) for name, entry in header.items())
    ends = [0, *(end for _, end, _ in spans)]
    if ends[-1] != size - length or any(begin != end for (begin, _, _), end in zip(spans, ends)):
        raise DamagedFile(f"The tensors in '{path}' overlap or leave gaps, so it was not written by scarches_widgets.")
    return {name: (tuple(header[name]["shape"]), DTYPES[header[name]["dtype"]]) for _, _, name in spans}


def _span(name: str, entry: object, path: Path) -> tuple[int, int]:
    """Where a tensor begins and ends, if that agrees with its shape and dtype."""
    match entry:
        case {"dtype": str(code), "shape": [*shape], "data_offsets": [int(begin), int(end)]} if (
            code in DTYPES
            and len(shape) <= 32
            and all(type(length) is int and 0 <= length < 2**40 for length in shape)
            and end - begin == math.prod(shape) * np.dtype(DTYPES[code]).itemsize
        ):
            return begin, end
    raise DamagedFile(f"Tensor '{shown(name)}' in '{path}' has an impossible shape, type or place.")
