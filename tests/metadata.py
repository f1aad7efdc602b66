"""A metadata service on this machine that answers as the three clouds' do, with their refusals."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any
from urllib.parse import urlsplit

TOKEN = "/latest/api/token"
ACTION = "/latest/meta-data/spot/instance-action"
REBALANCE = "/latest/meta-data/events/recommendations/rebalance"
GCP_ID = "/computeMetadata/v1/instance/id"
PREEMPTED = "/computeMetadata/v1/instance/preempted"
INSTANCE = "/metadata/instance"
AZURE_NAME = "/metadata/instance/compute/name"
EVENTS = "/metadata/scheduledevents"


@dataclass
class Metadata:
    """What the service holds; tests write `answers` while it runs."""

    cloud: str
    url: str = ""
    answers: dict[str, str] = field(default_factory=dict)  # path -> body; whatever is not here is 404
    broken: dict[str, int] = field(default_factory=dict)  # path -> status instead
    hanging: set[str] = field(default_factory=set)  # paths that never answer
    asked: list[str] = field(default_factory=list)
    tokens: dict[str, float] = field(default_factory=dict)  # token -> when it ends
    token_seconds: float | None = None  # that a token really lives; None = as asked for
    closing: Event = field(default_factory=Event)

    def times(self, path: str) -> int:
        return self.asked.count(path)

    def answer(self, method: str, target: str, headers: Any) -> tuple[int, str]:
        path = urlsplit(target).path
        self.asked.append(path)
        if path in self.hanging:
            self.closing.wait(60)
        if path in self.broken:
            return self.broken[path], "broken"
        if self.cloud == "aws":
            return self._aws(method, path, headers)
        wanted = {"gcp": ("Metadata-Flavor", "Google", 403), "azure": ("Metadata", "true", 400)}[self.cloud]
        if headers.get(wanted[0]) != wanted[1] or method != "GET":
            return wanted[2], ""
        return self._held(path)

    def _aws(self, method: str, path: str, headers: Any) -> tuple[int, str]:
        if path == TOKEN:
            seconds = headers.get("X-aws-ec2-metadata-token-ttl-seconds")
            if method != "PUT" or seconds is None or not 1 <= int(seconds) <= 21_600:
                return 400, ""
            token = f"token-{len(self.tokens)}"
            self.tokens[token] = time.monotonic() + (int(seconds) if self.token_seconds is None else self.token_seconds)
            return 200, token
        if self.tokens.get(headers.get("X-aws-ec2-metadata-token", ""), 0) <= time.monotonic():
            return 401, ""
        return self._held(path)

    def _held(self, path: str) -> tuple[int, str]:
        return (200, self.answers[path]) if path in self.answers else (404, "")


def nothing_yet(cloud: str) -> dict[str, str]:
    """What a machine's service holds before any notice."""
    return {
        "aws": {},
        "gcp": {GCP_ID: "42", PREEMPTED: "FALSE"},
        "azure": {INSTANCE: "{}", AZURE_NAME: "spot_3", EVENTS: json.dumps({"DocumentIncarnation": 1, "Events": []})},
    }[cloud]


@contextmanager
def metadata_service(cloud: str) -> Iterator[Metadata]:
    """The service of one cloud on a port of its own."""
    held = Metadata(cloud, answers=nothing_yet(cloud))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = held.answer(self.command, self.path, self.headers)
            data = body.encode("latin-1")
            try:
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except BrokenPipeError:  # it would not wait any longer
                self.close_connection = True

        do_PUT = do_GET

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    held.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield held
    finally:
        held.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
