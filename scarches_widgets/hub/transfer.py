"""Requests to a few known hosts, files sent and fetched: checked at each step, retried, resumed.

- https only, and only hosts of a list, also behind each redirect; they must not resolve to addresses of this machine or
  its network, and the connection goes to the address that was checked. A server on loopback must be named by its owner.
- A token goes into one header, to the host it is for, and into nothing else. Low-level errors are told anew, without
  their traceback, in which the header stands.
- Errors of the network and of an overworked server are retried, with growing pauses or those that the server asks for.
"""

from __future__ import annotations

import base64
import email.utils
import errno
import hashlib
import http.client
import ipaddress
import json
import os
import random
import shutil
import socket
import ssl
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import unquote, urljoin, urlsplit

from ..data.names import shown
from ..data.strict_json import parse_json
from .secret import Secret

T = TypeVar("T")
CONNECT_SECONDS, READ_SECONDS, ANSWER_SECONDS = 10, 30, 120
ATTEMPTS, FIRST_PAUSE, LONGEST_PAUSE = 5, 1.0, 300.0  # seconds
MOST_REDIRECTS = 5
LARGEST_ANSWER = 16_000_000  # bytes of JSON
BLOCK = 1 << 20
AGAIN = {429, 500, 502, 503, 504}
OF_DISKS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}
Progress = Callable[[int, int], None]  # bytes done, bytes in all


class TransferError(OSError):
    """A request that did not succeed; the message says why, in the server's words if it had any."""

    def __init__(self, message: str, status: int | None = None):
        super().__init__(message)
        self.status = status


class Cancelled(TransferError):
    """The user asked to stop. What was fetched is kept, and the next try goes on from it."""


class RefusedAddress(ValueError):
    """An address that is not gone to."""


class Cancel(Protocol):
    """Such as a `threading.Event`."""

    def is_set(self) -> bool: ...


class _Again(Exception):
    """May work in a moment."""

    def __init__(self, reason: str, status: int | None = None, after: float | None = None):
        super().__init__(reason)
        self.reason, self.status, self.after = reason, status, after


