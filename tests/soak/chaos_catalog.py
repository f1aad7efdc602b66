"""Thirty seeded kills over one catalog run of 3,000 downloads, on a cluster of two nodes, once on the local disk and once on S3.

    make soak

Driver, actor or node: whatever the seed says dies (SIGKILL) each time another hundred rows went through the workers, and what does not come
back by itself is started again. The tables must then equal those of a run that nobody disturbed. Takes about half an hour.
"""

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
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pyarrow as pa
import pytest

from ccray.storage import Root, sealed_shards, shard_name
from tests.ray.heads import BIN, MARK, REPOSITORY, Head, head
from tests.servers import free_port, s3_store

ROWS = int(os.environ.get("CCRAY_SOAK_ROWS", "3000"))
KILLS = int(os.environ.get("CCRAY_SOAK_KILLS", "30"))
SEED = int(os.environ.get("CCRAY_SOAK_SEED", "0"))
BLOCK, ACTORS = 16, 2
PATIENCE_SECONDS = 3600
LICENSES = ("CC-BY-2.0", "CC-BY-SA-4.0", "CC0-1.0", "CC-BY-NC-2.0", "CC-BY-ND-2.0")
TABLES = ("listing", "images", "catalog", "rejects")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A table of URLs, and the log of what their server was asked for."""
    folder = tmp_path_factory.mktemp("site")
    port, log = free_port(), folder / "asked.log"
    log.touch()
    server = subprocess.Popen([sys.executable, "-m", "tests.soak.site", str(port), str(log), "0.5"], cwd=REPOSITORY)
    table = folder / "images.jsonl"
    rows = (
        {
            "id": number,
            "url": f"http://127.0.0.1:{port}/{number}.png",
            "license": LICENSES[number % len(LICENSES)],
            "creator": f"painter {number % 7}",
        }
        for number in range(ROWS)
    )
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    yield table, log
    server.kill()
    server.wait()


@dataclass
class Cluster:
    """A head and one more node, which can be killed and brought back."""

    found: Head
    second: "subprocess.Popen[bytes] | None" = None
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.found.folder / "second.log"

    def join(self) -> None:
        words = [f"--address={self.found.address}", "--num-cpus=4", "--object-store-memory=100000000", "--block", f"--temp-dir={self.found.folder}/2"]
        with self.log.open("ab") as log:
            self.second = subprocess.Popen(
                [str(BIN / "ray"), "start", *words], env=self.found.environment, stdout=log, stderr=log, start_new_session=True
            )

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
def cluster(work_log: Path) -> Iterator[Cluster]:
    with head("--num-cpus=4", CCRAY_WORK_LOG=str(work_log), PYTHONPATH=str(REPOSITORY)) as found:
        both = Cluster(found)
        both.join()
        yield both
        assert both.second is not None
        both.second.terminate()
        both.second.wait(timeout=60)


def settings(table: Path) -> list[str]:
    pool = {"rows_per_block": BLOCK, "min_actors": ACTORS, "max_actors": ACTORS}
    return [
        f"catalog.source=table:{table}",
        "catalog.rows_per_shard=512",
        "catalog.download.allowed_hosts=[127.0.0.1]",
        *(f"resources.catalog.{name}={value}" for name, value in pool.items()),
    ]


def start(found: Head, root: str, table: Path, output: Path) -> "subprocess.Popen[bytes]":
    with output.open("ab") as log:
        environment = found.environment | {"RAY_ADDRESS": found.address}
        command = [sys.executable, "-m", "tests.soak.driver", root, *settings(table)]
        return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)


def taken(log: Path) -> Counter[str]:
    """Row -> how often a worker took it in."""
    return Counter(log.read_text().split()[1::2] if log.exists() else [])


def digest(root: Root, directory: str) -> str:
    """sha256 over the rows of a table, sorted."""
    rows = [json.dumps(row, default=_plain, sort_keys=True) for shard in sealed_shards(root, directory) for row in _rows(root, directory, shard)]
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()


def _rows(root: Root, directory: str, shard: int) -> list[dict[str, object]]:
    table: pa.Table = root.read_table(f"{directory}/{shard_name(shard)}")
    return table.to_pylist()


def _plain(value: object) -> str:
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else str(value)


@pytest.fixture(scope="module")
def undisturbed(site: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digest of each table of a run without kills."""
    folder = tmp_path_factory.mktemp("undisturbed")
    began = time.monotonic()
    with cluster(folder / "work.log") as both:
        driver = start(both.found, str(folder / "root"), site[0], folder / "driver.log")
        assert driver.wait(timeout=PATIENCE_SECONDS) == 0, (folder / "driver.log").read_text()[-3000:]
    print(f"undisturbed: {ROWS} rows in {time.monotonic() - began:.0f} s, cluster start included")
    return {name: digest(Root(str(folder / "root")), name) for name in TABLES}


def disturb(both: Cluster, root: str, table: Path, folder: Path, work: Path) -> Counter[str]:
    """Run the catalog to its end, with a kill whenever another share of the rows is done; how often each kind died."""
    seed = random.Random(SEED)
    kinds: Counter[str] = Counter()
    thresholds = [ROWS * (number + 1) // (KILLS + 1) for number in range(KILLS)]
    driver = start(both.found, root, table, folder / "driver.log")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        assert time.monotonic() < deadline, (folder / "driver.log").read_text()[-3000:]
        code = driver.poll()
        if code == 0:
            return kinds
        assert code is None, (folder / "driver.log").read_text()[-3000:]
        if thresholds and len(taken(work)) >= thresholds[0]:
            kind = seed.choice(("driver", "actor", "node"))
            if kind == "actor" and not both.kill_actor(seed):
                continue
            if kind == "node":
                both.kill_node()
            if kind == "driver":
                driver.kill()
                driver.wait()
                driver = start(both.found, root, table, folder / "driver.log")
            thresholds.pop(0)
            kinds[kind] += 1
        time.sleep(0.2)


@pytest.mark.parametrize("store", ["local", "s3"])
def test_thirty_kills(store: str, site: tuple[Path, Path], undisturbed: dict[str, str], tmp_path: Path) -> None:
    table, asked = site
    before = len(asked.read_text().split())
    with contextlib.ExitStack() as stack:
        root = f"{stack.enter_context(s3_store())}/run" if store == "s3" else str(tmp_path / "root")
        work = tmp_path / "work.log"
        began = time.monotonic()
        with cluster(work) as both:
            kinds = disturb(both, root, table, tmp_path, work)
        again = taken(work)
        downloads = len(asked.read_text().split()) - before
        wanted = sum(1 for number in range(ROWS) if LICENSES[number % len(LICENSES)] in LICENSES[:3])
        print(
            f"{store}: {kinds.total()} kills {dict(kinds)} in {time.monotonic() - began:.0f} s; {again.total() - ROWS} of {ROWS} rows done again, "
            f"{downloads - wanted} of {wanted} downloads"
        )
        assert kinds.total() == KILLS
        assert len(again) == ROWS  # none lost
        assert {name: digest(Root(root), name) for name in TABLES} == undisturbed  # none doubled, none other
        at_most = KILLS * ACTORS * BLOCK * 4  # of each actor: the block at work, and those that were queued or not yet on record
        assert again.total() - ROWS <= at_most
