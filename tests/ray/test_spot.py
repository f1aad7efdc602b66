"""The spot watcher on a local cluster of two nodes: the notice of one machine drains that node, and what starts afterwards starts on the other.

pytest tests/ray/test_spot.py
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests import metadata
from tests.metadata import metadata_service
from tests.ray.heads import REPOSITORY, Head, head, joined

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SECONDS = 60
# One program at a time joins the cluster as a driver; each prints one JSON value.
JOIN = "import collections, json, sys, ray\nray.init('auto', namespace='spot', log_to_driver=False)\n"
# Work that is under way on the node of sys.argv[1], and the nodes of three tasks of one CPU each that run at the same time: no node has three.
BEGIN = """
import asyncio
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On
class Work:
    met = 0
    async def node(self):
        return ray.get_runtime_context().get_node_id()
    async def meet(self):
        self.met += 1
        while self.met < 3:
            await asyncio.sleep(0.05)
work = ray.remote(num_cpus=0)(Work).options(name="work", lifetime="detached", scheduling_strategy=On(sys.argv[1], soft=False)).remote()
@ray.remote(num_cpus=1)
def here():
    ray.get(work.meet.remote())
    return ray.get_runtime_context().get_node_id()
print(json.dumps([ray.get(work.node.remote()), *ray.get([here.remote() for _ in range(3)])]))
"""
# Where tasks start that would have any node.
PLACES = """
here = ray.remote(num_cpus=1)(lambda: ray.get_runtime_context().get_node_id())
print(json.dumps(collections.Counter(ray.get([here.options(scheduling_strategy="SPREAD").remote() for _ in range(20)]))))
"""
ASK = "print(json.dumps(ray.get(ray.get_actor('work').node.remote(), timeout=30)))"
DRAINING = "print(json.dumps(ray._private.state.state.get_draining_nodes()))"  # node id -> deadline in ms since 1970


def run(cluster: Head, program: str, *words: str) -> Any:
    """What a driver of its own prints."""
    command = [sys.executable, "-c", JOIN + program, *words]
    environment = cluster.environment | {"RAY_ADDRESS": cluster.address}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def waited(condition: Callable[[], Any]) -> Any:
    for _ in range(SECONDS * 5):
        if found := condition():
            return found
        time.sleep(0.2)
    raise AssertionError(f"not within {SECONDS} s")


def notice(seconds: float) -> str:
    return json.dumps({"action": "terminate", "time": f"{datetime.now(UTC) + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%SZ}"})


def test_a_notice_drains_this_node_and_no_other() -> None:
    with metadata_service("aws") as cloud, head("--num-cpus=2") as cluster, joined(cluster):
        nodes = cluster.nodes()
        (spot,) = [node.node_id for node in nodes if not node.is_head_node]
        (kept,) = [node.node_id for node in nodes if node.is_head_node]
        working, *places = run(cluster, BEGIN, spot)
        assert (working, set(places)) == (spot, {spot, kept})

        words = [sys.executable, "-m", "ccray.spot", "--node-id", spot, "--poll-seconds", "0.2"]
        environment = cluster.environment | {"CCRAY_METADATA_URL": cloud.url, "PYTHONPATH": str(REPOSITORY)}
        with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as watcher:
            assert watcher.stdout is not None
            try:
                assert f"watching aws at {cloud.url} for node {spot}" in watcher.stdout.readline()
                waited(lambda: cloud.times(metadata.ACTION) >= 3)
                assert run(cluster, DRAINING) == {}

                cloud.answers[metadata.ACTION] = notice(100)
                began = time.monotonic()
                said = watcher.stdout.read()
                assert watcher.wait(timeout=SECONDS) == 0, said
            finally:
                watcher.kill()
        print(f"\n{said}accepted after {time.monotonic() - began:.1f} s")
        assert re.search(rf"EC2 will terminate this spot instance at .*, in \d+ s: draining node {spot}\n.*Ray drains the node", said)

        draining = run(cluster, DRAINING)
        assert list(draining) == [spot]
        assert 0 < draining[spot] / 1000 - time.time() <= 100
        assert set(run(cluster, PLACES)) == {kept}
        assert run(cluster, ASK) == spot, "what runs there goes on"
