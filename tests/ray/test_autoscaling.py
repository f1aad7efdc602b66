"""The caption job on a cluster that starts with a head alone: GPU nodes come when the stage asks and leave when it is done.

The node types are those of cluster/aws.yaml, resources and labels as written there but for fewer CPUs; the nodes are real raylets on this
machine, and their GPUs are only counted, so the captioner runs on the CPU.
"""

import contextlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ccray import storage
from ccray.storage import Root
from tests.cluster.test_files import aws
from tests.conftest import Corridor
from tests.ray.heads import Head, autoscaling_head

pytestmark = [pytest.mark.ray, pytest.mark.slow]

IDLE_SECONDS = 5
CPUS = 6  # of a node, at most: a raylet starts as many Python processes
MEMORY_BYTES = 4 * 2**30
LOOK_SECONDS = 0.5
JOB_SECONDS = 240
LEAVE_SECONDS = 90
GPUS = [
    "resources.caption.gpus=1",
    "resources.caption.label_selector={ccray-role: caption}",
    "resources.caption.task_label_selector={ccray-role: 'in(cpu,caption)'}",
    "resources.caption.min_actors=1",
    "resources.caption.max_actors=1",
    "resources.caption.threads=1",  # as the corridor's own: probabilities are compared bit for bit
]


def node_types() -> dict[str, Any]:
    """The worker node types of cluster/aws.yaml, made small enough for this machine."""
    kinds = {name: dict(kind) for name, kind in aws()["available_node_types"].items() if name != "head"}
    for kind in kinds.values():
        kind["resources"] = kind["resources"] | {"CPU": min(CPUS, kind["resources"]["CPU"]), "memory": MEMORY_BYTES}
        kind |= {"idle_timeout_s": IDLE_SECONDS, "max_workers": 1}
    return kinds


def roles(cluster: Head) -> list[str]:
    """`ccray-role` of every worker node alive."""
    return sorted(node.labels["ccray-role"] for node in cluster.nodes() if not node.is_head_node)


def watch(cluster: Head, process: "subprocess.Popen[Any]", seen: list[list[str]], seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
    """Note each change of the nodes alive until `process` ends or `until` holds; whether either came in time."""
    for _ in range(int(seconds / LOOK_SECONDS)):
        now = roles(cluster)
        if now != seen[-1]:
            seen.append(now)
        if until():
            return True
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=LOOK_SECONDS)
            return True
    return False


def test_gpu_nodes_come_for_the_caption_job_and_leave(corridor: Corridor, tmp_path: Path):
    for name in corridor.root.names(""):
        if name not in ("captions", "latents", "checkpoints", "evaluation", "published"):
            shutil.copytree(corridor.root.path(name), tmp_path / name)
    root = Root(str(tmp_path))
    with autoscaling_head(node_types(), IDLE_SECONDS) as cluster:
        seen = [roles(cluster)]
        process = cluster.submit("python", "jobs/caption.py", "--recipe", "tiny", "--root", root.uri, *GPUS, name="caption")
        if not watch(cluster, process, seen, JOB_SECONDS):
            process.kill()
        output = process.communicate()[0]
        assert process.returncode == 0, output
        assert watch(cluster, cluster.process, seen, LEAVE_SECONDS, until=lambda: not seen[-1]), seen

    on_gpus = [roles_then.count("caption") for roles_then in seen]
    changes = [count for place, count in enumerate(on_gpus) if place == 0 or count != on_gpus[place - 1]]
    assert changes == [0, 1, 0], seen
    assert not {role for roles_then in seen for role in roles_then} & {"train", "serve"}, seen

    stage = storage.stage_of(corridor.recipe, "caption")
    for shard in storage.sealed_shards(corridor.root, stage.directory):
        place = f"{stage.directory}/{storage.shard_name(shard)}"
        assert root.read_table(place).equals(corridor.root.read_table(place))
