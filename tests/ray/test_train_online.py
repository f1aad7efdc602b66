"""Pictures encoded beside training: two ranks, two sizes, one rank killed on the way; what was seen is exactly what may be."""

import json
import math
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from ccray.config import phases_of
from ccray.data.loading import offering
from ccray.data.loading.eligible import Doors, admitted, facts_of
from ccray.interfaces import Refused
from ccray.schema import hex_key
from ccray.stages import train
from ccray.storage import Root, encode_stage, sealed_shards
from tests.conftest import Corridor
from tests.ray.test_train import SETTINGS, metrics

pytestmark = pytest.mark.ray

SMALL, LARGE, BATCH = 26, 12, 16
ONLINE = (
    *SETTINGS,
    "train.latents=online",
    "train.name=online",
    "encode.size_px=16",
    f"train.steps={SMALL}",
    f"train.phases={{large: {{size_px: 32, steps: {LARGE}}}}}",
    f"train.global_batch_size={BATCH}",
    "train.checkpoint_every=10",
    "train.sample_every=1000",
    "train.learning_rate=0.003",
    "resources.train.workers=2",
    "resources.encode.threads=1",
)


def test_two_ranks_and_a_kill(corridor: Corridor, tmp_path: Path) -> None:
    root = Root(str(tmp_path / "root"))
    for directory in ("catalog", "images", "captions"):
        shutil.copytree(corridor.root.path(directory), root.path(directory))
    recipe = corridor.with_settings(*ONLINE)
    doors = Doors(encode_stage(corridor.recipe, corridor.recipe.encode.size_px).directory, (("captions/shapes-blip2", 1.0),), "catalog", "commercial")
    expected = _keys(corridor.root, doors)
    root.write("takedowns/all.jsonl", (json.dumps({"key": hex_key(expected.pop(3))}) + "\n").encode())

    killed = threading.Thread(target=_kill_a_rank, args=(root, 12), daemon=True)
    killed.start()
    found = train.run(recipe, root)
    killed.join()

    lines = metrics(root, "online")
    assert [line["step"] for line in lines] == list(range(2, SMALL + LARGE + 1, 2)), "continued at its step"
    losses = [line["loss"] for line in lines]
    assert all(map(math.isfinite, losses))
    assert np.mean(losses[-6:]) < np.mean(losses[:6])
    seen = root.read_table(found.facts["seen"]).to_pydict()
    assert seen["key"] == expected
    assert sum(seen["times"]) == found.facts["samples"] == (SMALL + LARGE) * BATCH
    assert sum(line["captions/shapes-blip2"] for line in lines) == found.facts["samples"]
    assert found.rows == found.facts["images_seen"] == len(expected)
    assert [phase["size_px"] for phase in found.facts["phases"]] == [16, 32]
    assert not root.exists("latents")
    assert found.inputs.keys() == {"catalog", "captions/shapes-blip2"}


def _keys(root: Root, doors: Doors, shards: list[int] | None = None) -> list[int]:
    """What may be trained on where latents are stored, ascending."""
    found: list[int] = []
    for shard in sealed_shards(root, doors.latents) if shards is None else shards:
        keys, may = admitted(root, doors, shard, facts_of(root, doors))
        found += keys[may.described().any(axis=1)].tolist()
    return sorted(found)


def _kill_a_rank(root: Root, step: int) -> None:
    """One rank of this process's cluster, once the run has come to a step."""
    while not (root.exists("checkpoints/online/metrics.jsonl") and metrics(root, "online")[-1]["step"] >= step):
        time.sleep(0.05)
    ranks = [one for one in psutil.Process().children(recursive=True) if "RayTrainWorker" in " ".join(one.cmdline())]
    assert len(ranks) == 2
    ranks[0].kill()


def test_offered_rows_are_the_eligible_ones(corridor: Corridor) -> None:
    """The same keys as with stored latents, with other captions in another order in each epoch."""
    recipe, root = corridor.recipe, corridor.root
    doors = train._doors(recipe, phases_of(recipe)[0])
    for shard in sealed_shards(root, "catalog"):
        one, other = (offering.offered(root, doors, shard, 0, epoch) for epoch in (0, 1))
        assert sorted(one["key"].to_pylist()) == _keys(root, doors, [shard])
        assert one["key"].to_pylist() != other["key"].to_pylist()
        assert offering.offered(root, doors, shard, 0, 0) == one
    assert sum(offering.count(root, doors).values()) == len(_keys(root, doors))


def test_uneven_batches_are_refused(corridor: Corridor) -> None:
    words = (*ONLINE, "train.global_batch_size=15")
    with pytest.raises(
        Refused, match=r"global_batch_size is 15, but with train\.latents=online every rank gets as many rows, and 2 ranks may share it"
    ):
        train.run(corridor.with_settings(*words), corridor.root)
