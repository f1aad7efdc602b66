import contextlib
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import boto3
import pytest

from ccray.interfaces import Refused
from ccray.models.fetching import cache, fetched
from tests.servers import environment, s3_store

ROOT = Path(__file__).parent.parent.parent
PROGRAM = """
import sys
from ccray.interfaces import Refused
from ccray.models.fetching import fetched
try:
    print(fetched(*sys.argv[1:]))
except Refused as refused:
    sys.exit(f"Refused: {refused}")
"""
WEIGHTS = os.urandom(3_000_000)
FILES = {
    "config.json": b"{}",
    "model-00001-of-00002.safetensors": WEIGHTS,
    "model-00002-of-00002.safetensors": WEIGHTS[::-1],
    "consolidated.safetensors": WEIGHTS,
    "pytorch_model.bin": WEIGHTS,
    "training_args.pkl": b"pickle",
    "modeling_own.py": b"print('code')",
    "tokenizer.model": b"pieces",
    "chat_template.jinja": b"{{ messages }}",
    "README.md": b"---\nlicense: mit\n---\n",
    "vae/config.json": b'{"part": 1}',
    "vae/diffusion.safetensors": b"part",
}
TAKEN = {
    "config.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "tokenizer.model",
    "chat_template.jinja",
    "README.md",
    "vae/config.json",
    "vae/diffusion.safetensors",
}


@dataclass
class Hub:
    """The part of the hub's interface that downloads, and what was asked of it."""

    files: dict[str, bytes]
    url: str = ""
    sent: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def commit(self) -> str:
        return hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/models/org/model/revision/"):
            return self._json({"id": "org/model", "sha": self.hub.commit})
        if path.startswith("/api/models/org/model/tree/"):
            return self._json([{"type": "file", "path": name, "size": len(data), "oid": _oid(data)} for name, data in self.hub.files.items()])
        name = path.removeprefix(f"/org/model/resolve/{self.hub.commit}/")
        if name not in self.hub.files:
            return self._answer(404, b"{}", {"X-Error-Code": "EntryNotFound" if path.startswith("/org/model/") else "RepoNotFound"})
        data = self.hub.files[name]
        if self.command == "GET":
            with self.hub.lock:
                self.hub.sent[name] += 1
        return self._answer(200, data, {"ETag": f'"{_oid(data)}"', "X-Repo-Commit": self.hub.commit})

    def _json(self, value: object) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(ConnectionError):
                self.wfile.write(data)


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub(dict(FILES))
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield hub
    server.shutdown()
    server.server_close()


