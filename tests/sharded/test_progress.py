"""What a person who follows a run is told, against a clock that the test moves."""

import pytest

from ccray.sharded import progress
from ccray.sharded.progress import Follower, Price, duration, progress_line, told_meanwhile


class Work:
    """Rows that come when the test says so, on its own clock."""

    def __init__(self, total: int, done: int = 0, price: Price | None = None) -> None:
        self.rows, self.now = done, 0.0
        self.follower = Follower("captions/x", total, lambda: self.rows, price, lambda: self.now)

    def at(self, seconds: float, rows: int) -> str | None:
        self.now, self.rows = seconds, rows
        return self.follower.line()


def test_the_rate_is_that_since_the_first_rows() -> None:
    work = Work(1000)
    assert work.at(30, 0) == "captions/x: 0 / 1000 rows, 0.0 rows/s, waiting for the first rows"
    assert work.at(35, 0) is None, "nothing new"
    assert "16 / 1000 rows" in str(work.at(40, 16))
    assert work.at(50, 116) == "captions/x: 116 / 1000 rows, 10.0 rows/s, 88 s left", "the 40 s in which a model was loaded do not count"


def test_rows_of_an_earlier_run_are_not_this_ones_rate() -> None:
    work = Work(1000, done=500)
    work.at(5, 600)
    assert work.at(15, 700) == "captions/x: 700 / 1000 rows, 10.0 rows/s, 30 s left"


def test_a_standstill_is_told_after_a_while() -> None:
    work = Work(100)
    work.at(1, 10)
    assert work.at(progress.STANDSTILL_SECONDS, 10) is None
    assert "10 / 100 rows" in str(work.at(1 + progress.STANDSTILL_SECONDS, 10))


def test_money_is_told_once_the_rate_is_known() -> None:
    work = Work(100_000, price=Price(dollars_per_hour=0.6, actors=lambda: 4))
    work.at(10, 1)
    early = work.at(10 + progress.ESTIMATE_SECONDS - 1, 60)
    assert early is not None
    assert "dollars" not in early
    late = work.at(10 + 100, 1001)
    assert late == "captions/x: 1001 / 100000 rows, 10.0 rows/s, 2.7 h left, about 6.60 dollars (4 actors)"
    assert pytest.approx(6.60, abs=0.005) == (100_000 - 1001) / 10 / 3600 * 4 * 0.6
    assert work.at(20_000, 100_000) == f"captions/x: 100000 / 100000 rows, {99_999 / 19_990:.1f} rows/s, all there"


def test_one_actor_is_not_several() -> None:
    assert progress_line("x", 1, 7201, 1.0, Price(1.0, lambda: 1)).endswith("2.0 h left, about 2.00 dollars (1 actor)")


def test_durations() -> None:
    assert [duration(seconds) for seconds in (0, 119, 120, 7199, 7200, 90_000)] == ["0 s", "119 s", "2 min", "120 min", "2.0 h", "25.0 h"]


def test_the_last_word_is_told_when_the_body_ends() -> None:
    told: list[int] = []
    with told_meanwhile(lambda: told.append(1)):
        pass
    assert told == [1]
    with pytest.raises(ValueError, match="body"), told_meanwhile(lambda: told.append(2)):
        raise ValueError("body")
    assert told == [1, 2]
