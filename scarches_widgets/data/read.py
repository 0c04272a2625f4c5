"""Reading AnnData files that others made: what a file is, whether it may be opened, and then AnnData's own reader.

A downloaded file is hostile input. HDF5 may point a column at any file on this disk (external storage, external links,
virtual datasets: the fault behind Keras' CVE-2026-1669), 19 KB may declare a matrix of 447 GB, and a zarr folder may
name pickle as the codec of an array. AnnData follows all of these, so both formats are looked through before.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .names import DataError, did_you_mean, listed, shown
from .probe import refuse_if_it_crashes
from .strict_json import parse_json

if TYPE_CHECKING:
    import anndata
    import h5py
    import zarr

DEEPEST = 64  # levels of groups
MOST_NODES = 100_000  # groups, datasets and attributes of one file
LARGEST_ATTRIBUTE = 1_000_000  # bytes
LARGEST_METADATA = 64_000_000  # bytes of JSON that describe one part of a zarr folder
LARGEST_EXPANSION = 2_000  # declared bytes per byte on disk; gzipped zeros reach 1,030
HARMLESS_SIZE = 256_000_000  # declared bytes, whatever the size on disk
PROBED = 256_000_000  # bytes of values that the probe reads; of datasets beyond them, only the first and last rows

# gzip, shuffle, fletcher32, szip, n-bit, scale-offset, lzf; from hdf5plugin: blosc, lz4, bitshuffle, zstd, blosc2
HDF5_FILTERS = {1, 2, 3, 4, 5, 6, 32000, 32001, 32004, 32008, 32015, 32026}
ZARR_CODECS = {
    *("blosc", "bytes", "bz2", "crc32c", "delta", "gzip", "lz4", "lzma", "sharding_indexed"),
    *("shuffle", "transpose", "vlen-bytes", "vlen-utf8", "zlib", "zstd"),
}

FILE_KINDS = {  # how a file begins -> what it is; the first match counts
    rb"\Z": "an empty file",
    rb"\x89HDF\r\n\x1a\n": "an HDF5 file",
    rb"version https://git-lfs": "a git-lfs pointer without its content (fetch that with `git lfs pull`)",
    rb"PK\x03\x04.*data\.pkl": "a PyTorch file, that is a pickle, which can run code when it is loaded",
    rb"\x80[\x02-\x05]": "a pickle, which can run code when it is loaded",
    rb"PK\x03\x04.*(\[Content_Types\]\.xml|xl/)": "an Excel workbook",
    rb"PK\x03\x04": "a zip archive (unpack it first)",
    rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|.{257}ustar": "a packed archive (unpack it first)",
    rb"\x93NUMPY": "a numpy array",
    rb".{7}\x00\{": "a safetensors file",
    rb"%%MatrixMarket": "a Matrix Market file (read it with scanpy.read_mtx)",
    rb"(\xef\xbb\xbf)?\s*<(!doctype html|html|head|!--)": "a web page, perhaps a server's error message",
    rb"\s*<\?xml": "an XML document, perhaps a server's error message",
    rb"\s*[{\[]": "JSON",
    rb"[^,;\t\r\n\x00-\x08]*[,;\t][^\r\n\x00-\x08]*[\r\n]": "a text table such as CSV (see anndata.io.read_csv)",
}


def read(
    path: str | os.PathLike | Sequence[str | os.PathLike], backed: str | None = None, *, probe: bool = True
) -> anndata.AnnData:
    """Read an AnnData file (`.h5ad`, or a local `.zarr` folder) that may come from anywhere.

    Before AnnData sees the file, it is walked through, and refused if it reaches out of itself (external links and
    storage, virtual datasets, symbolic links, references to hidden objects), declares more than this machine's memory
    or far more than it holds, or names filters that are not known to be safe. What is guarded against was measured with
    AnnData 0.12; the class of fault is Keras' CVE-2026-1669.

    Parameters
    ----------
    path
        The file; `~` is understood. `.h5mu` needs mudata installed, and gives a MuData. A list of files is read as one
        AnnData of all their cells and common genes, with `backed="r"`.
    backed
        `"r"` leaves `X` on disk, for files larger than the memory. Train on such with `shuffle_block=1024`.
    probe
        Whether another process looks through each HDF5 file first, which takes it 0.3 s or more: a damaged one may
        crash libhdf5, and the kernel with it. Of large matrices, it reads only the first and last rows.

    Raises
    ------
    DataError
        The file is something else, damaged, or not safe to open.
    FileNotFoundError
        There is no such file; near names in its folder are told.
    """
    if not isinstance(path, str | os.PathLike):
        if not backed:
            raise ValueError("A list of files is read with backed='r', which leaves the matrices on disk; pass it.")
        return _read_lazily(path, probe)
    path = _existing(path)
    before = _state(path)
    try:
        adata = _read_zarr(path, backed) if path.is_dir() else _read_hdf5(path, backed, probe)
    except (DataError, ImportError, MemoryError, PermissionError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"'{path}' cannot be read ({reason}). If it is cut short or damaged, copy it again.") from error
    if _state(path) != before:
        raise DataError(f"'{path}' changed while it was being read. Read it again when it is complete.")
    return adata


def _read_lazily(paths: Sequence[str | os.PathLike], probe: bool) -> anndata.AnnData:
    from .files import read_files  # which itself opens files by this module

    for path in map(_existing, paths) if probe else ():
        if path.is_file():
            refuse_if_it_crashes(path)
    return read_files(paths)


def opened(path: str | os.PathLike) -> h5py.File | zarr.Group:
    """An AnnData file, looked through as by `read`, and open: its values stay on disk. Close it with its `close`, if it
    has one (a zarr group has not).

    Raises
    ------
    DataError, FileNotFoundError
        As `read`; and a MuData file, whose modalities are to be written as files of their own.
    """
    import h5py
    import zarr

    path = _existing(path)
    if path.is_dir():
        _check_is_zarr(path)
        _check_zarr(path, on_demand=True)
        return zarr.open_group(path, mode="r", use_consolidated=False)
    if not h5py.is_hdf5(path):
        raise DataError(f"'{path}' is {file_kind(path)}, not an AnnData file.")
    file = h5py.File(path, "r")
    try:
        _check_hdf5(file, path, backed="all")
        if not {"obs", "var"} <= set(file) or "mod" in file:
            raise DataError(
                f"'{path}' holds {listed(sorted(file), 6)}; of an AnnData file, obs and var are read. Write the "
                "modality that you mean as an .h5ad file of its own."
            )
    except BaseException:
        file.close()
        raise
    return file


def file_kind(path: str | os.PathLike) -> str:
    """What a file is by its first bytes, in words for a message: `a zip archive (unpack it first)`."""
    with open(path, "rb") as file:
        start = file.read(4096)
    kinds = (kind for pattern, kind in FILE_KINDS.items() if re.match(pattern, start, re.IGNORECASE | re.DOTALL))
    return next(kinds, "a file of unknown format")


def _existing(path: str | os.PathLike) -> Path:
    found = Path(path).expanduser()
    if found.exists():
        return found
    if re.search("://|::", str(path)):
        raise DataError(f"'{path}' is an address. Download the file first, then read it from this disk.")
    if not found.parent.is_dir():
        raise FileNotFoundError(f"There is no folder '{found.parent}'.")
    guess = did_you_mean(found.name, os.listdir(found.parent))
    raise FileNotFoundError(f"There is no file '{found.name}' in '{found.parent.resolve()}'.{guess}")


def _state(path: Path) -> tuple:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _check_size(path: Path, declared: int, loaded: int, on_disk: int):
    """Refuse what cannot fit; HDF5 and zarr may declare any size without storing a byte of it."""
    if declared > HARMLESS_SIZE + LARGEST_EXPANSION * on_disk:
        raise DataError(
            f"'{path}' declares {declared / 1e9:,.1f} GB of data in {on_disk / 1e6:,.3f} MB on disk. Real data are "
            "never so empty, so it is not opened."
        )
    if loaded > (memory := _memory()):
        raise DataError(
            f"'{path}' needs {loaded / 1e9:,.1f} GB of memory, and this machine has {memory / 1e9:,.1f} GB. Leave its "
            "matrix on disk with `backed='r'`, or use a subset or a larger machine."
        )


def _memory() -> int:
    """Bytes that this process may use, those of a container's limit if there is one."""
    import psutil

    limits = [psutil.virtual_memory().total + psutil.swap_memory().total]
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # not in a container, or "max"
            limits.append(int(Path(name).read_text()))
    return min(limits)