@dataclass(frozen=True)
class Client:
    """Talks to `hosts` by https, and to `loopback` (host:port), if there is one, by http.

    Attributes
    ----------
    hosts
        Names that may be asked.
    loopback
        A server of one's own on this machine, such as "127.0.0.1:5000".
    """

    hosts: frozenset[str]
    loopback: str | None = None
    _random: random.Random = field(default_factory=random.Random, repr=False, compare=False)

    # Answers

    def ask(
        self,
        method: str,
        url: str,
        *,
        token: Secret | None = None,
        content: Any = None,
        accepted: tuple[int, ...] = (200,),
        repeatable: bool = True,
        cancel: Cancel | None = None,
    ) -> Any:
        """Send JSON and return the answer, which is JSON or None.

        Parameters
        ----------
        method, url, token
            What to ask, where, and as whom.
        content
            JSON to send; None: nothing.
        accepted
            Statuses that mean success.
        repeatable
            Whether asking twice does no harm. If not, it is asked again only where the server surely did nothing (429).
        cancel
            Asked between tries.

        Raises
        ------
        TransferError
            The server refused, or could not be reached.
        RefusedAddress
            The address, or one that it leads to, is not allowed.
        """
        body = None if content is None else json.dumps(content).encode()

        def once() -> Any:
            headers = {"Accept": "application/json"}
            if body is not None:
                headers["Content-Type"] = "application/json"
            connection, response = self._opened(method, url, token, headers, body)
            with connection:
                data = _read(response)
                if response.status in accepted:
                    return _parsed(data) if data else None
                raise self._failure(response, data, token)

        return self._tried(f"{method} {urlsplit(url).path}", once, repeatable, cancel)

    def fetch_small(self, url: str, limit: int = LARGEST_ANSWER, cancel: Cancel | None = None) -> bytes:
        """A small file's bytes."""

        def once() -> bytes:
            connection, response = self._opened("GET", url, None, {})
            with connection:
                data = _read(response, limit)
                if response.status != 200:
                    raise self._failure(response, data, None)
                return data

        return self._tried(f"GET {urlsplit(url).path}", once, True, cancel)

    # Files

    def send_file(
        self, url: str, path: Path, token: Secret, progress: Progress | None = None, cancel: Cancel | None = None
    ) -> dict:
        """PUT a file, block by block; returns the server's answer. Its MD5 is for the caller to compare."""
        size = path.stat().st_size

        def once() -> Any:
            connection, response = self._opened(
                "PUT", url, token, {"Content-Type": "application/octet-stream"}, (path, size, progress, cancel)
            )
            with connection:
                data = _read(response)
                if response.status in (200, 201):
                    return _parsed(data)
                raise self._failure(response, data, token)

        return self._tried(f"PUT {urlsplit(url).path}", once, True, cancel)

    def fetch_file(
        self,
        url: str,
        target: Path,
        *,
        size: int,
        md5: str | None = None,
        sha256: str | None = None,
        token: Secret | None = None,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> None:
        """Fetch a file into `target`, which is there only once it is whole and right.

        Until then it grows in `<target>.part`, from which a later call goes on.

        Parameters
        ----------
        url, target
            Where from, where to.
        size, md5, sha256
            What it must be.
        token, progress, cancel
            As whom; told of each block; asked after each.

        Raises
        ------
        TransferError
            It could not be fetched, or is not what it should be.
        Cancelled
            `cancel` was set.
        """
        part = target.with_name(f"{target.name}.part")
        if part.is_symlink():
            raise TransferError(f"'{part}' is a link, so nothing is written through it. Remove it.")
        have = part.stat().st_size if part.exists() else 0
        if shutil.disk_usage(target.parent).free < size - have:
            raise OSError(
                errno.ENOSPC, f"'{target.name}' takes {size / 1e6:,.1f} MB, more than is free there. Free some space"
            )
        for is_last in (False, True):
            self._grow(url, part, size, token, progress, cancel)
            wrong = _wrong_digest(part, md5, sha256)
            if wrong is None:
                os.replace(part, target)
                return
            part.unlink()  # what was there before may have been another file's beginning: once more, from its start
            if is_last:
                raise TransferError(
                    f"'{target.name}' is not what the record says: its {wrong}. It was fetched twice and is deleted. "
                    "Tell the record's author."
                )

    def _grow(
        self,
        url: str,
        part: Path,
        size: int,
        token: Secret | None,
        progress: Progress | None,
        cancel: Cancel | None,
    ) -> None:
        etag: list[str] = []

        def length() -> int:
            return part.stat().st_size if part.exists() else 0

        def once() -> None:
            have = length()
            if have >= size:
                if have > size:
                    part.unlink()
                    raise _Again("it was longer than the record says")
                if size:
                    return
            headers = {"Range": f"bytes={have}-"} if have else {}
            if have and etag:
                headers["If-Range"] = etag[0]
            connection, response = self._opened("GET", url, token, headers)
            with connection:
                if response.status == 416:
                    part.unlink(missing_ok=True)
                    raise _Again("the server does not have the rest")
                if response.status not in (200, 206):
                    raise self._failure(response, _read(response), token)
                if response.status == 206:
                    if not (response.headers.get("Content-Range") or "").startswith(f"bytes {have}-"):
                        part.unlink(missing_ok=True)
                        raise _Again("the server sent another part than was asked for")
                else:
                    have = 0
                if (tag := response.headers.get("ETag")) and not tag.startswith("W/"):
                    etag[:] = [tag]
                with open(part, "r+b" if have else "wb") as file:
                    file.seek(have)
                    while block := response.read(BLOCK):
                        if have + len(block) > size:
                            raise TransferError(f"The server sends more than the {size:,} bytes of '{part.stem}'.")
                        file.write(block)
                        have += len(block)
                        if progress is not None:
                            progress(have, size)
                        if cancel is not None and cancel.is_set():
                            raise Cancelled(f"Stopped at {have:,} of {size:,} bytes, which are kept.")
            if have < size:
                raise _Again(f"the connection ended after {have:,} of {size:,} bytes")

        self._tried(f"GET {urlsplit(url).path}", once, True, cancel, grown=length)

    # Tries

    def _tried(
        self,
        what: str,
        once: Callable[[], T],
        repeatable: bool,
        cancel: Cancel | None,
        grown: Callable[[], int] = lambda: 0,
    ) -> T:
        """`once`, tried again while it makes sense. A failure is raised outside of its own traceback, for in that stand
        headers, and answers that may repeat them."""
        tries, best = 0, grown()
        while True:
            failure: BaseException | None = None
            if cancel is not None and cancel.is_set():
                raise Cancelled(f"{what} was stopped.")
            try:
                return once()
            except _Again as again:
                reason, status, after = again.reason, again.status, again.after
            except ssl.SSLCertVerificationError:
                failure = TransferError(f"{what} failed: the server's certificate is not valid, so it may be another.")
            except (ConnectionError, TimeoutError, socket.gaierror, http.client.HTTPException, ssl.SSLError) as error:
                reason, status, after = f"the connection failed ({type(error).__name__})", None, None
            except TransferError as error:
                failure = error
            except OSError as error:
                if error.filename is not None or error.errno in OF_DISKS:
                    raise
                reason, status, after = f"the network failed ({error.strerror or type(error).__name__})", None, None
            except KeyboardInterrupt:
                failure = KeyboardInterrupt()
            if failure is not None:
                raise failure.with_traceback(None)
            if (reached := grown()) > best:  # a file that grows may take as many tries as it needs
                tries, best = 0, reached
            tries += 1
            too_long = after is not None and after > LONGEST_PAUSE
            if tries >= ATTEMPTS or too_long or not (repeatable or status == 429):
                break
            pause = after if after is not None else FIRST_PAUSE * 2 ** (tries - 1) * self._random.uniform(0.5, 1.5)
            _wait(pause, cancel, what)
        ask = f" It asks to wait for {after:,.0f} seconds." if too_long else ""
        raise TransferError(f"{what} failed: {reason}.{ask} Tried {min(tries, ATTEMPTS)} times.", status)

    def _failure(self, response: http.client.HTTPResponse, data: bytes, token: Secret | None) -> Exception:
        """What an answer that is no success means."""
        said = _message(data)
        said = token.scrub(said) if token is not None else said
        if response.status in AGAIN:
            return _Again(f"the server said {response.status} {said}", response.status, _asked_pause(response))
        hints = {
            401: " The token is wrong or expired.",
            403: " The token lacks the scope for it, or the record is public already and cannot be changed.",
            404: " There is no such record; a draft is not public.",
        }
        return TransferError(
            f"The server refused ({response.status}): {said}{hints.get(response.status, '')}", response.status
        )

    # Connections

    def _opened(
        self,
        method: str,
        url: str,
        token: Secret | None,
        headers: Mapping[str, str],
        body: bytes | tuple[Path, int, Progress | None, Cancel | None] | None = None,
    ) -> tuple[_Closing, http.client.HTTPResponse]:
        """A request sent, and its answer as far as the headers; redirects of a GET are followed."""
        first_host = urlsplit(url).netloc
        for _ in range(MOST_REDIRECTS + 1):
            connection = self._connection(url)
            try:
                connection.connect()  # first: its errors must not come from where the headers are
                address = urlsplit(url)
                connection.putrequest(method, (address.path or "/") + (f"?{address.query}" if address.query else ""))
                connection.putheader("User-Agent", "scarches_widgets")
                for name, value in headers.items():
                    connection.putheader(name, value)
                if token is not None and address.netloc == first_host:
                    connection.putheader("Authorization", f"Bearer {token.reveal()}")
                _send(connection, body)
                response = connection.getresponse()
            except BaseException:
                connection.close()
                raise
            location = response.headers.get("Location")
            if method != "GET" or response.status not in (301, 302, 303, 307, 308) or location is None:
                return _Closing(connection), response
            connection.close()
            url = urljoin(url, location)
        raise TransferError(f"The address leads on more than {MOST_REDIRECTS} times.")

    def _connection(self, url: str) -> http.client.HTTPConnection:
        try:
            address = urlsplit(url)
            host, port = address.hostname or "", address.port
        except ValueError:
            raise RefusedAddress(f"'{shown(url)}' is no address.") from None
        if address.username is not None or address.password is not None or not url.isascii():
            raise RefusedAddress(f"'{shown(host)}' is not gone to: its address holds a name or foreign letters.")
        if self.loopback is not None and address.scheme == "http" and address.netloc == self.loopback:
            return http.client.HTTPConnection(host, port, timeout=READ_SECONDS, blocksize=BLOCK)
        if address.scheme != "https" or port not in (None, 443) or host not in self.hosts:
            raise RefusedAddress(
                f"'{shown(address.scheme)}://{shown(address.netloc)}' is not gone to: models come by https from "
                f"{', '.join(sorted(self.hosts))} only."
            )
        proxy = None if urllib.request.proxy_bypass(host) else urllib.request.getproxies().get("https")
        return _through(proxy, host) if proxy else _Checked(host, timeout=READ_SECONDS, blocksize=BLOCK)


class _Closing:
    """A connection that is closed at the end of a `with`."""

    def __init__(self, connection: http.client.HTTPConnection):
        self._connection = connection

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error) -> None:
        self._connection.close()


