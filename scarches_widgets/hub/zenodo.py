"""Models on Zenodo: drafts, files, publishing, searching, fetching.

    zenodo.configure(sandbox=False)                        # else all goes to sandbox.zenodo.org, which is for trying
    id = zenodo.create_deposition(title="…", description="…", creators=[{"name": "Last, First"}])
    link = zenodo.upload_model(model, id)                  # a draft: only its owner sees it
    zenodo.publish_deposition(id, title="…")               # forever: the draft's title, typed again
    folder = zenodo.download_model(link, "models/")
    model = sca.hub.load(folder)

The token is read from the environment variable ZENODO_TOKEN (ZENODO_SANDBOX_TOKEN for the sandbox) unless it is passed.
Zenodo's REST interface: https://developers.zenodo.org.
"""

from __future__ import annotations

import contextlib
import html.parser
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from ..data.container import MANIFEST, DamagedFile
from ..data.findings import counted
from ..data.names import listed, shown
from ..models.base import Model
from .archives import pack, unpack
from .cards import CARD, LARGEST_CARD, ModelCard, read_card
from .folders import load, save
from .secret import Secret
from .transfer import Cancel, Cancelled, Client, Progress, RefusedAddress, TransferError, digest

__all__ = [
    "Cancelled",
    "Record",
    "RecordFile",
    "RefusedAddress",
    "TransferError",
    "configure",
    "create_deposition",
    "delete_deposition",
    "delete_file",
    "download_model",
    "get_all_deposition_ids",
    "get_card",
    "get_deposition",
    "get_record",
    "publish_deposition",
    "search",
    "update_deposition",
    "upload_file",
    "upload_model",
]

logger = logging.getLogger(__name__)
ZENODO, SANDBOX = "https://zenodo.org", "https://sandbox.zenodo.org"
HOSTS = frozenset({"zenodo.org", "sandbox.zenodo.org"})
PREFIXES = {"10.5281": ZENODO, "10.5072": SANDBOX}  # of DOIs
PAGE = 100
IDENTIFIER = re.compile(r"[A-Za-z0-9_-]{1,64}")
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,149}")
ON_BINDER = ("BINDER_SERVICE_HOST", "BINDER_LAUNCH_HOST")
LARGEST_FILE = 50_000_000_000  # bytes, Zenodo's own limit


@dataclass(frozen=True)
class _Site:
    """Where records are: Zenodo, its sandbox, or a server of one's own."""

    web: str
    client: Client

    @property
    def api(self) -> str:
        return f"{self.web}/api"

    @property
    def variable(self) -> str:
        """Of the environment, with the token."""
        return "ZENODO_TOKEN" if self.web == ZENODO else "ZENODO_SANDBOX_TOKEN"


@dataclass(frozen=True)
class RecordFile:
    """A file of a record: its name, size in bytes, and MD5."""

    name: str
    size: int
    md5: str | None


@dataclass(frozen=True)
class Record:
    """A published record.

    Attributes
    ----------
    id, title, description, creators, doi, published
        As Zenodo has them; the description as plain text.
    link
        Its page.
    files
        What it holds.
    """

    id: str
    title: str
    description: str
    creators: tuple[str, ...]
    doi: str | None
    published: str | None
    link: str
    files: tuple[RecordFile, ...]

    @property
    def archives(self) -> tuple[RecordFile, ...]:
        """The files that may be a model."""
        return tuple(file for file in self.files if file.name.lower().endswith(".zip"))

    @property
    def has_card(self) -> bool:
        return any(file.name.endswith(CARD) for file in self.files)


_client = Client(HOSTS)
_site = _Site(SANDBOX, _client)


