"""The caption job on a cluster that starts with a head alone: CPU and GPU nodes come as the work asks and leave when it is done.

The node types are those of cluster/aws.yaml, resources and labels as written there but for fewer CPUs; the nodes are real raylets on this
machine, and their GPUs are only counted, so the captioner runs on the CPU. Where every task and actor ran is Ray's own record.

pytest tests/ray/test_autoscaling.py -s     # prints the timeline
"""

import contextlib
import shutil
import subprocess
import time
import timeit
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray.util.state import list_actors, list_tasks

from ccray import recipes, storage
from ccray.config import CaptionConfig
from ccray.interfaces import Subject
from ccray.models.captioners.build import captioner_of
from ccray.storage import Root
from tests.cluster.test_files import aws
from tests.conftest import Corridor
from tests.ray.heads import Head, autoscaling_head

pytestmark = [pytest.mark.ray, pytest.mark.slow]

NODES = 2  # GPU nodes at most
IDLE_SECONDS = 5
CPUS = {"cpu": 6, "caption": 1}  # of a node, at most: a raylet starts as many Python processes
MEMORY_BYTES = 4 * 2**30
LOOK_SECONDS = 0.5
JOB_SECONDS = 240
LEAVE_SECONDS = 90
DECODER, MODEL = "MapBatches(<lambda>)", "MapBatches(InActor)"  # as Ray Data names the stateless step and the pool
BLOCK_SECONDS = 0.8  # for one picture: Ray Data counts a new node up to 20 s late, so the work must last a minute
PROBE = 256
POOL = {"gpus": 1, "min_actors": 1, "initial_actors": 1, "max_actors": NODES, "threads": 1, "rows_per_block": 1}


@dataclass
class Timeline:
    """What was seen when: seconds since the job was submitted, workers by role, model actors alive."""

    began: float = field(default_factory=time.monotonic)
    seen: list[tuple[float, Counter[str], int]] = field(default_factory=list)
    role_of: dict[str, str] = field(default_factory=dict)  # node id -> ccray-role, of nodes gone too

    def look(self, cluster: Head) -> Counter[str]:
        """Note the cluster as it is now, if it has changed."""
        nodes = cluster.nodes()
        self.role_of |= {node.node_id: "head" if node.is_head_node else node.labels["ccray-role"] for node in nodes}
        roles = Counter(self.role_of[node.node_id] for node in nodes if not node.is_head_node)
        actors = len(model_actors(cluster, alive=True))
        if not self.seen or self.seen[-1][1:] != (roles, actors):
            self.seen.append((time.monotonic() - self.began, roles, actors))
        return roles

    def follow(
        self, cluster: Head, process: "subprocess.Popen[Any]", seconds: float, until: Callable[[Counter[str]], bool] = lambda _: False
    ) -> bool:
        """Look until `process` ends or `until` holds; whether either came in time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if until(self.look(cluster)):
                return True
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=LOOK_SECONDS)
                return True
        return False

    def text(self) -> str:
        lines = [f"{seconds:6.1f} | {roles['cpu']:3} | {roles['caption']:4} | {actors:6}" for seconds, roles, actors in self.seen]
        return "\n".join(["     s | cpu | GPUs | actors", *lines])


def node_types() -> dict[str, Any]:
    """The worker node types of cluster/aws.yaml, made small enough for this machine."""
    kinds = {name: dict(kind) for name, kind in aws()["available_node_types"].items() if name != "head"}
    for name, kind in kinds.items():
        kind["resources"] = kind["resources"] | {"CPU": CPUS.get(name, 1), "memory": MEMORY_BYTES}
        kind |= {"idle_timeout_s": IDLE_SECONDS, "max_workers": NODES if name == "caption" else 1}
    return kinds


def settings(captioner: CaptionConfig) -> list[str]:
    """Words of the command: a pool with the labels that a published recipe asks for, and batches wide enough to take their time."""
    published = recipes.commoncanvas_s_c().resources.caption
    labels = {"label_selector": published.label_selector, "task_label_selector": published.task_label_selector}
    selectors = {name: f"{{{', '.join(f'{key}: {value}' for key, value in wanted.items())}}}" for name, wanted in labels.items()}
    words = [f"resources.caption.{name}={value}" for name, value in (POOL | selectors).items()]
    return [*words, f"caption.batch_size={width(captioner)}"]


def width(captioner: CaptionConfig) -> int:
    """The width of batches, to which one picture is padded, that takes BLOCK_SECONDS on one core of this machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    model = captioner_of(captioner.model_copy(update={"batch_size": PROBE}), "cpu")
    seconds = min(timeit.repeat(lambda: model.caption([Subject(np.zeros((32, 32, 3), np.uint8))]), number=1, repeat=3))
    torch.set_num_threads(before)
    return round(PROBE * BLOCK_SECONDS / seconds)


