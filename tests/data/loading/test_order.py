"""The arithmetic of the order, for any number of ranks, against membership spelled out row by row."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ccray.data.loading.order import Order, windows
from ccray.data.loading.rounds import Index, Round

Row = tuple[int, int]  # shard, and which of its rows

rows_of = st.lists(st.integers(1, 12), min_size=1, max_size=7)
orders = st.builds(Order, seed=st.integers(0, 2**32), batch_size=st.integers(1, 20), window_shards=st.integers(1, 8))


def spelled_out(one: Round, order: Order, epoch: int) -> list[list[Row]]:
    """Members of each batch of an epoch by the words of the design."""
    shards = np.random.default_rng((order.seed, epoch)).permutation(sorted(one.index.rows)).tolist()
    rows: list[tuple[int, int, Row]] = []  # window, place in it, row
    for number, at in enumerate(range(0, len(shards), order.window_shards)):
        window = [(shard, row) for shard in shards[at : at + order.window_shards] for row in range(one.index.rows[shard])]
        shuffled = np.random.default_rng((order.seed, epoch, number)).permutation(len(window)).tolist()
        rows += [(number, place, window[place]) for place in shuffled]
    batches = [rows[at : at + order.batch_size] for at in range(0, len(rows), order.batch_size)]
    return [[row for _, _, row in sorted(batch)] for batch in batches]


def taken(one: Round, order: Order, start: int, rank: int, world_size: int) -> tuple[list[list[Row]], list[list[Row]]]:
    """Batches from step `start` to the round's end: all members, and those of one rank."""
    found: tuple[list[list[Row]], list[list[Row]]] = ([], [])
    whole: tuple[list[Row], list[Row]] = ([], [])
    for window, first in windows(one, order, start):
        names = [(shard, row) for shard in window.shards for row in range(one.index.rows[shard])]
        for part in window.parts(first, rank, world_size):
            for rows, places in zip(whole, (part.places, part.own), strict=True):
                rows += [names[place] for place in places.tolist()]
            if part.last:
                for batches, rows in zip(found, whole, strict=True):
                    batches.append(rows)
                whole = ([], [])
    assert whole == ([], []), "a round ends with a batch"
    return found


@settings(max_examples=150, deadline=None)
@given(rows=rows_of, order=orders, world_size=st.sampled_from([1, 2, 3, 5]), first_epoch=st.integers(0, 3), data=st.data())
def test_slices_of_any_number_of_ranks_make_up_the_batches(
    rows: list[int], order: Order, world_size: int, first_epoch: int, data: st.DataObject
) -> None:
    one = Round(0, 100, first_epoch, Index({3 * shard: count for shard, count in enumerate(rows)}, ()))
    epochs = range(first_epoch, first_epoch + one.epochs(order.batch_size))
    expected = [batch for epoch in epochs for batch in spelled_out(one, order, epoch)]
    start = data.draw(st.integers(0, len(expected) - 1))
    ranks = [taken(one, order, 100 + start, rank, world_size) for rank in range(world_size)]
    assert all(members == expected[start:] for members, _ in ranks), "every rank knows the whole batch, from any step on"
    joined = [[row for _, own in ranks for row in own[step]] for step in range(len(expected) - start)]
    assert joined == expected[start:]
    sizes = [[len(own[step]) for _, own in ranks] for step in range(len(expected) - start)]
    assert all(max(one_step) - min(one_step) <= 1 for one_step in sizes)
    per_epoch = len(expected) // len(epochs)
    for epoch in range(len(epochs)):
        seen = [row for batch in expected[epoch * per_epoch : (epoch + 1) * per_epoch] for row in batch]
        assert len(seen) == len(set(seen)) == sum(rows)


def test_a_rank_of_many_touches_few_shards() -> None:
    """As the module says of 128 ranks: of a window of 8 shards each has rows of one or two."""
    one = Round(0, 0, 0, Index(dict.fromkeys(range(8), 4096), ()))
    ((window, first),) = list(windows(one, Order(7, 2048, 8), 16))[:1]
    for rank in range(0, 128, 9):
        own = np.concatenate([part.own for part in window.parts(first, rank, 128)])
        assert len(own) == 8 * 4096 // 128
        assert len(np.unique(own // 4096)) <= 2
        assert len(np.unique(own // 256)) <= 8, "row groups of 256 rows, of 128 that the window has"