def configure(*, sandbox: bool = True, base_url: str | None = None) -> None:
    """Choose where models are shared.

    Parameters
    ----------
    sandbox
        Whether to use sandbox.zenodo.org, which has accounts and tokens of its own and is emptied from time to time.
    base_url
        Another server with Zenodo's interface instead, `https://host/api`; or one of this machine,
        `http://127.0.0.1:port/api`, for tests.

    Raises
    ------
    RefusedAddress
        `base_url` is neither.
    """
    global _site
    if base_url is None:
        _site = _Site(SANDBOX if sandbox else ZENODO, _client)
        return
    address = urlsplit(base_url)
    web = f"{address.scheme}://{address.netloc}{address.path.rstrip('/').removesuffix('/api')}"
    if address.username is not None or address.query or address.fragment:
        raise RefusedAddress("base_url is an address alone, such as https://zenodo.example.org/api.")
    if address.scheme == "http" and address.hostname in ("127.0.0.1", "localhost", "::1"):
        _site = _Site(web, Client(HOSTS, loopback=address.netloc))
    elif address.scheme == "https" and address.hostname and address.port in (None, 443):
        _site = _Site(web, Client(HOSTS | {address.hostname}))
    else:
        raise RefusedAddress(
            f"base_url='{shown(base_url)}' is neither https://host/api nor a server of this machine "
            "(http://127.0.0.1:port/api)."
        )


def current_site() -> _Site:
    """Where models are shared now, as `configure` chose."""
    return _site


def on_binder() -> bool:
    """Whether this is Binder, where others may see what is typed."""
    return any(os.environ.get(name) for name in ON_BINDER)


# ---- drafts ----------------------------------------------------------------------------------------------------------


def create_deposition(
    access_token: str | None = None,
    upload_type: str = "other",
    title: str = "",
    description: str = "",
    *,
    force: bool = False,
    **metadata: Any,
) -> str:
    """Begin a record, as a draft that only its owner sees.

    Parameters
    ----------
    access_token
        See the top of this module.
    upload_type, title, description, **metadata
        What Zenodo asks of a record; to be published, it also needs `creators=[{"name": "Last, First"}]`.
    force
        Allow it on Binder, where others may see what is typed.

    Returns
    -------
    The draft's id.

    Raises
    ------
    TransferError
        Zenodo refused, or could not be reached. Nothing was begun twice.
    """
    access_token = _token(access_token, force)
    metadata = {"upload_type": upload_type, "title": title, "description": description, **metadata}
    before = {str(draft.get("id")) for draft in _page_of_drafts(access_token, 1)}
    url, content = f"{_site.api}/deposit/depositions", {"metadata": metadata}
    for is_last in (False, False, True):
        problem = None
        try:
            return _id(_site.client.ask(
                "POST", url, token=access_token, content=content, accepted=(200, 201), repeatable=False
            ))  # fmt: skip
        except Cancelled:
            raise
        except TransferError as error:
            problem = error
        if problem.status is not None and problem.status < 500:
            break
        for draft in _page_of_drafts(access_token, 1):  # it may have been begun, and the answer lost
            if str(draft.get("id")) not in before and draft.get("metadata", {}).get("title", "") == title:
                return _id(draft)
        if is_last:
            break
    raise TransferError(str(problem), problem.status)


def get_deposition(deposition_id: str | int, access_token: str | None = None) -> dict:
    """What Zenodo says of a draft or record of one's own."""
    access_token = _token(access_token, force=True)
    return _deposition(deposition_id, access_token)


def get_all_deposition_ids(access_token: str | None = None) -> list[str]:
    """Ids of all drafts and records of the token's owner, newest first."""
    access_token = _token(access_token, force=True)
    found: dict[str, None] = {}
    for page in range(1, 1000):
        drafts = _page_of_drafts(access_token, page)
        found |= dict.fromkeys(_id(draft) for draft in drafts)
        if len(drafts) < PAGE:
            break
    return list(found)