class _Checked(http.client.HTTPSConnection):
    """Connects to the very address that was looked at, so that a second look-up cannot give another."""

    def connect(self) -> None:
        found = dict.fromkeys(e[4][0] for e in socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM))
        if inner := [address for address in found if not is_public(address)]:
            raise RefusedAddress(f"'{self.host}' leads into this machine's own network ({inner[0]}), so it is refused.")
        problem: OSError = ConnectionError("no address")
        for address in found:
            try:
                plain = socket.create_connection((address, self.port), CONNECT_SECONDS)
                break
            except OSError as error:
                problem = error
        else:
            raise problem
        plain.settimeout(self.timeout)
        self.sock = self._context.wrap_socket(plain, server_hostname=self.host)


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open internet, also if it is written as another kind's."""
    ip = ipaddress.ip_address(address.split("%")[0])
    inner = getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None)
    return ip.is_global and not ip.is_multicast and (inner is None or inner.is_global)


def _through(proxy: str, host: str) -> http.client.HTTPSConnection:
    """By the proxy that this machine is set to use, which looks the host up itself."""
    address = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    connection = http.client.HTTPSConnection(address.hostname, address.port, timeout=READ_SECONDS, blocksize=BLOCK)
    headers = {}
    if address.username is not None:
        user = f"{unquote(address.username)}:{unquote(address.password or '')}".encode()
        headers["Proxy-Authorization"] = f"Basic {base64.b64encode(user).decode()}"
    connection.set_tunnel(host, 443, headers)
    return connection


