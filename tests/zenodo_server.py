"""A server with Zenodo's REST interface, on loopback, that can be told to misbehave."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Fault:
    """What happens to the next request whose "METHOD /path" matches.

    Attributes
    ----------
    status
        Answer with this error; None: as usual.
    headers
        Of that answer.
    page
        Whether it is a web page, not JSON.
    after_work
        Whether the request is carried out before, so that only the answer is lost.
    cut
        Close the connection after so many bytes of the answer's body.
    wrong_md5, redirect, seconds
        Tell another checksum; send elsewhere; wait before the answer.
    """

    match: str
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    page: bool = False
    after_work: bool = False
    cut: int | None = None
    wrong_md5: bool = False
    redirect: str | None = None
    seconds: float = 0.0


class FakeZenodo:
    """Its state: drafts by id, the files of each, what was asked, and the faults to come."""

    token = "CANARY-c3d1f0-not-a-word"

    def __init__(self):
        self.drafts: dict[str, dict] = {}
        self.content: dict[str, dict[str, bytes]] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.faults: deque[Fault] = deque()
        self.supports_ranges = True
        self.lock = threading.Lock()
        self.next_id = 1000
        self.address = ""

    def fail(self, match: str, times: int = 1, **how) -> None:
        self.faults.extend(Fault(match, **how) for _ in range(times))

    def fault_of(self, request: str) -> Fault | None:
        for fault in self.faults:
            if re.search(fault.match, request):
                self.faults.remove(fault)
                return fault
        return None

    def add(self, identifier: str | None = None, submitted: bool = False, **metadata) -> str:
        if identifier is None:
            identifier, self.next_id = str(self.next_id), self.next_id + 1
        self.drafts[identifier] = {"id": identifier, "submitted": submitted, "metadata": metadata}
        self.content[identifier] = {}
        return identifier

    def files(self, identifier: str, wrong_md5: bool = False) -> list[dict]:
        def md5(data: bytes) -> str:
            return "0" * 32 if wrong_md5 else hashlib.md5(data).hexdigest()

        return [
            {"key": name, "filename": name, "size": len(data), "checksum": f"md5:{md5(data)}"}
            for name, data in self.content[identifier].items()
        ]

    def shown(self, identifier: str, wrong_md5: bool = False) -> dict:
        links = {"bucket": f"{self.address}/api/files/{identifier}", "html": f"{self.address}/deposit/{identifier}"}
        return {**self.drafts[identifier], "files": self.files(identifier, wrong_md5), "links": links}

    def count(self, match: str) -> int:
        return sum(bool(re.search(match, f"{method} {path}")) for method, path, _ in self.requests)


@contextmanager
def running():
    """A fake Zenodo that answers until the block ends."""
    zenodo = FakeZenodo()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"zenodo": zenodo}))
    server.daemon_threads = True
    zenodo.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield zenodo
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    zenodo: FakeZenodo
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def handle_any(self):
        zenodo, request = self.zenodo, f"{self.command} {self.path}"
        with zenodo.lock:
            zenodo.requests.append((self.command, self.path, dict(self.headers)))
            self.fault = zenodo.fault_of(request) or Fault("")
        self.close_connection = True
        time.sleep(self.fault.seconds)
        if self.fault.redirect:
            return self.answer(302, b"", {"Location": self.fault.redirect})
        if self.fault.status and not self.fault.after_work:
            return self.refuse()
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        with zenodo.lock:
            status, content, headers = self.carried_out(urlsplit(self.path), body)
        if self.fault.status:
            return self.refuse()
        if not isinstance(content, bytes):
            content = b"" if content is None else json.dumps(content).encode()
        self.answer(status, content, headers)

    do_GET = do_POST = do_PUT = do_DELETE = handle_any

    def refuse(self):
        body = b"<html><body>Bad gateway</body></html>"
        if not self.fault.page:
            echoed = f"this fails, {self.headers.get('Authorization')}"  # a careless server
            body = json.dumps({"status": self.fault.status, "message": echoed}).encode()
        self.answer(self.fault.status, body, self.fault.headers)

    def answer(self, status: int, body: bytes, headers: dict | None = None):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "Connection": "close", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body if self.fault.cut is None else body[: self.fault.cut])

    def carried_out(self, address, body: bytes) -> tuple[int, object, dict]:
        path, asked = unquote(address.path), parse_qs(address.query)
        error = {"message": "not found"}
        if found := re.fullmatch(r"/api/records/([^/]+)(?:/files/([^/]+)/content)?", path):
            identifier, name = found[1], found[2]
            if not self.zenodo.drafts.get(identifier, {}).get("submitted"):
                return 404, error, {}
            if name is None:
                return 200, self.zenodo.shown(identifier, self.fault.wrong_md5), {}
            return self.content_of(self.zenodo.content[identifier][name])
        if path == "/api/records":
            word = asked.get("q", [""])[0].casefold()
            hits = [d for d in self.zenodo.drafts.values() if d["submitted"] and word in str(d["metadata"]).casefold()]
            hits = [self.zenodo.shown(draft["id"]) for draft in self.page(hits, asked, 10)]
            return 200, {"hits": {"hits": hits, "total": len(hits)}}, {}
        if self.headers.get("Authorization") != f"Bearer {self.zenodo.token}":
            return 401, {"message": "who are you?"}, {}
        return self.of_owner(path, asked, body)

    def of_owner(self, path: str, asked: dict, body: bytes) -> tuple[int, object, dict]:
        zenodo = self.zenodo
        if path == "/api/deposit/depositions":
            if self.command == "POST":
                return 201, zenodo.shown(zenodo.add(**json.loads(body)["metadata"])), {}
            drafts = self.page(list(zenodo.drafts)[::-1], asked, 10)
            return 200, [zenodo.shown(identifier) for identifier in drafts], {}
        if found := re.fullmatch(r"/api/files/([^/]+)/([^/]+)", path):
            files, name = zenodo.content[found[1]], found[2]
            if zenodo.drafts[found[1]]["submitted"]:
                return 403, {"message": "published"}, {}
            if self.command == "DELETE":
                return (204, None, {}) if files.pop(name, None) is not None else (404, {"message": "gone"}, {})
            files[name] = body
            checksum = hashlib.md5(body).hexdigest() if not self.fault.wrong_md5 else "0" * 32
            return 201, {"key": name, "size": len(body), "checksum": f"md5:{checksum}"}, {}
        if found := re.fullmatch(r"/api/deposit/depositions/([^/]+)(/actions/publish)?", path):
            identifier = found[1]
            if identifier not in zenodo.drafts:
                return 404, {"message": "no such draft"}, {}
            draft = zenodo.drafts[identifier]
            if found[2]:
                missing = [what for what in ("title", "creators") if not draft["metadata"].get(what)]
                if missing or not zenodo.content[identifier]:
                    errors = [{"field": f"metadata.{what}", "message": "is required"} for what in missing]
                    return 400, {"message": "Validation error", "errors": errors}, {}
                draft["submitted"] = True
                return 202, zenodo.shown(identifier), {}
            if self.command == "PUT":
                draft["metadata"] = json.loads(body)["metadata"]
            if self.command == "DELETE":
                del zenodo.drafts[identifier]
                return 204, None, {}
            return 200, zenodo.shown(identifier), {}
        return 404, {"message": "no such address"}, {}

    def content_of(self, data: bytes) -> tuple[int, bytes, dict]:
        etag = f'"{hashlib.md5(data).hexdigest()}"'
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and self.zenodo.supports_ranges and self.headers.get("If-Range", etag) == etag:
            start = int(wanted[1])
            if start >= len(data):
                return 416, b"", {}
            return 206, data[start:], {"ETag": etag, "Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        return 200, data, {"ETag": etag}

    @staticmethod
    def page(items: list, asked: dict, default: int) -> list:
        size, page = int(asked.get("size", [default])[0]), int(asked.get("page", [1])[0])
        return items[(page - 1) * size : page * size]