def update_deposition(
    deposition_id: str | int, access_token: str | None = None, metadata: dict | None = None, *, force: bool = False
) -> None:
    """Change some of a draft's metadata; the others stay.

    Parameters
    ----------
    deposition_id, access_token, force
        As in `create_deposition`.
    metadata
        Fields to change, also within `{"metadata": …}`, as Zenodo writes them.
    """
    access_token = _token(access_token, force)
    metadata = dict(metadata or {})
    if set(metadata) == {"metadata"}:
        metadata = dict(metadata["metadata"])
    draft = _draft(deposition_id, access_token)
    content = {"metadata": {**draft.get("metadata", {}), **metadata}}
    _site.client.ask("PUT", _url_of(deposition_id), token=access_token, content=content)


def delete_deposition(deposition_id: str | int, access_token: str | None = None, *, force: bool = False) -> None:
    """Delete a draft. What is published is never deleted."""
    access_token = _token(access_token, force)
    _draft(deposition_id, access_token)
    _deleted(_url_of(deposition_id), access_token)


def publish_deposition(
    deposition_id: str | int, access_token: str | None = None, *, title: str, force: bool = False
) -> str:
    """Make a draft public, for ever: it gets a DOI, and its files cannot be changed any more.

    Parameters
    ----------
    deposition_id, access_token, force
        As in `create_deposition`.
    title
        The draft's title, typed again, so that nothing is published by mistake.

    Returns
    -------
    Link to the record.

    Raises
    ------
    ValueError
        `title` is not the draft's.
    """
    access_token = _token(access_token, force)
    draft = _deposition(deposition_id, access_token)
    has = draft.get("metadata", {}).get("title", "")
    if title != has:
        raise ValueError(
            f"Nothing was published: the draft {shown(deposition_id)} is called '{shown(has)}', not '{shown(title)}'. "
            "Pass its title to confirm that this is the one."
        )
    link = f"{_site.web}/records/{_checked_id(deposition_id)}"
    if draft.get("submitted") is True:
        return link
    problem = None
    try:
        url = f"{_url_of(deposition_id)}/actions/publish"
        _site.client.ask("POST", url, token=access_token, accepted=(200, 201, 202), repeatable=False)
    except TransferError as error:
        problem = error
    if problem is not None and _deposition(deposition_id, access_token).get("submitted") is not True:
        raise TransferError(str(problem), problem.status)
    logger.warning("Published for ever: %s", link)
    return link


# ---- files -----------------------------------------------------------------------------------------------------------


def upload_file(
    file_path: str | os.PathLike,
    deposition_id: str | int,
    access_token: str | None = None,
    *,
    name: str | None = None,
    overwrite: bool = False,
    progress: bool | Progress = True,
    cancel: Cancel | None = None,
    force: bool = False,
) -> str:
    """Put a file into a draft, streamed, and compare its MD5 with Zenodo's.

    Parameters
    ----------
    file_path
        The file, up to 50 GB.
    deposition_id, access_token, force
        As in `create_deposition`.
    name
        Its name there; None: its own.
    overwrite
        Whether to replace another file of this name. The same file is not sent twice.
    progress
        Whether to show a bar; or a function of the bytes sent and their total.
    cancel
        Such as a `threading.Event`; once set, `Cancelled` is raised.

    Returns
    -------
    Link from which it can be fetched once the draft is published.

    Raises
    ------
    FileExistsError
        The draft has another file of this name.
    TransferError
        Zenodo refused or could not be reached, or got other bytes than were sent.
    """
    access_token = _token(access_token, force)
    path = Path(file_path).expanduser()
    name = path.name if name is None else name
    if not FILE_NAME.fullmatch(name):
        raise ValueError(f"'{shown(name)}' is no file name for a record. Use letters, digits, '_', '.' and '-'.")
    if (size := path.stat().st_size) > LARGEST_FILE:
        raise ValueError(f"'{path}' has {size / 1e9:,.1f} GB, and Zenodo takes files up to 50 GB.")
    draft = _draft(deposition_id, access_token)
    md5 = digest(path, "md5")
    link = f"{_site.web}/records/{_checked_id(deposition_id)}/files/{name}?download=1"
    there = {file.name: file for file in _files(draft)}.get(name)
    if there is not None and there.md5 == md5:
        logger.info("'%s' is in the draft already.", name)
        return link
    if there is not None and not overwrite:
        raise FileExistsError(f"The draft has another file '{name}'. Choose another name, or pass overwrite=True.")
    url = f"{_bucket(draft)}/{quote(name)}"
    for is_last in (False, True):
        with _shown(progress, f"Uploading {name}", size) as show:
            answer = _site.client.send_file(url, path, access_token, show, cancel)
        if _md5(answer.get("checksum")) in (md5, None):
            return link
        _deleted(url, access_token)
        if is_last:
            raise TransferError(f"'{name}' arrived damaged twice (its MD5 differs) and was deleted there. Try later.")
    return link


