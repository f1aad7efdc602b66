"""A hub on this machine: the part of the Hugging Face hub's HTTP interface that huggingface_hub 2.4 uses to create a repository and upload
a folder (create, validate-yaml, tree, preupload, LFS batch and PUT, NDJSON commit). It keeps every byte it is given."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_this_test"
LARGE = re.compile(r"\.(parquet|safetensors|bin)$")
API = re.compile(r"^/api/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)/(?P<verb>preupload|commit|tree|revision)/(?P<revision>[^/]+)$")
BATCH = re.compile(r"^/(?:(?P<kind>datasets)/)?(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch$")


@dataclass
class Repository:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    large: set[str] = field(default_factory=set)
    commits: int = 0


@dataclass
class Hub:
    """What the server holds and was asked."""

    url: str = ""
    large_files: bool = True  # False: every file goes into the commit itself
    refuse_commits: int = 0  # so many commits are answered with `refusal`
    refusal: int = 403
    repositories: dict[str, Repository] = field(default_factory=dict)  # "models/ORG/NAME"
    objects: dict[str, bytes] = field(default_factory=dict)  # sha256 -> bytes
    puts: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def running(**settings: Any) -> Iterator[Hub]:
    """A hub on a free port of this machine."""
    hub = Hub(**settings)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        found = API.match(self._path())
        if found is None or (repository := self._repository(found)) is None:
            return self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        if found["verb"] == "tree":
            return self._answer(200, [_entry(path, data, path in repository.large) for path, data in sorted(repository.files.items())])
        return self._answer(200, {"id": found["name"], "sha": f"{repository.commits:040x}"})

    def do_PUT(self) -> None:
        data = self._body()
        with self.hub.lock:
            self.hub.puts += 1
            self.hub.objects[self._path().rsplit("/", 1)[1]] = data
        self._answer(200, {})

    def do_POST(self) -> None:
        body, path = self._body(), self._path()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer(401, {"error": "Invalid username or password."})
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if found := BATCH.match(path):
            return self._batch(json.loads(body))
        found = API.match(path)
        if found is None or (repository := self._repository(found)) is None:
            return self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        return self._preupload(repository, json.loads(body)) if found["verb"] == "preupload" else self._commit(repository, found, body)

    def _create(self, asked: dict[str, Any]) -> None:
        kind = f"{asked.get('type', 'model')}s"
        name = f"{asked['organization']}/{asked['name']}"
        url = f"{self.hub.url}/{'datasets/' if kind == 'datasets' else ''}{name}"
        with self.hub.lock:
            if f"{kind}/{name}" in self.hub.repositories:
                return self._answer(409, {"error": "You already created this repo", "url": url})
            self.hub.repositories[f"{kind}/{name}"] = Repository(private=asked.get("visibility") == "private" or bool(asked.get("private")))
        return self._answer(200, {"url": url, "name": name})

    def _preupload(self, repository: Repository, asked: dict[str, Any]) -> None:
        files = []
        for one in asked["files"]:
            large = self.hub.large_files and bool(LARGE.search(one["path"]))
            known = repository.files.get(one["path"])
            oid = None if known is None else hashlib.sha256(known).hexdigest() if large else _git(known)
            files.append({"path": one["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid})
        self._answer(200, {"files": files})

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = []
        for one in asked["objects"]:
            actions = {} if one["oid"] in self.hub.objects else {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}"}}}
            objects.append({"oid": one["oid"], "size": one["size"], **actions})
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _commit(self, repository: Repository, found: re.Match[str], body: bytes) -> None:
        with self.hub.lock:
            if self.hub.refuse_commits:
                self.hub.refuse_commits -= 1
                return self._answer(self.hub.refusal, {"error": "You may not write to this namespace"})
            for line in body.decode().splitlines():
                self._apply(repository, json.loads(line))
            repository.commits += 1
        url = f"{self.hub.url}/{found['name']}/commit/{repository.commits:040x}"
        return self._answer(200, {"success": True, "commitOid": f"{repository.commits:040x}", "commitUrl": url})

    def _apply(self, repository: Repository, one: dict[str, Any]) -> None:
        value = one["value"]
        if one["key"] == "file":
            repository.files[value["path"]] = base64.b64decode(value["content"])
        elif one["key"] == "lfsFile":
            data = self.hub.objects[value["oid"]]
            assert hashlib.sha256(data).hexdigest() == value["oid"]
            repository.files[value["path"]] = data
            repository.large.add(value["path"])
        elif one["key"] == "deletedFile":
            del repository.files[value["path"]]

    def _repository(self, found: re.Match[str]) -> Repository | None:
        return self.hub.repositories.get(f"{found['kind']}/{found['name']}")

    def _path(self) -> str:
        return unquote(urlsplit(self.path).path)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _answer(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data)


def _git(data: bytes) -> str:
    """git's id of a blob."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _entry(path: str, data: bytes, large: bool) -> dict[str, Any]:
    lfs = {"lfs": {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}} if large else {}
    return {"type": "file", "path": path, "size": len(data), "oid": _git(data), **lfs}