# HDF5


def _read_hdf5(path: Path, backed: str | None, probe: bool) -> anndata.AnnData:
    import anndata
    import h5py

    if not path.is_file() or not h5py.is_hdf5(path):
        kind = file_kind(path) if path.is_file() else "a device"
        raise DataError(f"'{path}' is {kind}, not an AnnData file.")
    if probe:
        refuse_if_it_crashes(path)
    with h5py.File(path, "r") as file:
        _check_hdf5(file, path, backed)
        entries = set(file)
    if "mod" in entries:
        try:
            import mudata
        except ImportError as error:
            raise DataError(f"'{path}' is a MuData file. Install its reader with `pip install mudata`.") from error
        return mudata.read_h5mu(path, backed=backed)
    if not entries >= {"obs", "var"}:
        mend = "Read it with scanpy.read_10x_h5." if "matrix" in entries else ""
        mend = "Read it with anndata.io.read_loom." if "row_attrs" in entries else mend
        raise DataError(
            f"'{path}' is HDF5 but no AnnData: it holds {listed(sorted(entries), 6)}, not obs and var. {mend}"
        )
    return anndata.read_h5ad(path, backed=backed)


def read_through(path: str | os.PathLike) -> None:
    """Read the attributes and values of an HDF5 file, if it may be opened at all; see `PROBED`."""
    import h5py

    left = PROBED
    with h5py.File(path, "r") as file:
        _check_hdf5(file, Path(path), "r")
        for node in _nodes(file):
            dict(node.attrs)
            if not isinstance(node, h5py.Dataset) or node.shape is None:
                continue
            if node.nbytes <= left:
                left -= node.nbytes
                node[()]
            else:
                node[:1], node[-1:]