def delete_file(name: str, deposition_id: str | int, access_token: str | None = None, *, force: bool = False) -> None:
    """Delete a file of a draft."""
    access_token = _token(access_token, force)
    draft = _draft(deposition_id, access_token)
    if name not in {file.name for file in _files(draft)}:
        raise FileNotFoundError(
            f"The draft has no file '{shown(name)}'; it has {listed(f.name for f in _files(draft))}."
        )
    _deleted(f"{_bucket(draft)}/{quote(name)}", access_token)


# ---- models ----------------------------------------------------------------------------------------------------------


def upload_model(
    model: Model | str | os.PathLike,
    deposition_id: str | int,
    access_token: str | None = None,
    model_name: str | None = None,
    *,
    card: ModelCard | None = None,
    overwrite: bool = False,
    progress: bool | Progress = True,
    cancel: Cancel | None = None,
    force: bool = False,
) -> str:
    """Put a model and its card into a draft. It is not public before `publish_deposition`.

    Parameters
    ----------
    model
        A model, or the folder of a saved one.
    deposition_id, access_token, overwrite, progress, cancel, force
        As in `upload_file`.
    model_name
        Of its files: `scarches-<model_name>.zip` and `scarches-<model_name>.card.json`; None: the model's class.
    card
        Whose title and text the model's card takes over.

    Returns
    -------
    Link to the draft, which only its owner can open. Once it is published, `download_model` takes the same link.

    Raises
    ------
    DamagedFile
        The folder holds no model of this package, or a damaged one.
    """
    access_token = _token(access_token, force)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        if not isinstance(model, Model):
            path = Path(model).expanduser()
            card = read_card(path) if card is None and (path / CARD).is_file() else card
            model = load(path)
        name = model_name or type(model).__name__.lower()
        stem = f"scarches-{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)}"
        save(model, folder, card=card)
        pack(folder, Path(scratch) / f"{stem}.zip")
        options = {"overwrite": overwrite, "cancel": cancel, "force": force}
        upload_file(Path(scratch) / f"{stem}.zip", deposition_id, access_token, progress=progress, **options)
        upload_file(folder / CARD, deposition_id, access_token, name=f"{stem}.{CARD}", progress=False, **options)
    link = f"{_site.web}/deposit/{_checked_id(deposition_id)}"
    logger.warning(
        "The model is in the draft %s, which is not public yet. Look at it there; then publish it: "
        "zenodo.publish_deposition(%r, title=…).",
        link,
        str(deposition_id),
    )
    return link


