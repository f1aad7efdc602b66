"""A cluster of two nodes whose driver, actors and second node can be killed, and runs that are disturbed by a seed."""

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pyarrow as pa

from ccray.storage import Root, sealed_shards, shard_name
from tests.ray.heads import BIN, MARK, REPOSITORY, Head, head

ROWS = int(os.environ.get("CCRAY_SOAK_ROWS", "3000"))
KILLS = int(os.environ.get("CCRAY_SOAK_KILLS", "30"))
SEED = int(os.environ.get("CCRAY_SOAK_SEED", "0"))
PATIENCE_SECONDS = 3600
LOOK_SECONDS = 0.05


@dataclass
class Cluster:
    """A head and one more node, which can be killed and brought back."""

    found: Head
    options: tuple[str, ...]  # of `ray start` on the second node
    second: "subprocess.Popen[bytes] | None" = None
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.found.folder / "second.log"

    def join(self) -> None:
        words = [f"--address={self.found.address}", *self.options, "--object-store-memory=100000000", "--block", f"--temp-dir={self.found.folder}/2"]
        with self.log.open("ab") as log:
            self.second = subprocess.Popen(
                [str(BIN / "ray"), "start", *words], env=self.found.environment, stdout=log, stderr=log, start_new_session=True
            )

    def keep(self) -> None:
        """Another node for one that did not come up, as happens on a busy machine."""
        if self.second is not None and self.second.poll() is not None:
            self.join()

    def kill_node(self) -> None:
        """The raylet of the second node and all below it, at one blow; then another node joins."""
        assert self.second is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            below = psutil.Process(self.second.pid).children(recursive=True)
            for process in [psutil.Process(self.second.pid), *below]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self.second.wait()
        self.join()

    def kill_actor(self, seed: random.Random) -> bool:
        """One process that holds a worker; False when there is none at the moment."""
        actors = sorted(pid for pid, title in self._processes() if "MapWorker" in title)
        if actors:
            with contextlib.suppress(ProcessLookupError):
                os.kill(seed.choice(actors), signal.SIGKILL)
        return bool(actors)

    def _processes(self) -> Iterator[tuple[int, str]]:
        mark = f"{MARK}={self.found.environment[MARK]}".encode()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                title = " ".join(process.cmdline())
                if title.startswith("ray::") and mark in Path(f"/proc/{process.pid}/environ").read_bytes():
                    yield process.pid, title


@contextlib.contextmanager
def cluster(work_log: Path, head_options: Sequence[str], second_options: Sequence[str]) -> Iterator[Cluster]:
    """Both nodes, whose workers note their rows in `work_log`."""
    with head(*head_options, CCRAY_WORK_LOG=str(work_log), PYTHONPATH=str(REPOSITORY)) as found:
        both = Cluster(found, tuple(second_options))
        both.join()
        yield both
        assert both.second is not None
        both.second.terminate()
        both.second.wait(timeout=60)


@dataclass(frozen=True)
class Run:
    """One stage on one root, on a cluster, and where it leaves its words."""

    stage: str
    root: str
    settings: tuple[str, ...]
    folder: Path

    @property
    def output(self) -> Path:
        return self.folder / "driver.log"

    def start(self, found: Head) -> "subprocess.Popen[bytes]":
        with self.output.open("ab") as log:
            environment = found.environment | {"RAY_ADDRESS": found.address}
            command = [sys.executable, "-m", "tests.soak.driver", self.stage, self.root, *self.settings]
            return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)

    def words(self) -> str:
        return self.output.read_text()[-3000:]

    def undisturbed(self, found: Head) -> None:
        assert self.start(found).wait(timeout=PATIENCE_SECONDS) == 0, self.words()


def disturb(both: Cluster, run: Run, work: Path, worker: str) -> Counter[str]:
    """Run a stage to its end, with a kill whenever another share of the rows was taken in by `worker`; how often each kind died."""
    seed = random.Random(SEED)
    kinds: Counter[str] = Counter()
    thresholds = [ROWS * (number + 1) // (KILLS + 1) for number in range(KILLS)]
    driver = run.start(both.found)
    began = time.monotonic()
    deadline = began + PATIENCE_SECONDS
    while True:
        assert time.monotonic() < deadline, run.words()
        code = driver.poll()
        if code == 0:
            return kinds
        assert code is None, run.words()
        if thresholds and len(taken(work, worker)) >= thresholds[0]:
            kind = seed.choice(("driver", "actor", "node"))
            if kind == "actor" and not both.kill_actor(seed):
                continue
            if kind == "node":
                both.kill_node()
            if kind == "driver":
                driver.kill()
                driver.wait()
                driver = run.start(both.found)
            thresholds.pop(0)
            kinds[kind] += 1
            again = taken(work, worker)
            print(
                f"{time.monotonic() - began:5.0f} s: {kind} killed; {len(again)} rows taken in, {again.total() - len(again)} of them again",
                flush=True,
            )
        both.keep()
        time.sleep(LOOK_SECONDS)


def taken(log: Path, worker: str) -> Counter[str]:
    """Row -> how often a worker of that name took it in."""
    lines = (line.split() for line in (log.read_text().splitlines() if log.exists() else []))
    return Counter(line[1] for line in lines if line[0] == worker)


def digest(root: Root, directory: str) -> str:
    """sha256 over the rows of a table, sorted."""
    rows = [json.dumps(row, default=_plain, sort_keys=True) for shard in sealed_shards(root, directory) for row in _rows(root, directory, shard)]
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()


def _rows(root: Root, directory: str, shard: int) -> list[dict[str, object]]:
    table: pa.Table = root.read_table(f"{directory}/{shard_name(shard)}")
    return table.to_pylist()


def _plain(value: object) -> str:
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else str(value)