def _send(
    connection: http.client.HTTPConnection, body: bytes | tuple[Path, int, Progress | None, Cancel | None] | None
) -> None:
    if not isinstance(body, tuple):
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        return
    path, size, progress, cancel = body
    connection.putheader("Content-Length", str(size))
    connection.endheaders()
    sent = 0
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            try:
                connection.send(block)
            except (BrokenPipeError, ConnectionResetError):
                return  # the server has answered already, and says why
            sent += len(block)
            if progress is not None:
                progress(sent, size)
            if cancel is not None and cancel.is_set():
                raise Cancelled(f"Stopped after {sent:,} of {size:,} bytes; nothing of the file was kept there.")


def _read(response: http.client.HTTPResponse, limit: int = LARGEST_ANSWER) -> bytes:
    data, end = bytearray(), time.monotonic() + ANSWER_SECONDS
    while block := response.read1(BLOCK):
        data += block
        if len(data) > limit:
            raise TransferError(f"The answer has more than {limit:,} bytes.")
        if time.monotonic() > end:
            raise _Again(f"the answer takes more than {ANSWER_SECONDS} seconds")
    length = response.headers.get("Content-Length", "")
    if length.isdigit() and len(data) < int(length):
        raise _Again("the answer ended early")
    return bytes(data)


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data) if data.lstrip()[:1] == b"[" else parse_json(data)
    except (ValueError, RecursionError):
        raise _Again("the answer is no JSON") from None


def _message(data: bytes) -> str:
    """What the server said, in a line."""
    try:
        said = parse_json(data)
    except (ValueError, RecursionError):
        is_page = data.lstrip()[:1] == b"<"
        return "with a web page instead of an answer" if is_page else shown(data[:200].decode(errors="replace"))
    errors = said.get("errors")
    fields = [f"{e.get('field')}: {e.get('message')}" for e in errors if isinstance(e, dict)] if errors else []
    return " ".join(shown(text) for text in [said.get("message", ""), *fields[:5]] if text)


def _asked_pause(response: http.client.HTTPResponse) -> float | None:
    """Seconds that the server wants to be left alone."""
    after = response.headers.get("Retry-After")
    if after is not None:
        if after.strip().isdigit():
            return float(after)
        try:
            return max(0.0, email.utils.parsedate_to_datetime(after).timestamp() - time.time())
        except (ValueError, TypeError):
            return None
    reset = response.headers.get("X-RateLimit-Reset", "")
    return max(0.0, float(reset) - time.time()) if response.status == 429 and reset.isdigit() else None


def _wait(seconds: float, cancel: Cancel | None, what: str) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if cancel is not None and cancel.is_set():
            raise Cancelled(f"{what} was stopped.")
        time.sleep(min(left, 0.1))


def _wrong_digest(path: Path, md5: str | None, sha256: str | None) -> str | None:
    """Which checksum differs, in words."""
    for name, wanted in (("md5", md5), ("sha256", sha256)):
        if wanted is not None and digest(path, name) != wanted.lower():
            return f"{'MD5' if name == 'md5' else 'SHA-256'} differs"
    return None


def digest(path: Path, name: str) -> str:
    """A file's checksum, by the name of hashlib."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(name, usedforsecurity=False)).hexdigest()