def download_model(
    link: str,
    save_path: str | os.PathLike = "./",
    extract_dir: bool = True,
    *,
    file: str | None = None,
    sha256: str | None = None,
    overwrite: bool = False,
    progress: bool | Progress = True,
    cancel: Cancel | None = None,
) -> str:
    """Fetch a published model and check it: size, MD5, and for models of this package the SHA-256 of all their files.

    Parameters
    ----------
    link
        A record's page, a file of it, a DOI, or a record's id.
    save_path
        Folder to put it into; made if needed.
    extract_dir
        Whether to unpack it, into a folder of its own named after the file. Otherwise the zip is kept as it is.
    file
        Which of a record's zip files, if there are several.
    sha256
        Of the zip, if it is known.
    overwrite
        Whether to replace what was fetched before.
    progress, cancel
        As in `upload_file`. What was fetched before a stop is kept, and the next call goes on from there.

    Returns
    -------
    The folder, for `sca.hub.load` (or `from_scvi_tools`, `from_scarches`); without `extract_dir` the zip's path.

    Raises
    ------
    RefusedAddress
        The link leads elsewhere than to Zenodo (or the server of `configure`).
    TransferError
        It could not be fetched, or is not what the record says.
    DamagedFile
        The archive is not what a model's archive is; nothing of it was kept.
    FileExistsError
        It is there already.
    """
    site, identifier, named = _resolved(link)
    record = get_record(identifier, _of=site, cancel=cancel)
    wanted = _the_archive(record, file or named)
    folder = Path(save_path).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / (f".{wanted.name}" if extract_dir else wanted.name)
    target = folder / wanted.name.removesuffix(".zip") if extract_dir else archive
    if target.exists() and not overwrite:
        raise FileExistsError(f"'{target}' is there already. Use it, delete it, or pass overwrite=True.")
    if target.is_dir() and any(not path.is_file() for path in target.iterdir()):
        raise FileExistsError(f"'{target}' holds more than a model, so it is not replaced. Choose another save_path.")
    if wanted.size > LARGEST_FILE:
        raise TransferError(f"'{wanted.name}' has {wanted.size / 1e9:,.1f} GB, more than Zenodo takes.")
    url = f"{site.api}/records/{identifier}/files/{quote(wanted.name)}/content"
    with _shown(progress, f"Downloading {wanted.name}", wanted.size) as show:
        site.client.fetch_file(
            url, archive, size=wanted.size, md5=wanted.md5, sha256=sha256, progress=show, cancel=cancel
        )
    if not extract_dir:
        return str(archive)
    aside = folder / f".{target.name}.before"
    if target.exists():
        _discarded(aside)
        os.replace(target, aside)
    try:
        unpack(archive, target, _verify)
    finally:
        archive.unlink()
        if aside.exists() and not target.exists():
            os.replace(aside, target)
    _discarded(aside)
    return str(target)


def get_card(record: Record | str, *, file: str | None = None, cancel: Cancel | None = None) -> ModelCard | None:
    """The card of a record's model, for `sca.hub.compatibility` before the model is fetched; None if it has none.

    Parameters
    ----------
    record
        A record, or a link as in `download_model`.
    file
        The zip whose card it is, if there are several.
    cancel
        As in `upload_file`.
    """
    if isinstance(record, Record):
        site, named = _site_of(record.link), None
    else:
        site, identifier, named = _resolved(record)
        record = get_record(identifier, _of=site, cancel=cancel)
    cards = [one for one in record.files if one.name.endswith(CARD)]
    if file or named:
        cards = [one for one in cards if one.name == f"{(file or named).removesuffix('.zip')}.{CARD}"]
    if not cards:
        return None
    url = f"{site.api}/records/{record.id}/files/{quote(cards[0].name)}/content"
    return read_card(site.client.fetch_small(url, LARGEST_CARD, cancel))


# ---- records ---------------------------------------------------------------------------------------------------------


