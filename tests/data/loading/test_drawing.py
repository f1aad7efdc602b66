"""Captions of several tables: how often each is drawn, that nobody's place or restart changes it, and which rows and captions take part."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ccray import schema, storage, takedowns
from ccray.data.loading.drawing import choose, uniforms
from ccray.data.loading.eligible import Doors
from ccray.data.loading.loader import LatentDataset, Order
from ccray.data.loading.rounds import index
from ccray.interfaces import Failed, LatentBatch
from ccray.storage import Root
from ccray.takedowns import Record
from tests.data.loading import replay
from tests.training.tables import CAPTIONS, DOORS, finish, write_captions, write_tables

ROWS = (40, 37, 42)
ORDER = Order(seed=3, batch_size=16, window_shards=2)
STEPS = -(-sum(ROWS) // ORDER.batch_size)
JAPANESE, SHIPPED = "captions/ja", "captions/source-alt"
WEIGHTS = {CAPTIONS: 2.0, JAPANESE: 1.5, SHIPPED: 0.25}
SEVERAL = replace(DOORS, captions=tuple(sorted(WEIGHTS.items())))
# Combining marks that a normalisation would join, half-width kana, a joined emoji, a variation selector, spaces at the ends.
TEXTS = ("雪の日の赤い四角", "か\u3099ラスの瓶、ｶﾞﾗｽ", "家族👨\u200d👩\u200d👧と葛\U000e0100城", "\u3000左下の 青い丸。\n", "𠮷野家の①番")
MANY = 20_000
SIGMAS = 4.5  # of a binomial: passed by chance alone but once in 150,000


def keys_of(root: Root, shard: int, directory: str = DOORS.catalog) -> list[int]:
    return root.read_table(f"{directory}/{storage.shard_name(shard)}")["key"].to_pylist()


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """Three shards: English of every row, Japanese of all but five rows of each, shipped ones of a third of the first shard only."""
    root = Root(str(tmp_path))
    write_tables(root, ROWS)
    for shard in range(len(ROWS)):
        keys = keys_of(root, shard)
        write_captions(root, JAPANESE, shard, {key: TEXTS[key % 5] for key in keys[5:]}, "ja")
    write_captions(root, SHIPPED, 0, {key: f"as shipped {key}" for key in keys_of(root, 0)[::3]}, "en")
    finish(root, storage.imported_stage("tiny", "source-alt", {}))
    return root


def take(root: Root, count: int, start: int = 0, rank: int = 0, world_size: int = 1, doors: Doors = SEVERAL) -> list[LatentBatch]:
    dataset = LatentDataset(root, doors, index(root, doors), ORDER, rank, world_size)
    return list(itertools.islice(dataset.batches(start), count))


def pairs(batches: list[LatentBatch]) -> list[tuple[int, str]]:
    return [pair for batch in batches for pair in zip(batch.keys.tolist(), batch.captions, strict=True)]


def is_binomial(count: int, of: int, share: float) -> bool:
    return abs(count - of * share) <= SIGMAS * (of * share * (1 - share)) ** 0.5


def random_keys(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-(2**63), 2**63 - 1, MANY)


def test_numbers_are_those_of_splitmix64() -> None:
    assert replay.splitmix(0) == 0xE220A8397B1DCDAF, "the first number of the reference implementation, seeded with 0"
    keys = np.array([0, 1, -1, 2**63 - 1, -(2**63), 12345], np.int64)
    for seed, epoch in ((0, 0), (3, 7), (2**40, 10**6)):
        assert uniforms(seed, epoch, keys).tolist() == [float(replay.uniform(seed, epoch, key)) for key in keys.tolist()]


@pytest.mark.parametrize("keys", [random_keys(), np.arange(MANY), np.arange(MANY) << 44], ids=["random", "counted", "high"])
@pytest.mark.parametrize("weights", [(1.0,), (1.0, 1.0), (3.0, 1.0, 0.5), (0.001, 7.0, 0.3, 0.3)])
def test_tables_are_drawn_in_proportion_to_their_weights(keys: np.ndarray, weights: tuple[float, ...]) -> None:
    chosen = choose(5, 2, keys, np.tile(weights, (MANY, 1)))
    for number, count in enumerate(np.bincount(chosen, minlength=len(weights)).tolist()):
        assert is_binomial(count, MANY, weights[number] / sum(weights)), (number, count)


def test_a_row_of_fewer_tables_goes_by_the_weights_of_those() -> None:
    keys, weights = random_keys(), np.tile([3.0, 1.0, 2.0], (MANY, 1))
    weights[: MANY // 2, 0] = 0
    weights[: MANY // 4, 2] = 0
    chosen = choose(0, 0, keys, weights)
    assert set(chosen[: MANY // 4].tolist()) == {1}, "the only one that it has"
    some, all_three = (np.bincount(part, minlength=3).tolist() for part in (chosen[MANY // 4 : MANY // 2], chosen[MANY // 2 :]))
    assert some[0] == 0
    assert is_binomial(some[2], MANY // 4, 2 / 3)
    assert is_binomial(all_three[0], MANY // 2, 1 / 2)


@pytest.mark.parametrize("other", [(0, 1), (1, 0), (0, 2**20)], ids=["next epoch", "next seed", "far epoch"])
def test_epochs_and_seeds_are_drawn_apart(other: tuple[int, int]) -> None:
    keys, weights = random_keys(), np.tile([1.0, 3.0], (MANY, 1))
    one, two = choose(0, 0, keys, weights), choose(*other, keys, weights)
    assert is_binomial(int(np.sum(one & two)), MANY, 9 / 16), "as often both as if they knew nothing of each other"
    assert is_binomial(int(np.sum(one != two)), MANY, 6 / 16)


def test_what_is_drawn_is_what_the_documentation_says(root: Root) -> None:
    captions = replay.said(root, list(WEIGHTS))
    for epoch in range(3):
        batches = take(root, STEPS, start=epoch * STEPS)
        assert sorted(key for key, _ in pairs(batches)) == sorted(captions[CAPTIONS])
        expected = {key: replay.table_of(captions, WEIGHTS, ORDER.seed, epoch, key) for key in captions[CAPTIONS]}
        assert dict(pairs(batches)) == {key: captions[table][key] for key, table in expected.items()}
        for batch in batches:
            tables = [expected[key] for key in batch.keys.tolist()]
            assert batch.drawn == {table: tables.count(table) for table in WEIGHTS}
        assert set(expected.values()) == set(WEIGHTS)


def test_epochs_say_other_words_of_the_same_images(root: Root) -> None:
    first, second = dict(pairs(take(root, STEPS))), dict(pairs(take(root, STEPS, start=STEPS)))
    assert first.keys() == second.keys()
    assert first != second


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("start", [0, *np.random.default_rng(11).integers(1, 4 * STEPS, 2).tolist()])
def test_ranks_and_restarts_draw_the_same(root: Root, world_size: int, start: int) -> None:
    straight = take(root, start + STEPS)[start:]
    slices = [take(root, STEPS, start, rank, world_size) for rank in range(world_size)]
    for step, expected in enumerate(straight):
        assert [pair for one in slices for pair in pairs([one[step]])] == pairs([expected])
        assert all(one[step].drawn == expected.drawn for one in slices), "of the whole batch, on every rank"


def test_one_table_is_all_that_is_drawn(root: Root) -> None:
    batches = take(root, STEPS, doors=DOORS)
    assert {text for _, text in pairs(batches)} == {f"picture number {number}" for number in range(12)}
    assert [batch.drawn for batch in batches] == [{CAPTIONS: len(batch.keys)} for batch in batches]


def test_one_caption_is_enough(root: Root) -> None:
    """Rows that no table has, that one has, and that one has only without words."""
    for shard in range(len(ROWS)):
        keys = keys_of(root, shard)
        texts: dict[int, str | None] = dict.fromkeys(keys[8:], "english")
        texts[keys[0]], texts[keys[1]], texts[keys[6]] = None, " \u3000", ""
        write_captions(root, CAPTIONS, shard, texts, "en")
    expected = {key for shard in range(len(ROWS)) for key in keys_of(root, shard)[5:]} | set(keys_of(root, 0)[::3])
    assert index(root, SEVERAL).total == len(expected)
    found = dict(pairs(take(root, STEPS)))
    assert len(found) == len(expected)
    assert set(found) == expected
    assert all(text.strip() for text in found.values())


def test_flagged_captions_are_drawn_when_named_only(root: Root) -> None:
    flagged = {key: ("looping", "truncated: 24 tokens")[key % 2] for shard in range(len(ROWS)) for key in keys_of(root, shard)[5:20]}
    for shard in range(len(ROWS)):
        texts = {key: f"flagged {key}" if key in flagged else "as it should be" for key in keys_of(root, shard)[5:]}
        write_captions(root, JAPANESE, shard, dict(texts), "ja", flagged)
    epochs = range(0, 6 * STEPS, STEPS)
    assert not {text for start in epochs for _, text in pairs(take(root, STEPS, start)) if text.startswith("flagged")}
    allowed = replace(SEVERAL, statuses=("ok", "truncated"))
    found = {key for start in epochs for key, text in pairs(take(root, STEPS, start, doors=allowed)) if text.startswith("flagged")}
    assert found
    assert {flagged[key] for key in found} == {"truncated: 24 tokens"}
    only = replace(SEVERAL, captions=((JAPANESE, 1.0),), statuses=("looping", "truncated"))
    assert {key for key, _ in pairs(take(root, STEPS, doors=only))} == set(flagged)


def test_japanese_comes_out_byte_for_byte(root: Root) -> None:
    rows = sum(ROWS) - 5 * len(ROWS)
    found = pairs(take(root, -(-rows // ORDER.batch_size), doors=replace(DOORS, captions=((JAPANESE, 1.0),))))
    assert len(found) == len(dict(found)) == rows
    assert [text.encode() for _, text in found] == [TEXTS[key % 5].encode() for key, _ in found]


def test_what_is_taken_down_is_not_drawn_from_any_table(root: Root) -> None:
    gone = keys_of(root, 0)[9]  # described by all three
    takedowns.record(root, [Record("key", schema.hex_key(gone), None, "", (gone,), ())])
    assert sorted(key for key, _ in pairs(take(root, STEPS))) == sorted(
        key for shard in range(len(ROWS)) for key in keys_of(root, shard) if key != gone
    )


def test_shipped_captions_may_lack_a_whole_shard(root: Root) -> None:
    only = replace(DOORS, captions=((SHIPPED, 1.0),))
    assert index(root, only).rows == {0: -(-ROWS[0] // 3)}
    assert {key for key, _ in pairs(take(root, 3, doors=only))} == set(keys_of(root, 0)[::3])


@pytest.mark.parametrize(("table", "shard", "cure"), [(JAPANESE, 1, "ccray caption"), (SHIPPED, 0, "ccray catalog")])
def test_a_lost_shard_fails(root: Root, table: str, shard: int, cure: str) -> None:
    """Of a captioner whether its manifest lists the file or not: it describes every image."""
    root.delete(f"{table}/{storage.shard_name(shard)}")
    with pytest.raises(Failed, match=rf"{table}/{storage.shard_name(shard)} is missing, but .*take {table[9:]} out of train.captions.*`{cure}`"):
        index(root, SEVERAL)


def test_nothing_left_names_tables_and_statuses(root: Root) -> None:
    doors = replace(SEVERAL, captions=((JAPANESE, 1.0), (SHIPPED, 1.0)), statuses=("looping", "truncated"))
    with pytest.raises(Failed, match=r"a caption in captions/ja, captions/source-alt with status looping or truncated \(train.caption_statuses\)"):
        index(root, doors)


def test_captions_of_the_data_are_of_all_tables(root: Root) -> None:
    dataset = LatentDataset(root, SEVERAL, index(root, SEVERAL), ORDER)
    found = dataset.captions(1000)
    said = replay.said(root, list(WEIGHTS))
    assert all(set(found) & set(texts.values()) for texts in said.values())
    assert dataset.captions(9) == found[:9]