def _check_hdf5(file: h5py.File, path: Path, backed: str | None):
    """`backed` leaves X on disk; "all" leaves everything there."""
    import h5py

    declared = on_demand = count = 0
    addresses, references = set(), []
    for node in _nodes(file):
        addresses.add(h5py.h5o.get_info(node.id).addr)
        references += _checked_attributes(node)
        if isinstance(node, h5py.Dataset):
            size = _checked_size(node)
            declared += size
            is_matrix = re.match("(/mod/[^/]+)?(/raw)?/X(/|$)", node.name)
            on_demand += size if backed == "all" or (backed and is_matrix) else 0
        if (count := count + 1 + len(node.attrs)) > MOST_NODES:
            raise _suspicious(file, f"has more than {MOST_NODES:,} parts")
    for reference in references:
        if h5py.h5o.get_info(file[reference].id).addr not in addresses:
            raise DataError(f"'{path}' refers to an object that is not listed in it, so it is not opened.")
    _check_size(path, declared, declared - on_demand, path.stat().st_size)


def _nodes(group: h5py.Group, depth: int = 0) -> Iterator[h5py.Group | h5py.Dataset]:
    """Every group and dataset. Only plain links are followed, since to look behind another would open another file."""
    import h5py

    yield group
    for name in group:
        if group.id.links.get_info(name.encode("utf-8", "surrogateescape")).type != h5py.h5l.TYPE_HARD:
            raise _suspicious(group, f"has the link '{shown(name)}' to somewhere else")
        node = group[name]
        if not isinstance(node, h5py.Group):
            yield node
        elif depth < DEEPEST:
            yield from _nodes(node, depth + 1)
        else:
            raise _suspicious(node, f"is more than {DEEPEST} levels deep, perhaps in a loop")


def _checked_attributes(node: h5py.Group | h5py.Dataset) -> list[h5py.Reference]:
    """The references among them: AnnData 0.7 has one from a column to its categories; harmless if those are listed."""
    import h5py

    references = []
    for name in node.attrs:
        attribute = node.attrs.get_id(name)
        dtype = attribute.get_type()
        if dtype.get_size() * attribute.get_space().get_simple_extent_npoints() > LARGEST_ATTRIBUTE:
            raise _suspicious(node, f"has an attribute of more than {LARGEST_ATTRIBUTE:,} bytes")
        if dtype.detect_class(h5py.h5t.REFERENCE):
            if name != "categories" or attribute.shape != ():
                raise _suspicious(node, f"has the reference '{shown(name)}'")
            references.append(node.attrs[name])
    return references


