"""How the search for near duplicates grows: 10 k, 100 k and 1 M perceptual hashes, each count in a process of its own, on one thread.

Hashes as a crawl has them: uniform ones, clusters of near ones around a sixth of them, and a tenth around one hash (flat pictures: logos, "image
not available"). The figure is the exponent of the growth in CPU seconds over the last factor of ten: 1 is linear, 2 is all pairs.
"""

import json
import math
import multiprocessing
import resource
import time
from itertools import pairwise

import numpy as np

COUNTS = (10_000, 100_000, 1_000_000)
BITS = 4
SEED = 7


def main() -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, maxtasksperchild=1) as pool:
        seconds, peaks, kept = zip(*(pool.apply(measured, (count,)) for count in COUNTS), strict=True)
    growth = [math.log10(after / before) for before, after in pairwise(seconds)]
    print(
        json.dumps(
            {
                "what": "near duplicates: growth of the cost from 100 k to 1 M hashes (exponent)",
                "ours": ", ".join(
                    f"{count // 1000} k: {each:.2f} s, {peak:.0f} MiB" for count, each, peak in zip(COUNTS, seconds, peaks, strict=True)
                ),
                "other": "2 (all pairs)",
                "figure": f"{growth[-1]:.2f}",
                "goal": "about 1",
                "how": f"64-bit hashes, up to {BITS} bits apart; CPU seconds, peak RSS; 10 k to 100 k: {growth[0]:.2f}; kept {kept}",
                "seconds": seconds,
                "peak_rss_mib": peaks,
            }
        )
    )


def measured(count: int) -> tuple[float, float, int]:
    """CPU seconds, peak RSS in MiB, and images kept."""
    from ccray.data.index import dedup

    hashes = spread(count)
    before = time.process_time()
    found = dedup.find(np.arange(count), hashes, np.ones(count, bool), np.arange(count), BITS)
    seconds = time.process_time() - before
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, int((found.kept == np.arange(count)).sum())


def spread(count: int) -> np.ndarray:
    """uint64 [count]."""
    draw = np.random.default_rng(SEED)
    flat = count // 10
    alone = draw.integers(0, 2**64, (count - flat) * 2 // 3, dtype=np.uint64)
    near = flipped(draw.choice(alone[: len(alone) // 4], count - flat - len(alone)), 7, draw)
    found = np.concatenate([alone, near, flipped(np.full(flat, 2**63, np.uint64), 4, draw)])
    draw.shuffle(found)
    return found


def flipped(hashes: np.ndarray, most: int, draw: np.random.Generator) -> np.ndarray:
    """Each hash with 0 to `most` bits flipped at random."""
    flips = draw.integers(0, most + 1, len(hashes))
    for number in range(most):
        bit = np.uint64(1) << draw.integers(0, 64, len(hashes), dtype=np.uint64)
        hashes = np.where(flips > number, hashes ^ bit, hashes)
    return hashes


if __name__ == "__main__":
    main()
