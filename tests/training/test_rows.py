"""The next step's rows are made while this one's are used."""

import threading

import numpy as np
import pytest

from ccray.interfaces import LatentBatch
from ccray.training.draws import draw
from ccray.training.rows import one_ahead, prepare


def alive() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("rows")]


def test_values_come_in_order_and_one_is_made_ahead() -> None:
    begun = [threading.Event() for _ in range(4)]
    numbers = iter(range(3))

    def make() -> int | None:
        number = next(numbers, None)
        begun[3 if number is None else number].set()
        return number

    found = []
    for value in one_ahead(make):
        assert begun[value + 1].wait(timeout=30), "the next one is made although nobody asked for it yet"
        assert value == 2 or not begun[value + 2].is_set(), "but no more than one"
        found.append(value)
    assert found == [0, 1, 2]
    assert alive() == []


def test_errors_come_where_the_value_would() -> None:
    numbers = iter((1, 2))

    def make() -> int:
        for number in numbers:
            return number
        raise ValueError("no third")

    found = one_ahead(make)
    assert [next(found), next(found)] == [1, 2]
    with pytest.raises(ValueError, match="no third"):
        next(found)
    assert alive() == []


def test_no_thread_is_left_when_the_user_stops() -> None:
    found = one_ahead(lambda: 1)
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert alive() == []


@pytest.mark.parametrize("count", [3, 0])
def test_rows_hold_what_is_drawn_for_their_keys(count: int) -> None:
    keys = np.arange(5, dtype=np.int64)
    latents = np.random.default_rng(0).standard_normal((count, 4, 2, 2)).astype(np.float16)
    batch = LatentBatch(keys[:count], latents, latents, [f"caption {key}" for key in keys[:count]], keys, {"captions/test": 5})
    rows = prepare(batch, seed=1, step=7, dropout=0.5, pinned=False)
    assert rows.rows == count
    assert rows.global_keys is keys
    assert rows.drawn == {"captions/test": 5}
    assert len(rows.mean) == len(rows.noise) == len(rows.captions) == max(count, 1), "an empty slice has a row, because passes are collectives"
    if count:
        draws = draw(1, 7, keys[:count], (4, 2, 2))
        assert rows.captions == [f"caption {key}" if draws.dropout[key] >= 0.5 else "" for key in keys[:count]]
        assert np.array_equal(rows.noise.numpy(), draws.noise)
        assert np.array_equal(rows.time.numpy(), draws.time)
