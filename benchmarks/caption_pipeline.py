"""Pictures a second through the caption stage, over a bare loop of the same captioner on the same pictures; decoding is inside both.

The stage runs on Ray with one actor a core, one torch thread each; what its tasks have decoded before the clock starts is charged to it. The loop decodes and captions in plain processes: the better of one process with
all cores' threads and one process a core, each at the best of several batch sizes. Same model, precision, threads and cache on both sides. Steady
state: loading, cluster start, the first blocks and the last are outside the clock.

Twice: photographs of 640 x 480 through a BLIP-2 of random weights at 224 px, small but of the real one's proportions, and the 32 px drawings of the
shapes world through its teacher, where a picture takes a millisecond and every overhead shows.
"""

import argparse
import io
import json
import multiprocessing
import os
import tempfile
import threading
import time
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
from PIL import Image

from ccray import config, recipes, storage
from ccray.config import Recipe
from ccray.data.pictures.images import Limits, decode
from ccray.storage import Root

WARM_UP_BLOCKS = 2  # of each actor
BATCHES = (16, 64)  # that the loop may choose from
CORES = os.cpu_count() or 1


@dataclass(frozen=True)
class Case:
    """One measurement."""

    name: str
    pictures: int
    block: int  # rows of an actor's block, and of the stage's batch
    tokens: int
    what: str


CASES = {
    "photos": Case("photos", 768, 64, 20, "640x480 JPEGs, BLIP-2 of random weights (ViT 6 x 384 at 224 px, OPT 6 x 512), 20 tokens"),
    "drawings": Case("drawings", 8192, 256, 24, "32 px PNGs, the shapes world's tiny BLIP-2"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, default="photos")
    case = CASES[parser.parse_args().case]
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    with tempfile.TemporaryDirectory() as folder:
        recipe, root = prepared(case, Path(folder))
        files = [row for shard in storage.sealed_shards(root, "images") for row in _images(root, shard)]
        loops = {
            f"{processes} x {CORES // processes} threads, batch {batch}": _loop(
                recipe, files[: len(files) // 6], processes, CORES // processes, batch
            )
            for processes in {1, CORES}
            for batch in BATCHES
        }
        best = max(loops, key=lambda name: loops[name])
        processes, batch = int(best.split()[0]), int(best.split()[-1])
        bare = _loop(recipe, files, processes, CORES // processes, batch)
        seconds_per_decode = _decoding(files)
        pipeline = _pipeline(config.build(recipe, [f"caption.batch_size={batch}"]), root, Path(folder) / "work.log", case.block, seconds_per_decode)
    print(
        json.dumps(
            {
                "what": f"caption pipeline ÷ bare loop, {case.name}",
                "ours": f"{pipeline:.1f} img/s",
                "other": f"{bare:.1f} img/s ({best})",
                "figure": f"{pipeline / bare:.3f}",
                "goal": "≥ 0.95",
                "how": f"{case.pictures} {case.what}, greedy; {CORES} actors x 1 thread, blocks of {case.block}; steady state",
            }
        )
    )


def prepared(case: Case, folder: Path) -> tuple[Recipe, Root]:
    """A root with a finished catalog, and the recipe that captions it."""
    import ray

    from ccray.stages import catalog

    words = [f"caption.max_new_tokens={case.tokens}", "catalog.near_duplicate_bits=null", "catalog.rows_per_shard=512"]
    words += [f"resources.caption.{name}={value}" for name, value in _pool(case).items()]
    if case.name == "drawings":
        words.append(f"catalog.shapes.count={case.pictures}")
    else:
        from benchmarks.random_blip2 import SMALL, model_folder

        _photos(folder / "photos", case.pictures)
        model_folder(folder / "blip2", SMALL)
        words += [
            f"catalog.source=folder:{folder / 'photos'}",
            "catalog.license=CC0-1.0",
            "allow_unknown_components=true",
            f"caption.model={folder / 'blip2'}",
            "caption.min_new_tokens=20",
        ]
    recipe, root = config.build(recipes.tiny(), words), Root(str(folder / "root"))
    catalog.run(recipe, root)
    ray.shutdown()
    return recipe, root


def _pool(case: Case) -> dict[str, int]:
    return {"min_actors": CORES, "max_actors": CORES, "threads": 1, "rows_per_block": case.block}


def _photos(folder: Path, count: int) -> None:
    """Smooth random pictures as JPEGs: coarse grids of colours, enlarged."""
    folder.mkdir(parents=True)
    for number in range(count):
        coarse = np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC).save(folder / f"{number:05d}.jpg", quality=90)


def _decoding(files: list[bytes]) -> float:
    """Seconds of one core for a picture."""
    some = files[:64]
    began = time.perf_counter()
    for data in some:
        decode(data, Limits(max_pixels=1 << 40, max_bytes=1 << 40))
    return (time.perf_counter() - began) / len(some)


def _pipeline(recipe: Recipe, root: Root, log: Path, block: int, seconds_per_decode: float) -> float:
    """Pictures a second that the model actors take in, between their first blocks and the last."""
    import ray

    from ccray.stages import caption

    os.environ["CCRAY_WORK_LOG"] = str(log)
    log.touch()
    seen: list[tuple[float, int, int]] = []
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(log, seen, ended))
    watcher.start()
    caption.run(recipe, root)
    ended.set()
    watcher.join()
    ray.shutdown()
    steady = [point for point in seen if point[1] > WARM_UP_BLOCKS * CORES * block]
    (began, first, decoded), (end, last, _) = steady[0], steady[-1]
    ahead = max(0, min(decoded, last) - first) * seconds_per_decode / CORES
    return (last - first) / (end - began + ahead)


def _watch(log: Path, seen: list[tuple[float, int, int]], ended: threading.Event) -> None:
    """Note when how many pictures have reached the captioners, and how many were decoded."""
    while not ended.wait(0.02):
        text = log.read_bytes()
        count = text.count(b"CaptionImages ")
        if count and (not seen or seen[-1][1] != count):
            seen.append((time.perf_counter(), count, text.count(b"LoadPixels ")))


def _images(root: Root, shard: int) -> list[bytes]:
    return root.read_table(f"images/{storage.shard_name(shard)}", columns=["image"]).column("image").to_pylist()


def _loop(recipe: Recipe, files: list[bytes], processes: int, threads: int, batch: int) -> float:
    """Pictures a second of `processes` bare loops that start together."""
    context = multiprocessing.get_context("spawn")
    start, end = context.Barrier(processes + 1), context.Barrier(processes + 1)
    workers = [
        context.Process(target=_bare, args=(recipe, files[number::processes], threads, batch, start, end), daemon=True) for number in range(processes)
    ]
    for worker in workers:
        worker.start()
    start.wait()
    before = time.perf_counter()
    end.wait()
    return len(files) / (time.perf_counter() - before)


def _bare(recipe: Recipe, files: list[bytes], threads: int, batch: int, start: Barrier, end: Barrier) -> None:
    import torch

    from ccray.interfaces import Subject
    from ccray.models.captioners.build import captioner_of

    torch.set_num_threads(threads)
    settings = next(iter(config.build(recipe, [f"caption.batch_size={batch}"]).caption.values()))
    captioner = captioner_of(settings)

    def caption(files: list[bytes]) -> None:
        pictures = [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]
        captioner.caption([Subject(picture) for picture in pictures])

    caption(files[:batch])
    start.wait()
    for place in range(0, len(files), batch):
        caption(files[place : place + batch])
    end.wait()


if __name__ == "__main__":
    main()
