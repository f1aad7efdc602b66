"""Who works on a directory: a file with an owner and a heartbeat."""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from ccray.interfaces import Refused

LEASE = "lease.json"
HEARTBEAT_SECONDS = 15
LEASE_SECONDS = 60  # a lease whose heart has not beaten for so long is void


class Files(Protocol):
    """What a lease needs of a store (`storage.Root`)."""

    def path(self, relative: str = "") -> str: ...

    def create(self, relative: str, data: bytes) -> bool: ...

    def write(self, relative: str, data: bytes) -> None: ...

    def read_json(self, relative: str) -> dict[str, Any]: ...

    def delete(self, relative: str) -> None: ...


@contextmanager
def lease(root: Files, directory: str) -> Iterator[None]:
    """Keep other runs off a directory: a file created conditionally, with an owner and a heartbeat.

    Raises:
        Refused: while another run that is alive holds it.
    """
    path = f"{directory}/{LEASE}"
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "run": uuid.uuid4().hex}
    if not root.create(path, _beat(owner)):
        _break_stale(root, path)
        if not root.create(path, _beat(owner)):
            raise Refused(f"{root.path(directory)} was taken by another run a moment ago: wait for it to end")
    stop = threading.Event()
    heart = threading.Thread(target=_heartbeat, args=(root, path, owner, stop), daemon=True)
    heart.start()
    try:
        yield
    finally:
        stop.set()
        heart.join()
        root.delete(path)


def _beat(owner: dict[str, Any]) -> bytes:
    return json.dumps(owner | {"time": time.time()}).encode()


def _heartbeat(root: Files, path: str, owner: dict[str, Any], stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_SECONDS):
        root.write(path, _beat(owner))


def _break_stale(root: Files, path: str) -> None:
    try:
        holder = root.read_json(path)
    except (FileNotFoundError, ValueError):
        return
    if _is_stale(holder):
        root.delete(path)
        return
    raise Refused(
        f"{root.path(path)} is held by process {holder['pid']} on {holder['host']} (last sign of life {time.time() - holder['time']:.0f} s ago): "
        f"wait for it to end, or stop it; {LEASE_SECONDS} s after its last sign of life the lease is void"
    )


def _is_stale(holder: dict[str, Any]) -> bool:
    here = holder["host"] == socket.gethostname()
    return (here and not _alive(holder["pid"])) or time.time() - holder["time"] > LEASE_SECONDS


def is_held(root: Files, directory: str) -> bool:
    """Whether a run that is alive works on a directory."""
    try:
        return not _is_stale(root.read_json(f"{directory}/{LEASE}"))
    except (FileNotFoundError, ValueError):
        return False


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
