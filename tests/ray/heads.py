"""A Ray head of a test's own, beside any other Ray on the machine: its own ports, its own folder, ended by process id."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FAKE_HEAD_NODE_TYPE
from ray.util.state import list_nodes

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
# A test process that is killed takes its head along (PR_SET_PDEATHSIG, SIGTERM), and raylets end without their head.
DIE_WITH_PARENT = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execv(sys.argv[1], sys.argv[1:])"
MARK = "CCRAY_TEST_HEAD"  # in the environment of every process of one head
START_SECONDS = 180


@dataclass(frozen=True)
class Head:
    """A running head."""

    url: str  # of the dashboard, where jobs are submitted
    address: str  # where nodes join
    folder: Path
    environment: dict[str, str]
    process: "subprocess.Popen[bytes]"

    def submit(self, *command: str, name: str = "job") -> "subprocess.Popen[str]":
        """`ray job submit --working-dir . -- COMMAND` from the repository, as a person types it."""
        words = [str(BIN / "ray"), "job", "submit", "--address", self.url, "--submission-id", f"{name}-{uuid.uuid4().hex[:8]}"]
        return subprocess.Popen(
            [*words, "--working-dir", ".", "--", *command],
            cwd=REPOSITORY,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *command: str, name: str = "job", seconds: float = 300) -> tuple[int, str]:
        """Submit and wait; the exit code of `ray job submit` and all it printed."""
        process = self.submit(*command, name=name)
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            raise AssertionError(f"{' '.join(command)} ran longer than {seconds} s:\n{output[-4000:]}") from None
        return process.returncode, output

    def driver_exit_code(self, name: str) -> int:
        """The exit code of the newest job submitted under `name`."""
        with urllib.request.urlopen(f"{self.url}/api/jobs/", timeout=30) as answer:
            jobs = [job for job in json.load(answer) if (job["submission_id"] or "").startswith(f"{name}-")]
        return int(max(jobs, key=lambda job: job["start_time"])["driver_exit_code"])

    def nodes(self) -> list[Any]:
        """The nodes alive now, with their resources and labels."""
        return list_nodes(address=self.url, filters=[("state", "=", "ALIVE")], timeout=60, raise_on_missing_output=False)


@contextlib.contextmanager
def head(*options: str, **variables: str) -> Iterator[Head]:
    """`ray start --head OPTIONS`, waiting until jobs can be submitted; every process of it is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="ccray-"))  # short, because Ray's sockets lie in it
    mark = uuid.uuid4().hex
    environment = (
        os.environ | {"RAY_AUTH_MODE": "disabled", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0", MARK: mark} | variables
    )
    environment["PATH"] = f"{BIN}{os.pathsep}{environment['PATH']}"
    environment.pop("RAY_ADDRESS", None)
    names = ["port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port"]
    names += ["metrics-export-port", "node-manager-port", "object-manager-port", "ray-client-server-port"]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    words = [f"--{name}={port}" for name, port in ports.items() if not any(option.startswith(f"--{name}=") for option in options)]
    words += [f"--temp-dir={folder}", "--object-store-memory=200000000", "--dashboard-host=127.0.0.1", "--disable-usage-stats", "--block", *options]
    log = (folder / "start.log").open("wb")
    command = [sys.executable, "-c", DIE_WITH_PARENT, str(BIN / "ray"), "start", "--head", *words]
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    port = next((option.partition("=")[2] for option in options if option.startswith("--port=")), ports["port"])
    found = Head(f"http://127.0.0.1:{ports['dashboard-port']}", f"{_node_address()}:{port}", folder, environment, process)
    try:
        _wait_until_ready(found, folder)
        yield found
    finally:
        _end(process, mark, folder)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def joined(found: Head) -> Iterator[None]:
    """A second node, of one CPU, beside the head."""
    words = [f"--address={found.address}", "--num-cpus=1", f"--temp-dir={found.folder}/2", "--object-store-memory=100000000", "--block"]
    with (found.folder / "join.log").open("wb") as log:
        process = subprocess.Popen([str(BIN / "ray"), "start", *words], env=found.environment, stdout=log, stderr=log)
        try:
            for _ in range(START_SECONDS * 2):
                if len(found.nodes()) == 2:
                    break
                with contextlib.suppress(subprocess.TimeoutExpired):
                    raise AssertionError(f"ray start ended with {process.wait(timeout=0.5)}:\n{(found.folder / 'join.log').read_text()[-4000:]}")
            yield
        finally:
            process.terminate()
            process.wait(timeout=60)


@contextlib.contextmanager
def autoscaling_head(node_types: dict[str, Any], idle_seconds: float) -> Iterator[Head]:
    """A head that runs no tasks, and an autoscaler that starts nodes of `node_types` on this machine: real raylets whose GPUs are only counted."""
    (port,) = free_ports(1)
    address = f"{_node_address()}:{port}"
    with tempfile.TemporaryDirectory(prefix="ccray-", ignore_cleanup_errors=True) as folder:
        place = Path(folder) / "autoscaling.json"
        place.write_text(json.dumps(_autoscaling_config(node_types, idle_seconds, address, folder)))
        variables = {
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_DATA_MIN_GAP_BETWEEN_AUTOSCALING_REQUESTS": "2",  # seconds, of ten: a test's work is short
            "PYTHONPATH": str(REPOSITORY),  # where the autoscaler finds the provider
        }
        with head(f"--port={port}", "--num-cpus=0", f"--autoscaling-config={place}", **variables) as found:
            yield found


def _autoscaling_config(node_types: dict[str, Any], idle_seconds: float, address: str, folder: str) -> dict[str, Any]:
    kinds = {name: {**kind, "node_config": {}} for name, kind in node_types.items()}
    kinds[FAKE_HEAD_NODE_TYPE] = {"resources": {"CPU": 0}, "node_config": {}, "min_workers": 0, "max_workers": 0}
    provider = {
        "type": "external",
        "module": "tests.ray.nodes.LocalNodes",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "launch_multiple": True,
        "head_node_id": FAKE_HEAD_NODE_ID,
        "gcs_address": address,
        "folder": folder,
    }
    nothing: dict[str, Any] = {"auth": {}, "docker": {}, "file_mounts": {}, "file_mounts_sync_continuously": False}
    for name in ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray"):
        nothing[f"{name}_commands"] = []
    nothing |= {"cluster_synced_files": [], "rsync_exclude": [], "rsync_filter": []}
    return nothing | {
        "cluster_name": "ccray",
        "max_workers": 8,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": idle_seconds / 60,
        "provider": provider,
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        "available_node_types": kinds,
    }


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _node_address() -> str:
    from ray._private.services import get_node_ip_address

    return get_node_ip_address()


def _wait_until_ready(found: Head, folder: Path) -> None:
    for _ in range(START_SECONDS * 2):
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = found.process.wait(timeout=0.5)
            raise AssertionError(f"ray start ended with {code}:\n{(folder / 'start.log').read_text()[-4000:]}")
        with contextlib.suppress(urllib.error.URLError, TimeoutError, ConnectionError), urllib.request.urlopen(f"{found.url}/api/jobs/", timeout=5):
            return
    raise AssertionError(f"no answer from {found.url} after {START_SECONDS} s:\n{(folder / 'start.log').read_text()[-4000:]}")


def _end(process: "subprocess.Popen[bytes]", mark: str, folder: Path) -> None:
    """End the head, then whatever of it is left: processes that carry its mark or name its folder."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=5)
    for _ in range(3):  # a raylet's children may outlive it for a moment
        left = _of_this_head(mark, folder)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not left:
            break
    process.wait(timeout=20)


def _of_this_head(mark: str, folder: Path) -> list[int]:
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            text = (place / "environ").read_bytes() + (place / "cmdline").read_bytes()
            if (f"{MARK}={mark}".encode() in text or f"{folder}/".encode() in text) and int(place.name) != os.getpid():
                found.append(int(place.name))
    return found
