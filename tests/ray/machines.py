"""Training on machines that come and go: a head without cores for the driver, and nodes of one core, each of which holds one rank."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from ray._raylet import GcsClient
from ray.core.generated import autoscaler_pb2

from ccray.storage import Root
from ccray.training.tracking import MEASURED
from tests.ray.heads import BIN, REPOSITORY, Head, head

PATIENCE_SECONDS = 600
LOOK_SECONDS = 0.05
RANK = "RayTrainWorker"


@dataclass
class Machines:
    """A head, and the nodes that were started beside it and not killed."""

    found: Head
    nodes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    started: int = 0

    def join(self, count: int = 1) -> None:
        """More nodes; returns at once."""
        for _ in range(count):
            self.started += 1
            name = f"n{self.started}"
            words = [f"--address={self.found.address}", "--num-cpus=1", f"--labels=ccray-node={name}", "--object-store-memory=100000000"]
            words += ["--block", f"--temp-dir={self.found.folder}/{name}"]
            with (self.found.folder / f"{name}.log").open("wb") as log:
                environment = self.found.environment
                self.nodes[name] = subprocess.Popen([str(BIN / "ray"), "start", *words], env=environment, stdout=log, stderr=log)

    def await_alive(self, count: int) -> None:
        """Until just so many nodes are alive, the head among them; one that did not come up, as happens on a busy machine, is replaced."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(self.found.nodes()) != count:
            assert time.monotonic() < deadline
            for name in [name for name, process in self.nodes.items() if process.poll() is not None]:
                del self.nodes[name]
                self.join()
            time.sleep(0.5)

    def keep(self, count: int) -> None:
        """Just so many nodes beside the head."""
        for name in sorted(self.nodes)[count:]:
            self.kill_node(name)
        self.join(count - len(self.nodes))
        self.await_alive(count + 1)

    def ranks(self) -> dict[str, int]:
        """Node -> process of the rank that it holds."""
        held = {}
        for name, process in self.nodes.items():
            with contextlib.suppress(psutil.Error):
                for child in psutil.Process(process.pid).children(recursive=True):
                    with contextlib.suppress(psutil.Error):
                        if RANK in " ".join(child.cmdline()):
                            held[name] = child.pid
        return held

    def kill_node(self, name: str) -> None:
        """All processes of a node at one blow."""
        process = self.nodes.pop(name)
        with contextlib.suppress(psutil.NoSuchProcess):
            for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
        process.wait()

    def drain(self, name: str, seconds: float) -> None:
        """Announce that a node goes away after so long."""
        (node,) = [one for one in self.found.nodes() if one.labels.get("ccray-node") == name]
        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        accepted, refusal = GcsClient(address=self.found.address).drain_node(node.node_id, reason, "a test", round((time.time() + seconds) * 1000))
        assert accepted, refusal


@contextlib.contextmanager
def machines(count: int) -> Iterator[Machines]:
    """`count` nodes of one core beside a head of none."""
    variables = {"PYTHONPATH": str(REPOSITORY), "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5", "RAY_health_check_period_ms": "1000"}
    with head("--num-cpus=0", **variables) as found:
        both = Machines(found)
        both.join(count)
        both.await_alive(count + 1)
        try:
            yield both
        finally:
            for name in list(both.nodes):
                both.kill_node(name)


@dataclass(frozen=True)
class Restart:
    """What was seen of a run until its ranks were started anew."""

    last: int  # step that its metrics came to
    checkpoints: set[int]  # newest ones, as they followed each other

    @property
    def redone(self) -> int:
        return self.last - max(self.checkpoints)


@dataclass
class Training:
    """One run and its driver, looked at from outside."""

    machines: Machines
    root: Root
    settings: tuple[str, ...]
    name: str
    driver: "subprocess.Popen[bytes] | None" = None

    def start(self) -> "Training":
        found = self.machines.found
        command = [sys.executable, "-m", "tests.soak.driver", "train", self.root.uri, *self.settings, f"train.name={self.name}"]
        with self.log.open("ab") as log:
            environment = found.environment | {"RAY_ADDRESS": found.address}
            self.driver = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)
        return self

    @property
    def log(self) -> Path:
        return self.machines.found.folder / f"{self.name}.log"

    def end(self) -> None:
        """Wait until the run is finished."""
        assert self.driver is not None
        assert self.driver.wait(timeout=PATIENCE_SECONDS) == 0, self.words()

    def words(self) -> str:
        return self.log.read_text()[-4000:]

    def metrics(self) -> list[dict[str, float]]:
        """Lines of metrics, without what a clock says."""
        path = f"checkpoints/{self.name}/metrics.jsonl"
        lines = [json.loads(line) for line in self.root.read(path).splitlines()] if self.root.exists(path) else []
        return [{key: value for key, value in line.items() if key not in MEASURED} for line in lines]

    def step(self) -> int:
        """Of the last line of metrics."""
        return int(lines[-1]["step"]) if (lines := self.metrics()) else 0

    def checkpoint(self) -> int:
        """The step of the newest checkpoint."""
        path = f"checkpoints/{self.name}/latest.json"
        return int(self.root.read_json(path)["checkpoint"].removeprefix("step-")) if self.root.exists(path) else 0

    def until(self, step: int) -> None:
        """Until the metrics have come to `step`; a disk offers no event."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.step() < step:
            assert self.driver is not None
            assert self.driver.poll() is None, self.words()
            assert time.monotonic() < deadline, self.words()
            time.sleep(LOOK_SECONDS)

    def again(self, before: dict[str, int]) -> "Restart":
        """Wait until other processes than `before` are the ranks; how far the run was until then."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        last, checkpoints = 0, set()
        while not (now := set(self.machines.ranks().values())) or now & set(before.values()):
            assert self.driver is not None
            assert self.driver.poll() is None, self.words()
            assert time.monotonic() < deadline, self.words()
            last = max(last, self.step())
            checkpoints.add(self.checkpoint())
            time.sleep(LOOK_SECONDS)
        checkpoints.add(self.checkpoint())
        return Restart(max(last, self.step()), checkpoints)

    def kill_driver(self) -> None:
        """SIGKILL, and the same command again."""
        assert self.driver is not None
        self.driver.kill()
        self.driver.wait()
        self.start()

    def kill_rank(self, node: str) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.machines.ranks()[node], signal.SIGKILL)

    def weights(self) -> bytes:
        """The file of the finished model."""
        return self.root.read(f"checkpoints/{self.name}/model/unet/diffusion_pytorch_model.safetensors")


def same(one: Training, other: Training) -> None:
    """Losses, weights and record, bit for bit."""
    assert one.metrics() == other.metrics()
    seen = [run.root.read_table(f"checkpoints/{run.name}/seen.parquet") for run in (one, other)]
    assert seen[0] == seen[1]
    assert one.weights() == other.weights()
