"""Two phases of two sizes as one run's data."""

from itertools import islice

import numpy as np
import pytest

from ccray import schema, storage
from ccray.config import Phase
from ccray.data.loading.eligible import Doors
from ccray.data.loading.loader import LatentDataset, Order
from ccray.data.loading.phased import Phased
from ccray.data.loading.rounds import index
from ccray.interfaces import LatentBatch
from ccray.storage import Root
from tests.training.tables import DOORS, SHAPE, write_tables

LARGE = Doors("latents/test-64px", DOORS.captions, DOORS.catalog, DOORS.policy)
LARGE_SHAPE = (4, 16, 16)
FIRST, SECOND = 9, 7  # steps
SIZES = (16, 5)  # of the batches


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Root:
    """Latents of both sizes of the same 59 images."""
    root = Root(str(tmp_path_factory.mktemp("tables")))
    write_tables(root)
    for shard in storage.sealed_shards(root, DOORS.latents):
        rows = root.read_table(f"{DOORS.latents}/{storage.shard_name(shard)}").to_pylist()
        for row in rows:
            row["latent_shape"] = list(LARGE_SHAPE)
            row["latent_mean"], row["latent_std"] = row["latent_mean"] * 4, row["latent_std"] * 4
        storage.seal(root, LARGE.latents, shard, schema.LATENTS.empty_table().from_pylist(rows, schema.LATENTS), schema.LATENTS, "key")
    return root


def phased(root: Root, rank: int = 0, world_size: int = 1) -> Phased:
    phases = [
        Phase("", 32, 0, FIRST, SIZES[0], None, 1e-3, 0),
        Phase("large", 64, FIRST, SECOND, SIZES[1], None, 1e-4, SECOND),
    ]
    parts = []
    for phase, doors in zip(phases, (DOORS, LARGE), strict=True):
        order = Order(3, phase.global_batch_size, 2)
        parts.append((phase, LatentDataset(root, doors, index(root, doors), order, rank, world_size)))
    return Phased(parts)


def assert_same(found: list[LatentBatch], expected: list[LatentBatch]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one.global_keys, other.global_keys)
        assert np.array_equal(one.latent_mean, other.latent_mean)
        assert one.captions == other.captions


def test_phases_follow_each_other_with_their_own_sizes(root: Root) -> None:
    batches = list(phased(root).batches(0))
    assert [batch.latent_mean.shape[1:] for batch in batches] == [SHAPE] * FIRST + [LARGE_SHAPE] * SECOND
    assert [len(batch.keys) for batch in batches[:4]] == [16, 16, 16, 11]
    assert [len(batch.keys) for batch in batches[FIRST:]] == [5] * SECOND
    alone = LatentDataset(root, LARGE, index(root, LARGE), Order(3, SIZES[1], 2)).batches(0)
    assert_same(batches[FIRST:], list(islice(alone, SECOND)))


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("start", [0, 4, FIRST - 1, FIRST, FIRST + 1, FIRST + SECOND - 1, FIRST + SECOND])
def test_any_step_of_either_phase_can_be_the_first(root: Root, world_size: int, start: int) -> None:
    straight = list(phased(root).batches(0))[start:]
    ranks = [list(phased(root, rank, world_size).batches(start)) for rank in range(world_size)]
    joined = [
        LatentBatch(
            np.concatenate([one.keys for one in step]),
            np.concatenate([one.latent_mean for one in step]),
            np.concatenate([one.latent_std for one in step]),
            [text for one in step for text in one.captions],
            step[0].global_keys,
        )
        for step in zip(*ranks, strict=True)
    ]
    assert_same(joined, straight)
    assert all(np.array_equal(batch.keys, batch.global_keys) for batch in joined)


def test_captions_are_of_the_first_phase(root: Root) -> None:
    assert phased(root).captions(5) == LatentDataset(root, DOORS, index(root, DOORS), Order(3, 16, 2)).captions(5)
