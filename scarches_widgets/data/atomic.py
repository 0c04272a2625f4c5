"""A folder that is put in place whole: a crash at any instant leaves the old state or the new one.

It is written beside its target, synced, and renamed. A target that exists is first renamed to a backup; if the process
ends between the two renames, `recover` brings the backup back. Only folders of the known files are ever replaced.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from .names import listed, shown

try:
    import fcntl
except ImportError:  # Windows has none, and folders are not locked there
    fcntl = None

logger = logging.getLogger(__name__)

SPACE_FACTOR = 2.2  # free disk asked for, in sizes of what is written


def check_target(path: str | os.PathLike, names: Collection[str], overwrite: bool = False) -> Path:
    """Refuse now what could not be written later, so that no training ends without a place for its model.

    Returns the absolute path with links resolved. Raises `FileExistsError`, `FileNotFoundError`, `PermissionError` or
    another `OSError`, which say what is in the way; with `overwrite`, this is a folder that holds other files than
    those of these `names`.
    """
    path = Path(path).expanduser()
    if os.path.islink(path) and not os.path.exists(path):
        raise FileNotFoundError(f"'{path}' is a link to '{path.readlink()}', which does not exist. Remove the link.")
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"There is no folder '{target.parent}' to save into. Create it, or choose another.")
    try:  # only trying answers for quotas, access lists, read-only disks and long names alike
        os.rmdir(tempfile.mkdtemp(prefix=_beside(target, "tmp"), dir=target.parent))
    except OSError as error:
        message = f"'{shown(target.name)}' cannot be written into '{target.parent}': {error.strerror}"
        raise OSError(error.errno, message) from error
    recover(target)
    if target.exists():
        _check_replaceable(target, names, overwrite)
    return target


def _check_replaceable(target: Path, names: Collection[str], overwrite: bool):
    if not target.is_dir():
        raise FileExistsError(f"'{target}' is a file, and a folder is to be written. Choose another name or delete it.")
    if not overwrite:
        raise FileExistsError(f"'{target}' exists. Choose another name, or replace it with `overwrite=True`.")
    if others := set(os.listdir(target)) - set(names):
        raise FileExistsError(
            f"'{target}' also holds {listed(sorted(others))}, so it is not replaced. Choose another name."
        )


def write_folder(target: Path, files: Mapping[str, bytes]):
    """Write these files, in this order, into a folder in the place of `target`, which `check_target` has returned.

    Raises `OSError`, for example if the disk is full. What stood there before is kept.
    """
    size = sum(map(len, files.values()))
    folder = Path(tempfile.mkdtemp(prefix=_beside(target, "tmp"), dir=target.parent))
    try:
        if shutil.disk_usage(folder).free < SPACE_FACTOR * size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for name, data in files.items():
            _write_file(folder / name, data)
        _share_like_files(folder)
        _sync_folder(folder)
        _put_in_place(folder, target, files)
    except OSError as error:
        free = shutil.disk_usage(target.parent).free
        raise OSError(
            error.errno,
            f"'{target}' was not written ({error.strerror}): it takes {size / 1e6:,.1f} MB, should have {SPACE_FACTOR} "
            f"times that, and {free / 1e6:,.1f} MB are free. What stood there before is kept. Free some space",
        ) from error
    finally:
        _discard(folder, files)  # unless something failed, it is no longer there


def write_file(path: Path, data: bytes) -> None:
    """Put a file in place whole: a crash at any instant leaves the old one or the new one. Raises `OSError`."""
    beside = path.with_name(f"{_beside(path, 'tmp')}{secrets.token_hex(4)}")
    try:
        _write_file(beside, data)
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


@contextmanager
def claimed(folder: Path, mend: str) -> Iterator[None]:
    """Claim `folder` for this process. However it ends, the system then takes the claim away.

    Raises
    ------
    RuntimeError
        If another holds it; `mend` says what to do then.
    """
    with open(folder / "lock", "a+") as lock:
        try:
            if fcntl:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise RuntimeError(f"{folder} is in use by {lock.read() or 'another run'}{mend}") from None
        except OSError as error:
            logger.warning("%s cannot be locked (%s). Let no second run use it.", folder, error.strerror)
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        yield


def _write_file(path: Path, data: bytes):
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _share_like_files(folder: Path):
    """Who may read the files may enter the folder; mkdtemp made it private, which is right only while it is written."""
    mode = next(folder.iterdir()).stat().st_mode & 0o777
    folder.chmod(mode | (mode & 0o444) >> 2)


def _sync_folder(folder: Path):
    with suppress(OSError):  # Windows and some network disks cannot do it, and the files are synced already
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _put_in_place(folder: Path, target: Path, names: Collection[str]):
    if not target.exists():
        os.rename(folder, target)
    else:
        backup = target.with_name(_beside(target, "bak") + secrets.token_hex(4))
        os.rename(target, backup)
        try:
            os.rename(folder, target)
        except BaseException:
            os.rename(backup, target)
            raise
    _sync_folder(target.parent)
    for backup in _backups(target):
        with suppress(OSError):
            os.rename(backup, folder)  # renamed first, so that half a backup is never taken for one
        _discard(folder, names)


def _discard(folder: Path, names: Collection[str]):
    with suppress(OSError):
        for name in names:
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()


def recover(target: Path):
    """Mend the one state in which a crash leaves no `target`: between the two renames of an overwrite."""
    if target.exists() or not target.parent.is_dir() or not _backups(target):
        return
    time.sleep(0.2)  # a writer that is alive is past its second rename by then
    if not target.exists() and (backups := _backups(target)):
        os.rename(backups[-1], target)
        logger.warning("'%s' was being overwritten when its process ended; the previous state is back.", target)


def _backups(target: Path) -> list[Path]:
    """Earlier states that an overwrite put aside, oldest first."""
    with os.scandir(target.parent) as entries:
        found = [Path(entry.path) for entry in entries if entry.name.startswith(f".{target.name}.bak-")]
    return sorted(found, key=os.path.getmtime)


def _beside(target: Path, role: str) -> str:
    return f".{target.name}.{role}-{os.getpid()}-"