def search(
    query: str = "", *, page: int = 1, size: int = 10, site: str | None = None, cancel: Cancel | None = None
) -> list[Record]:
    """Published records, as Zenodo's own search finds them.

    Parameters
    ----------
    query
        Words, or an expression of Zenodo's search.
    page, size
        Which page, from 1, of how many records.
    site
        Where to look, "https://zenodo.org" or "https://sandbox.zenodo.org"; None: where `configure` says.
    cancel
        As in `upload_file`.
    """
    where = _site if site is None else _site_of(f"{site}/")
    asked = urlencode({"q": query, "page": page, "size": size})
    answer = where.client.ask("GET", f"{where.api}/records?{asked}", cancel=cancel)
    found = answer.get("hits", {}).get("hits", []) if isinstance(answer, dict) else answer or []
    return [_record(one, where) for one in found]


def get_record(identifier: str | int, *, _of: _Site | None = None, cancel: Cancel | None = None) -> Record:
    """One published record, by its id."""
    site = _of or _site
    answer = site.client.ask("GET", f"{site.api}/records/{_checked_id(identifier)}", cancel=cancel)
    return _record(answer, site)


def _record(answer: dict, site: _Site) -> Record:
    try:
        metadata = answer.get("metadata", {})
        identifier = _id(answer)
        return Record(
            id=identifier,
            title=str(metadata.get("title", "")),
            description=_plain(str(metadata.get("description", ""))),
            creators=tuple(str(one.get("name", "")) for one in metadata.get("creators", ())),
            doi=answer.get("doi") or metadata.get("doi"),
            published=metadata.get("publication_date"),
            link=f"{site.web}/records/{identifier}",
            files=_files(answer),
        )
    except (AttributeError, TypeError, KeyError, ValueError) as error:
        raise TransferError(f"The server's answer is no record ({shown(error)!r}).") from error


def _files(answer: dict) -> tuple[RecordFile, ...]:
    """Of a record or of a draft, which names them otherwise."""
    files = []
    for one in answer.get("files") or ():
        size = one.get("size", one.get("filesize", 0))
        files.append(RecordFile(str(one.get("key") or one.get("filename")), int(size), _md5(one.get("checksum"))))
    return tuple(files)


def _md5(checksum: object) -> str | None:
    """`md5:…`, or, of drafts, the digits alone."""
    found = re.fullmatch(r"(?:md5:)?([0-9a-fA-F]{32})", str(checksum))
    return found[1].lower() if found else None


def _the_archive(record: Record, name: str | None) -> RecordFile:
    names = listed((file.name for file in record.files), 6) or "no files"
    found = [file for file in record.files if file.name == name] if name else list(record.archives)
    if len(found) != 1:
        problem = f"has no file '{shown(name)}'" if name else f"has {counted(len(found), 'zip file')}"
        raise TransferError(f"The record {record.id} {problem}: {names}. Say which: file='…'.")
    if not FILE_NAME.fullmatch(found[0].name) or not found[0].name.lower().endswith(".zip"):
        raise TransferError(f"'{shown(found[0].name)}' of record {record.id} is no zip of a model.")
    return found[0]


def _resolved(link: str) -> tuple[_Site, str, str | None]:
    """The site, the record's id, and the file that a link names."""
    link = str(link).strip()
    if found := re.fullmatch(r"(?:https://doi\.org/|doi:)?(10\.\d+)/zenodo\.(\d+)", link):
        if found[1] not in PREFIXES:
            raise RefusedAddress(f"'{shown(link)}' is no DOI of Zenodo.")
        return _Site(PREFIXES[found[1]], _client), found[2], None
    if IDENTIFIER.fullmatch(link):
        return _site, link, None
    site = _site_of(link)
    path = urlsplit(link).path[len(urlsplit(site.web).path) :]
    found = re.fullmatch(
        r"/(?:api/)?(?:records?|deposit|deposit/depositions|uploads)/([A-Za-z0-9_-]{1,64})"
        r"(?:/files/([^/]+?)(?:/content)?)?/?",
        path,
    )
    if not found:
        raise RefusedAddress(f"'{shown(link)}' is no link to a record: one ends in /records/12345.")
    return site, found[1], found[2]


