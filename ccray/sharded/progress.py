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
def followed(what: str, total: int, done: Callable[[], int], price: Price | None = None) -> Iterator[None]:
    """Tell every few seconds how many of `total` rows are `done`, while the body runs and once after it."""
    stop = threading.Event()
    thread = threading.Thread(target=_follow, args=(what, total, done, price, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _follow(what: str, total: int, done: Callable[[], int], price: Price | None, stop: threading.Event) -> None:
    first, began = done(), time.monotonic()  # the rate is that since the first rows came: loading a model is not among it
    start, told, told_at = first, -1, began
    ended = False
    while not ended:
        ended = stop.wait(PROGRESS_SECONDS)
        rows, now = done(), time.monotonic()
        if rows != told or now - told_at >= STANDSTILL_SECONDS:
            seconds = now - began
            say(progress_line(what, rows, total, (rows - first) / max(seconds, 1e-3), price if seconds >= ESTIMATE_SECONDS else None))
            told, told_at = rows, now
        if first == start and rows > start:
            first, began = rows, now


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
