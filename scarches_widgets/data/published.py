"""Published data sets: downloaded once by pooch, checked by their SHA-256, kept, and read as any foreign file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from .names import DataError, shown

if TYPE_CHECKING:
    from anndata import AnnData

THIS_MACHINE = ("127.0.0.1", "localhost", "::1")
SECONDS = 30  # without an answer


def published(url: str, sha256: str, *, name: str | None = None, progress: bool = True) -> AnnData:
    """A published data set. It is downloaded when it is first asked for, and then read from this machine.

    No list of data sets comes with the package, for a sum is only worth something if whoever gives it has had the file
    in hand: `sha256sum FILE` (`shasum -a 256 FILE` on a Mac) tells it.

    Parameters
    ----------
    url
        Where the file is, by https.
    sha256
        The file's SHA-256, 64 hexadecimal digits. Another file is refused, and not kept.
    name
        What to keep it as, in `$SCARCHES_WIDGETS_CACHE/datasets` (else `~/.cache/scarches_widgets/datasets`). None: the
        last part of `url`.
    progress
        Whether to show a bar.

    Returns
    -------
    What `sca.read` makes of it: an AnnData, of `.h5mu` a MuData.

    Raises
    ------
    FileNotFoundError
        It is not on this machine and cannot be downloaded; the message says which file to put where.
    DataError
        The file has another SHA-256, or cannot be read.
    ValueError
        `url` is not one of https, `sha256` no such sum, or `name` no name of a file that can be read.

    Examples
    --------
    >>> adata = sca.datasets.published("https://zenodo.org/…/pbmc.h5ad", sha256="3f8b…")  # doctest: +SKIP
    """
    import pooch
    from requests import RequestException

    from .gene_sets import CACHE, cache_folder
    from .read import read

    address = urlsplit(url)
    if address.scheme != "https" and not (address.scheme == "http" and address.hostname in THIS_MACHINE):
        raise ValueError(f"url='{shown(url)}' is not of https, and so may be changed on its way. Pass one that is.")
    if not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise ValueError(f"sha256='{shown(sha256)}' must be 64 hexadecimal digits, as `sha256sum FILE` prints them.")
    name = unquote(address.path.rpartition("/")[2]) if name is None else name
    if not re.fullmatch(r"[^/\\]+\.(h5ad|h5mu)", name):
        raise ValueError(
            f"'{shown(name)}' is no name of a .h5ad or .h5mu file. Say what to keep the file as: name='pbmc.h5ad'."
        )
    sha256, path = sha256.lower(), cache_folder("datasets") / name
    if path.exists():
        found = pooch.file_hash(str(path))
        if found != sha256:
            raise DataError(
                f"'{path}' is another file than was asked for: its SHA-256 is {found}, not {sha256}. Delete it to "
                "download anew; or keep both: name='another.h5ad'."
            )
        return read(path)
    bar = pooch.HTTPDownloader(progressbar=progress, timeout=SECONDS)
    try:
        pooch.retrieve(url, f"sha256:{sha256}", path.name, path.parent, downloader=bar)
    except RequestException as error:
        answer = error.response
        why = type(error).__name__ if answer is None else f"it answered {answer.status_code} {shown(answer.reason)}"
        raise FileNotFoundError(
            f"'{name}' is not on this machine, and could not be downloaded from {shown(address.netloc)} ({why}). "
            f"Where there is internet, download {url} and copy the file to '{path}': it is read from there. "
            f"Another folder is chosen by the environment variable {CACHE}."
        ) from error
    except ValueError as error:  # pooch's, and it has deleted the file
        raise DataError(
            f"What {url} gives is not the file that was asked for: its SHA-256 is not {sha256}. Nothing was kept. "
            "Look whether a newer version was published under this address, and whether the sum was copied whole."
        ) from error
    return read(path)