def _checked_size(dataset: h5py.Dataset) -> int:
    """The bytes that a dataset declares."""
    import h5py

    layout, dtype = dataset.id.get_create_plist(), dataset.id.get_type()
    if layout.get_external_count():
        raise _suspicious(dataset, "keeps its values in another file")
    if layout.get_layout() == h5py.h5d.VIRTUAL:
        raise _suspicious(dataset, "takes its values from other datasets")
    if dtype.detect_class(h5py.h5t.REFERENCE):
        raise _suspicious(dataset, "holds references")
    for code in (layout.get_filter(i)[0] for i in range(layout.get_nfilters())):
        if code not in HDF5_FILTERS:
            raise _suspicious(dataset, f"needs the unknown filter {code}")
        if not h5py.h5z.filter_avail(code):
            raise DataError(
                f"'{shown(dataset.name)}' in '{dataset.file.filename}' is packed with HDF5 filter {code}, which is not "
                "installed. `pip install hdf5plugin`, then `import hdf5plugin` before reading."
            )
    n_values = 0 if dataset.shape is None else math.prod(dataset.shape)
    return dtype.get_size() * max(n_values, math.prod(dataset.chunks or [0]))  # a chunk is unpacked whole


def _suspicious(node: h5py.Group | h5py.Dataset, what: str) -> DataError:
    return DataError(
        f"'{shown(node.name)}' in '{node.file.filename}' {what}, which AnnData never writes and which could bring in "
        "other files of this computer. If you trust its source, ask for a file written by anndata."
    )


# zarr


def _read_zarr(folder: Path, backed: str | None) -> anndata.AnnData:
    import anndata
    import zarr

    _check_is_zarr(folder)
    if backed:
        return _read_lazily([folder], probe=False)
    _check_zarr(folder)
    # The consolidated metadata are a second description of every array; what has not been checked is not used.
    return anndata.io.read_zarr(zarr.open_group(folder, mode="r", use_consolidated=False))


def _check_is_zarr(folder: Path):
    if not any((folder / name).exists() for name in (".zgroup", "zarr.json")):
        raise DataError(f"'{folder}' is a folder, but not a zarr one: it holds {listed(sorted(os.listdir(folder)))}.")


def _check_zarr(folder: Path, on_demand: bool = False):
    declared, on_disk, waiting = 0, 0, [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    raise DataError(
                        f"'{entry.path}' is a link, and could lead to other files. Copy the folder without links."
                    )
                if entry.is_dir():
                    waiting.append(entry.path)
                    continue
                on_disk += entry.stat().st_size
                if entry.name in (".zarray", "zarr.json"):
                    declared += _checked_zarr_size(Path(entry.path))
    _check_size(folder, declared, 0 if on_demand else declared, on_disk)


def _checked_zarr_size(path: Path) -> int:
    """The bytes that an array declares; 0 for a group, which has neither shape nor codecs."""
    if path.stat().st_size > LARGEST_METADATA:
        raise DataError(f"'{path}' is larger than {LARGEST_METADATA:,} bytes, which no description of an array is.")
    metadata = parse_json(path.read_bytes())
    waiting = [metadata.get(key) for key in ("compressor", "filters", "codecs")]
    while waiting:
        codec = waiting.pop()
        if isinstance(codec, list):
            waiting += codec
        elif codec is not None:
            name = codec.get("id", codec.get("name"))
            if str(name).removeprefix("numcodecs.") not in ZARR_CODECS:
                raise DataError(f"'{path}' is packed with '{shown(name)}', which is not known to be safe.")
            waiting += [codec.get("configuration", {}).get(key) for key in ("codecs", "index_codecs")]
    if "shape" not in metadata:
        return 0
    chunks = metadata["chunks"] if "chunks" in metadata else metadata["chunk_grid"]["configuration"]["chunk_shape"]
    itemsize = _zarr_itemsize(metadata.get("dtype", metadata.get("data_type")))
    return itemsize * max(math.prod(metadata["shape"]), math.prod(chunks))


def _zarr_itemsize(dtype: object) -> int:
    try:
        return np.dtype(dtype).itemsize
    except TypeError:  # text, and types made of others, whose description holds their lengths
        return 8 + sum(int(number) for number in re.findall(r"\d+", json.dumps(dtype)))