def model_actors(cluster: Head, alive: bool = False) -> list[Any]:
    found = list_actors(address=cluster.url, limit=1000, timeout=60, raise_on_missing_output=False)
    return [actor for actor in found if MODEL in actor.class_name + (actor.name or "") and (not alive or actor.state == "ALIVE")]


def places_of_tasks(cluster: Head, role_of: dict[str, str]) -> dict[str, Counter[str]]:
    """Name of each kind of stateless task -> how many ran on nodes of which role, by Ray's own record."""
    found = list_tasks(address=cluster.url, filters=[("type", "=", "NORMAL_TASK")], limit=10_000, timeout=60, raise_on_missing_output=True)
    places: dict[str, Counter[str]] = {}
    for task in found:
        places.setdefault(task.name, Counter())[role_of.get(task.node_id, "nowhere")] += 1
    return places


def copied(source: Root, folder: Path) -> Root:
    """A root in `folder` with everything before the caption stage."""
    for name in source.names(""):
        if name not in ("captions", "latents", "checkpoints", "evaluation", "published"):
            shutil.copytree(source.path(name), folder / name)
    return Root(str(folder))


def captions_in(root: Root, directory: str) -> list[dict[str, Any]]:
    tables = [root.read_table(f"{directory}/{storage.shard_name(shard)}") for shard in storage.sealed_shards(root, directory)]
    return [row for table in tables for row in table.to_pylist()]


def test_gpu_nodes_come_with_the_work_and_leave_and_never_decode(corridor: Corridor, tmp_path: Path) -> None:
    root = copied(corridor.root, tmp_path)
    chosen = settings(corridor.recipe.caption["shapes-blip2"])
    with autoscaling_head(node_types(), IDLE_SECONDS) as cluster:
        timeline = Timeline()
        words = ["python", "jobs/caption.py", "--recipe", "tiny", "--root", root.uri]
        process = cluster.submit(*words, *chosen, name="caption")
        if not timeline.follow(cluster, process, JOB_SECONDS):
            process.kill()
        output = process.communicate()[0]
        took = time.monotonic() - timeline.began
        assert process.returncode == 0, f"{output}\n{timeline.text()}"
        gone = timeline.follow(cluster, cluster.process, LEAVE_SECONDS, until=lambda roles: not roles)
        places = places_of_tasks(cluster, timeline.role_of)
        homes = Counter(timeline.role_of.get(actor.node_id, "nowhere") for actor in model_actors(cluster))
    print(f"\n{timeline.text()}\njob ended after {took:.1f} s\nactors: {dict(homes)}")
    print("\n".join(f"{name}: {dict(roles)}" for name, roles in places.items()))

    assert gone, timeline.text()
    on_gpus = [roles["caption"] for _, roles, _ in timeline.seen]
    assert (on_gpus[0], max(on_gpus), on_gpus[-1]) == (0, NODES, 0), timeline.text()
    assert max(roles["cpu"] for _, roles, _ in timeline.seen) == 1
    assert not {role for _, roles, _ in timeline.seen for role in roles} & {"train", "serve"}
    assert max(actors for _, _, actors in timeline.seen) == NODES
    assert set(homes) - {"nowhere"} == {"caption"}  # an actor that never started has no node

    before, after = (captions_in(one, storage.caption_stage(corridor.recipe, "shapes-blip2").directory) for one in (corridor.root, root))
    assert places[DECODER] == Counter(cpu=len(before)), "decoding ran elsewhere"
    assert [row | {"mean_logprob": None} for row in after] == [row | {"mean_logprob": None} for row in before]
    assert [row["mean_logprob"] for row in after] == pytest.approx([row["mean_logprob"] for row in before], abs=1e-4)
