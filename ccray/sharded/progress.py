"""How far the rows of a map have come, how long the rest will take and, with a price, what it will cost."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

PROGRESS_SECONDS = 5
STANDSTILL_SECONDS = 60  # between two lines when no rows come
ESTIMATE_SECONDS = 60  # of rows coming, before anything is said of money
MINUTE, HOUR = 60, 3600


@dataclass(frozen=True)
class Price:
    """What the actors of a map cost."""

    dollars_per_hour: float  # of one actor
    actors: Callable[[], int]  # at work now


def say(line: str) -> None:
    """A line for the person who follows the run."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def told_meanwhile(tell: Callable[[], None]) -> Iterator[None]:
    """Call `tell` every few seconds while the body runs, and once after it."""
    stop = threading.Event()

    def follow() -> None:
        ended = False
        while not ended:
            ended = stop.wait(PROGRESS_SECONDS)
            tell()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


class Follower:
    """Tells how many of `total` rows are done. The rate is that since the first rows came: loading a model is not among it."""

    def __init__(
        self, what: str, total: int, done: Callable[[], int], price: Price | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._what, self._total, self._done, self._price, self._clock = what, total, done, price, clock
        self._start = self._first = done()
        self._began = self._told_at = clock()
        self._told = -1

    def tell(self) -> None:
        """A line, when rows came or none did for long."""
        line = self.line()
        if line is not None:
            say(line)

    def line(self) -> str | None:
        """What there is to tell now."""
        rows, now = self._done(), self._clock()
        seconds, line = now - self._began, None
        if rows != self._told or now - self._told_at >= STANDSTILL_SECONDS:
            price = self._price if seconds >= ESTIMATE_SECONDS else None
            line = progress_line(self._what, rows, self._total, (rows - self._first) / max(seconds, 1e-3), price)
            self._told, self._told_at = rows, now
        if self._first == self._start and rows > self._start:
            self._first, self._began = rows, now
        return line


def progress_line(what: str, done: int, total: int, rows_per_second: float, price: Price | None = None) -> str:
    """`captions/x: 512 / 4096 rows, 103.4 rows/s, 35 s left`, with a price `..., 3.2 h left, about 31 dollars (4 actors)`."""
    left = "waiting for the first rows"
    if done >= total:
        left = "all there"
    elif rows_per_second > 0:
        seconds = (total - done) / rows_per_second
        left = f"{duration(seconds)} left{_cost(seconds, price)}"
    return f"{what}: {min(done, total)} / {total} rows, {rows_per_second:.1f} rows/s, {left}"


def _cost(seconds: float, price: Price | None) -> str:
    if price is None:
        return ""
    actors = price.actors()
    return f", about {seconds / HOUR * actors * price.dollars_per_hour:,.2f} dollars ({actors} actor{'s' * (actors != 1)})"


def duration(seconds: float) -> str:
    """Seconds up to two minutes, minutes up to two hours, then hours."""
    if seconds < 2 * MINUTE:
        return f"{seconds:.0f} s"
    return f"{seconds / MINUTE:.0f} min" if seconds < 2 * HOUR else f"{seconds / HOUR:.1f} h"
