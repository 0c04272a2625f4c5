"""Models as one zip file: packed plainly, unpacked with suspicion.

A zip may name files outside its folder, links, the same file twice, or terabytes in kilobytes. Nothing is written
before its whole table of contents has been looked at, and then only into a fresh folder that takes its name at the end.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from itertools import pairwise
from pathlib import Path

from ..data import atomic
from ..data.container import DamagedFile
from ..data.names import shown
from ..data.read import file_kind

MOST_MEMBERS, LARGEST_CONTENTS = 100, 64_000  # files, and bytes of the table of contents
LARGEST_TOTAL, LARGEST_RATIO = 50_000_000_000, 100  # bytes in all, and unpacked bytes per packed one
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
ENDINGS = (".json", ".safetensors", ".pt", ".pkl", ".csv", ".txt", ".md", ".h5ad", ".h5mu")
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # names that Windows keeps for itself
LEFT_OUT = re.compile(r"__MACOSX/.*|(.*/)?\.DS_Store")  # of a Mac; never written
BLOCK = 1 << 20


def pack(folder: Path, target: Path) -> None:
    """The files of a model's folder as a zip, not compressed: tensors hardly shrink. Same files, same zip."""
    with zipfile.ZipFile(target, "x", zipfile.ZIP_STORED) as archive:
        for path in sorted(folder.iterdir()):
            if not path.is_file() or path.is_symlink() or not _is_allowed(path.name):
                raise ValueError(f"'{path}' does not belong into a model's folder. Remove it.")
            member = zipfile.ZipInfo(path.name)
            member.external_attr = (stat.S_IFREG | 0o644) << 16
            with archive.open(member, "w", force_zip64=path.stat().st_size > 2**31) as file, open(path, "rb") as source:
                shutil.copyfileobj(source, file, BLOCK)


def unpack(archive: Path, target: Path, verify=lambda folder: None) -> None:
    """Write an archive's files into the folder `target`, which must not exist yet.

    Parameters
    ----------
    archive, target
        Where from, where to.
    verify
        Called with the unpacked folder before it takes its name; what it raises leaves nothing behind.

    Raises
    ------
    DamagedFile
        It is no zip, is damaged, or holds what a model's archive does not.
    OSError
        `target` exists, or cannot be written.
    """
    target = atomic.check_target(target, ())
    problem = None
    try:
        _check_contents(archive)
        with zipfile.ZipFile(archive) as contents:
            members = _checked(contents, archive)
            if sum(member.file_size for member in members.values()) > shutil.disk_usage(target.parent).free:
                raise OSError(f"'{archive.name}' does not fit on this disk. Free some space")
            scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))  # for this user alone
            try:
                for name, member in members.items():
                    _write(contents, member, scratch / name)
                verify(scratch)
                os.rename(scratch, target)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, struct.error, UnicodeError, zlib.error) as error:
        problem = shown(error)
    if problem is not None:
        raise DamagedFile(
            f"'{archive}' cannot be unpacked ({problem}). It looks like {file_kind(archive)}. Get it again."
        )


def _check_contents(archive: Path) -> None:
    """Refuse a giant table of contents before it is read: where it is, stands in the file's last bytes."""
    size = archive.stat().st_size
    with open(archive, "rb") as file:
        file.seek(max(0, size - 22 - 20))
        end = file.read()
    record = end[-22:]
    if len(record) < 22 or record[:4] != b"PK\x05\x06" or record[20:] != b"\0\0":
        raise DamagedFile(f"'{archive}' is no zip archive, or has a comment. It looks like {file_kind(archive)}.")
    n, n_bytes = struct.unpack("<H", record[10:12])[0], struct.unpack("<L", record[12:16])[0]
    if end[:4] == b"PK\x06\x07" and len(end) == 42:  # beyond 4 GB, the numbers stand before
        with open(archive, "rb") as file:
            file.seek(struct.unpack("<Q", end[8:16])[0])
            large = file.read(56)
        if len(large) < 56 or large[:4] != b"PK\x06\x06":
            raise DamagedFile(f"'{archive}' is damaged: its table of contents is not where it should be.")
        n, n_bytes = struct.unpack("<Q", large[32:40])[0], struct.unpack("<Q", large[40:48])[0]
    if n > MOST_MEMBERS + 100 or n_bytes > LARGEST_CONTENTS:
        raise DamagedFile(f"'{archive}' lists {n:,} files; a model has a few.")


def _checked(contents: zipfile.ZipFile, archive: Path) -> dict[str, zipfile.ZipInfo]:
    """The files to write, by the name to write them under: that in the archive, a folder around all of them aside."""
    members = [member for member in contents.infolist() if not LEFT_OUT.fullmatch(member.orig_filename)]
    roots = {member.filename.split("/")[0] for member in members}
    prefix = f"{roots.pop()}/" if len(roots) == 1 and all("/" in member.filename for member in members) else ""
    found: dict[str, zipfile.ZipInfo] = {}
    for member in members:
        name = member.orig_filename.removeprefix(prefix)
        if prefix and not name and NAME.fullmatch(prefix[:-1]) and member.file_size == 0:
            continue  # the folder itself
        kind = stat.S_IFMT(member.external_attr >> 16)
        reason = None
        if not _is_allowed(name) or (prefix and not NAME.fullmatch(prefix[:-1])):
            reason = "is no name of a model's file"
        elif kind not in (0, stat.S_IFREG):
            reason = "is a link or a device"
        elif member.flag_bits & 0x1:
            reason = "is encrypted"
        elif name.casefold() in map(str.casefold, found):
            reason = "is there twice"
        elif member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            reason = "is packed in an unusual way"
        elif member.file_size > LARGEST_RATIO * max(member.compress_size, 1000):
            reason = f"is {member.file_size / max(member.compress_size, 1):,.0f} times as large as it is packed"
        if reason:
            raise DamagedFile(f"'{archive.name}' is not unpacked: '{shown(member.orig_filename)}' {reason}.")
        found[name] = member
    if not found or len(found) > MOST_MEMBERS or sum(m.file_size for m in found.values()) > LARGEST_TOTAL:
        raise DamagedFile(f"'{archive.name}' holds {len(found)} files, too few, too many, or too large ones.")
    spans = sorted((m.header_offset, m.header_offset + 30 + m.compress_size) for m in found.values())
    if any(begin < end for (_, end), (begin, _) in pairwise(spans)):
        raise DamagedFile(f"'{archive.name}' is not unpacked: its files lie upon each other.")
    return found


def _is_allowed(name: str) -> bool:
    return bool(NAME.fullmatch(name)) and name.lower().endswith(ENDINGS) and not DEVICES.fullmatch(name)


def _write(contents: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    """Block by block: what the table of contents says of the size is not believed."""
    left = member.file_size
    with contents.open(member) as source, open(path, "xb") as file:
        while block := source.read(BLOCK):
            left -= len(block)
            if left < 0:
                raise DamagedFile(f"'{shown(member.filename)}' is larger than the archive says.")
            file.write(block)
    if left:
        raise DamagedFile(f"'{shown(member.filename)}' is smaller than the archive says.")