def _site_of(link: str) -> _Site:
    for site in (_site, _Site(ZENODO, _client), _Site(SANDBOX, _client)):
        if link.startswith(f"{site.web}/"):
            return site
    raise RefusedAddress(
        f"'{shown(link)}' is not gone to: models come from zenodo.org and sandbox.zenodo.org, or from the server that "
        "zenodo.configure names."
    )


# ---- parts of requests -----------------------------------------------------------------------------------------------


def _token(access_token: str | Secret | None, force: bool) -> Secret:
    if not force and on_binder():
        raise PermissionError(
            "This is Binder, a public machine that is thrown away: do not type tokens here. Upload from your own "
            "computer; or, if you must, pass force=True."
        )
    return Secret.of(access_token, _site.variable)


def _checked_id(identifier: str | int) -> str:
    if not IDENTIFIER.fullmatch(str(identifier)):
        raise ValueError(f"'{shown(identifier)}' is no id of a record: that is a number, such as 12345.")
    return str(identifier)


def _id(answer: Any) -> str:
    if not isinstance(answer, dict) or not IDENTIFIER.fullmatch(str(answer.get("id"))):
        raise TransferError("The server's answer names no record.")
    return str(answer["id"])


def _url_of(deposition_id: str | int) -> str:
    return f"{_site.api}/deposit/depositions/{_checked_id(deposition_id)}"


def _deposition(deposition_id: str | int, token: Secret) -> dict:
    answer = _site.client.ask("GET", _url_of(deposition_id), token=token)
    _id(answer)
    return answer


def _draft(deposition_id: str | int, token: Secret) -> dict:
    """What may still be changed."""
    draft = _deposition(deposition_id, token)
    if draft.get("submitted") is True:
        raise PermissionError(f"The record {shown(deposition_id)} is public, and cannot be changed any more.")
    return draft


def _page_of_drafts(token: Secret, page: int) -> list[dict]:
    asked = urlencode({"page": page, "size": PAGE, "sort": "mostrecent"})
    answer = _site.client.ask("GET", f"{_site.api}/deposit/depositions?{asked}", token=token)
    return [one for one in answer or () if isinstance(one, dict)]


def _bucket(draft: dict) -> str:
    """Where a draft's files go; the token goes there too, so it must be the same server."""
    bucket = str(draft.get("links", {}).get("bucket", ""))
    if not bucket.startswith(f"{_site.api}/"):
        raise RefusedAddress(f"The server names '{shown(bucket)}' as the place for files, which is not its own.")
    return bucket


def _deleted(url: str, token: Secret) -> None:
    """Gone: by this request, or by one whose answer was lost."""
    _site.client.ask("DELETE", url, token=token, accepted=(200, 201, 204, 404, 410))


def _verify(folder: Path) -> None:
    """Compare all files of a model of this package with their SHA-256, and read it once; others are left to readers."""
    if (folder / MANIFEST).exists():
        load(folder)
    elif not any((folder / name).exists() for name in ("model.pt", "model_params.pt")):
        raise DamagedFile(f"The archive holds no model: {listed(sorted(os.listdir(folder)), 6)}.")


def _discarded(folder: Path) -> None:
    """Delete a folder of a model that was fetched before."""
    if folder.is_dir():
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


@contextlib.contextmanager
def _shown(progress: bool | Progress, what: str, size: int) -> Iterator[Callable[[int, int], None] | None]:
    """Tells `progress` of bytes done; or shows a bar."""
    if callable(progress) or not progress:
        yield progress or None
        return
    from tqdm.auto import tqdm

    with tqdm(desc=what, total=size, unit="B", unit_scale=True) as bar:
        yield lambda done, total: bar.update(done - bar.n)


class _Text(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.parts: list[str] = []

    def handle_data(self, data: str) -> None:
        self.parts.append(data)


def _plain(text: str) -> str:
    """A description without its tags."""
    parser = _Text()
    parser.feed(text)
    return " ".join("".join(parser.parts).split())
