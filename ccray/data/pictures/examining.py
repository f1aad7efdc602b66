"""Bytes to a judged picture, whatever the bytes hold: each is decoded in a child process that may die of it."""

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType

from ccray.config import CatalogConfig
from ccray.data.pictures.images import Unusable, limits_of
from ccray.data.pictures.sandbox import ANSWER, READY, REQUEST, Examined, Settings
from ccray.interfaces import Failed
from ccray.rejects import Reject

START_SECONDS = 60.0  # a busy machine, a cold disk
PACKAGE_PARENT = str(Path(__file__).parents[3])
KEPT_ENVIRONMENT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "PATH", "TMPDIR")  # nothing that opens a door
CHUNK = 1 << 20


class _Late(Exception):
    """The child did not answer in time."""


class _Died(Exception):
    """The child is gone."""


class Child:
    """One decoding process and its two pipes. No call waits longer than its deadline (seconds of `time.monotonic`)."""

    def __init__(self, settings: Settings) -> None:
        """Start the process and wait until it is ready.

        Raises:
            Failed: when it does not start, with what it printed.
        """
        with tempfile.TemporaryFile() as complaints:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "ccray.data.pictures.sandbox", settings.text()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                env=_environment(),
                bufsize=0,
            )
            assert self.process.stdin is not None
            assert self.process.stdout is not None
            self._to, self._from = self.process.stdin.fileno(), self.process.stdout.fileno()
            for pipe in (self._to, self._from):
                os.set_blocking(pipe, False)
                _widen(pipe)
            try:
                ready = self.read(1, time.monotonic() + START_SECONDS)
            except (_Late, _Died):
                ready = b""
            if ready != READY:
                self.end()
                complaints.seek(0)
                said = complaints.read().decode(errors="replace").strip()[-1000:]
                raise Failed(f"the decoding process {sys.executable} -m ccray.data.pictures.sandbox did not start: {said or 'no message'}")

    def write(self, data: bytes, deadline: float) -> None:
        """All of `data` into the process."""
        rest = memoryview(data)
        while rest:
            _in_time(deadline)
            try:
                rest = rest[os.write(self._to, rest[:CHUNK]) :]
            except BlockingIOError:
                _wait(self._to, select.POLLOUT, deadline)
            except OSError as error:
                raise _Died from error

    def read(self, size: int, deadline: float) -> bytes:
        """Exactly `size` bytes from the process."""
        parts = []
        while size:
            _in_time(deadline)
            try:
                part = os.read(self._from, min(size, CHUNK))
            except BlockingIOError:
                _wait(self._from, select.POLLIN, deadline)
                continue
            if not part:
                raise _Died
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def alive(self) -> bool:
        return self.process.poll() is None

    def end(self) -> int:
        """Kill it, if it lives; its exit status, negative for a signal."""
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        return self.process.wait()


def _in_time(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise _Late


def _wait(pipe: int, event: int, deadline: float) -> None:
    """Until the pipe is ready; a pipe whose other end is closed is, too."""
    poll = select.poll()
    poll.register(pipe, event)
    poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
    _in_time(deadline)


def _widen(pipe: int) -> None:
    """A whole picture in the pipe at once, where the system has that: fewer turns between the processes."""
    with contextlib.suppress(AttributeError, OSError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, CHUNK)


class Examiner:
    """Owns one decoding process, and replaces it when it dies or is late. One file at a time; callers of several threads take turns."""

    def __init__(self, config: CatalogConfig) -> None:
        self._config = config
        self._child: Child | None = None
        self._turn = threading.Lock()

    def examine(self, data: bytes) -> Examined | Unusable:
        """Decode, judge, hash and reduce one file; whatever it holds, this returns after `max_decode_seconds` and never raises for it.

        Raises:
            Failed: when no decoding process can be started at all.
        """
        if len(data) > self._config.max_bytes:
            return Unusable(Reject.TOO_MANY_BYTES, f"{len(data)} bytes, at most {self._config.max_bytes} are taken")
        with self._turn:
            child = self._living_child()
            try:
                return _asked(child, data, time.monotonic() + self._config.max_decode_seconds)
            except _Late:
                self._end()
                return Unusable(Reject.UNDECODABLE, f"took more than {self._config.max_decode_seconds:g} s")
            except _Died:
                return Unusable(Reject.UNDECODABLE, f"the decoder {_cause(self._end())}")
            except BaseException:  # an interrupt between question and answer: the next answer would be this file's
                self._end()
                raise

    def close(self) -> None:
        """End the process. The next `examine` would start another."""
        with self._turn:
            self._end()

    def __enter__(self) -> "Examiner":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _living_child(self) -> Child:
        if self._child is not None and not self._child.alive():  # ended from outside between two files
            self._end()
        if self._child is None:
            self._child = Child(_settings(self._config))
        return self._child

    def _end(self) -> int:
        child, self._child = self._child, None
        return 0 if child is None else child.end()


def _asked(child: Child, data: bytes, deadline: float) -> Examined | Unusable:
    child.write(REQUEST.pack(len(data)) + data if len(data) < CHUNK else REQUEST.pack(len(data)), deadline)
    if len(data) >= CHUNK:  # not copied
        child.write(data, deadline)
    answer_bytes, image_bytes = ANSWER.unpack(child.read(ANSWER.size, deadline))
    answer = json.loads(child.read(answer_bytes, deadline))
    image = child.read(image_bytes, deadline)
    if "reason" in answer:
        return Unusable(Reject(answer["reason"]), answer["detail"])
    return Examined(image=image or data, **answer)


def _settings(config: CatalogConfig) -> Settings:
    side = None if config.store == "original" else int(config.store.rpartition(":")[2])
    # The kernel ends a child with the thread that started it: only the main thread lives as long as the process.
    parent = os.getpid() if threading.current_thread() is threading.main_thread() else 0
    return Settings(limits_of(config), side, [*config.download.opt_outs], config.max_decode_seconds, parent)


def _environment() -> dict[str, str]:
    """Where Python finds what this process finds, one thread for numpy, and no credentials."""
    kept = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
    path = os.pathsep.join([PACKAGE_PARENT, *(place for place in sys.path if place)])
    return kept | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def _cause(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"died of {signal.Signals(-status).name}"
    except ValueError:
        return f"died of signal {-status}"