def processes(count: int, names: dict[str, str], *words: str) -> list[subprocess.CompletedProcess[str]]:
    """As many at once, each fetching the same."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **names}
    pipe = subprocess.PIPE
    started = [subprocess.Popen([sys.executable, "-c", PROGRAM, *words], env=environment, stdout=pipe, stderr=pipe, text=True) for _ in range(count)]
    ended = []
    for process in started:
        out, err = process.communicate(timeout=120)
        ended.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    return ended


def files_below(folder: str | Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}


def online(hub: Hub, home: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_TOKEN": ""}


def test_of_four_processes_one_transfers_each_file_of_a_hub_name(hub: Hub, tmp_path: Path) -> None:
    ended = processes(4, online(hub, tmp_path), "org/model")
    assert [one.returncode for one in ended] == [0] * 4, ended[0].stderr
    folders = {one.stdout.strip() for one in ended}
    assert len(folders) == 1
    folder = Path(folders.pop())
    assert files_below(folder) == TAKEN
    assert (folder / "model-00002-of-00002.safetensors").read_bytes() == WEIGHTS[::-1]
    assert hub.sent == dict.fromkeys(TAKEN, 1)
    offline = online(hub, tmp_path) | {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    assert processes(1, offline, "org/model")[0].stdout.strip() == str(folder)


def test_a_new_commit_transfers_only_what_changed(hub: Hub, tmp_path: Path) -> None:
    processes(1, online(hub, tmp_path), "org/model")
    hub.files["config.json"] = b'{"new": 1}'
    hub.sent.clear()
    folder = processes(1, online(hub, tmp_path), "org/model")[0].stdout.strip()
    assert hub.sent == {"config.json": 1}
    assert (Path(folder) / "config.json").read_bytes() == b'{"new": 1}'


@pytest.mark.parametrize("words", [("org/model", "vae"), ("org/model/vae",)], ids=["argument", "in the name"])
def test_a_part_of_a_hub_name_is_fetched_alone(hub: Hub, tmp_path: Path, words: tuple[str, ...]) -> None:
    ended = processes(1, online(hub, tmp_path), *words)[0]
    assert files_below(ended.stdout.strip()) == {"config.json", "diffusion.safetensors"}
    assert set(hub.sent) == {"vae/config.json", "vae/diffusion.safetensors", "README.md"}


def test_a_hub_name_that_cannot_be_had_is_refused(hub: Hub, tmp_path: Path) -> None:
    absent, unreachable = online(hub, tmp_path), online(hub, tmp_path) | {"HF_ENDPOINT": "http://127.0.0.1:9"}
    offline = absent | {"HF_HUB_OFFLINE": "1"}
    for names, word in ((absent, "org/other"), (unreachable, "org/model"), (offline, "org/model")):
        ended = processes(1, names, word)[0]
        assert ended.returncode == 1
        assert ended.stderr.startswith(f"Refused: the model {word} cannot be loaded"), ended.stderr


@pytest.fixture
def store() -> Iterator[str]:
    with s3_store() as uri:
        client = boto3.client("s3")
        for name, data in FILES.items():
            client.put_object(Bucket="bucket", Key=f"models/tiny/{name}", Body=data)
        yield f"{uri}/models/tiny"


def test_of_four_processes_one_copies_a_store(store: str, tmp_path: Path) -> None:
    ended = processes(4, {"CCRAY_CACHE": str(tmp_path)}, store)
    assert [one.returncode for one in ended] == [0] * 4, ended[0].stderr
    folders = {one.stdout.strip() for one in ended}
    assert len(folders) == 1
    folder = Path(folders.pop())
    assert files_below(folder) == TAKEN
    assert (folder / "model-00001-of-00002.safetensors").read_bytes() == WEIGHTS
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_store_is_copied_again_only_when_its_listing_changed(store: str, tmp_path: Path) -> None:
    with environment({"CCRAY_CACHE": str(tmp_path)}):
        folder = fetched(store)
        before = {path: path.stat().st_ino for path in Path(folder).iterdir()}
        (Path(folder).parent / ".draft-left-by-a-killed-process").mkdir()
        assert fetched(f"{store}/") == folder
        assert {path: path.stat().st_ino for path in Path(folder).iterdir()} == before
        versions = [folder]
        for text in (b'{"a": 1}', b'{"a": 22}', b'{"a": 333}'):
            boto3.client("s3").put_object(Bucket="bucket", Key="models/tiny/config.json", Body=text)
            versions.append(fetched(store))
            assert (Path(versions[-1]) / "config.json").read_bytes() == text
        assert len(set(versions)) == 4
        assert {str(path) for path in Path(folder).parent.iterdir()} == set(versions[-2:])


def test_a_part_of_a_store(store: str, tmp_path: Path) -> None:
    with environment({"CCRAY_CACHE": str(tmp_path)}):
        assert files_below(fetched(store, "vae")) == {"config.json", "diffusion.safetensors"}
        with pytest.raises(Refused, match="has no part 'unet': expected one of vae"):
            fetched(store, "unet")


def test_a_store_without_the_model_is_refused(store: str, tmp_path: Path) -> None:
    with environment({"CCRAY_CACHE": str(tmp_path)}):
        with pytest.raises(Refused, match=f"{store}/absent"):
            fetched(f"{store}/absent")
        with environment({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}), pytest.raises(Refused, match=f"{store} cannot be loaded"):
            fetched(store)


def test_folders_and_shipped_models_stay_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    assert fetched(str(tmp_path)) == str(tmp_path)
    assert fetched(str(tmp_path), "unet") == str(tmp_path / "unet")
    assert (Path(fetched("shapes:captioner")) / "config.json").is_file()
    for absent in (f"{tmp_path}/none", "shapes:none", "none", "~/no/such/folder"):
        with pytest.raises(Refused, match=absent):
            fetched(absent)


def test_the_cache_is_where_the_environment_says(tmp_path: Path) -> None:
    with environment({"CCRAY_CACHE": str(tmp_path)}):
        assert cache() == tmp_path
    with environment({"CCRAY_CACHE": "", "HOME": str(tmp_path)}):
        assert cache() == tmp_path / ".cache/ccray/models"
