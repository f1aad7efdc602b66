"""Pictures a second through the caption stage, over a bare loop of transformers' processor and `generate` on the same pictures.

The stage runs on Ray with one actor a core, one torch thread each; the loop with the better of one process of all cores' threads and one
process a core. Both in steady state: model loading, cluster start and the first batches are outside the clock.
"""

import io
import json
import multiprocessing
import os
import tempfile
import threading
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

from ccray import config, recipes, storage
from ccray.config import Recipe
from ccray.storage import Root

COUNT = 4096
WARM_UP_BATCHES = 4


def main() -> None:
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    cores = os.cpu_count() or 1
    words = [
        f"catalog.shapes.count={COUNT}",
        f"resources.caption.min_actors={cores}",
        f"resources.caption.max_actors={cores}",
        "resources.caption.threads=1",
        "resources.caption.rows_per_block=128",
    ]
    recipe = config.build(recipes.tiny(), words)
    with tempfile.TemporaryDirectory() as folder:
        root = Root(f"{folder}/root")
        pipeline = _pipeline(recipe, root, Path(folder) / "work.log")
        files = [row for shard in storage.sealed_shards(root, "images") for row in _images(root, shard)]
        loops = {f"{processes} x {cores // processes} threads": _loop(recipe, files, processes, cores // processes) for processes in {1, cores}}
    best = max(loops, key=lambda name: loops[name])
    print(
        json.dumps(
            {
                "what": "caption pipeline ÷ bare `generate` loop",
                "ours": f"{pipeline:.0f} img/s",
                "other": f"{loops[best]:.0f} img/s ({best})",
                "figure": f"{pipeline / loops[best]:.3f}",
                "goal": "≥ 0.95",
                "how": f"{COUNT} pictures of 32 px, tiny BLIP-2, batch {recipe.caption.batch_size}, greedy; {cores} actors x 1 thread; steady state",
            }
        )
    )


def _pipeline(recipe: Recipe, root: Root, log: Path) -> float:
    """Pictures a second that the model actors take in, between the first batches and the last."""
    from ccray.stages import caption, catalog

    os.environ["CCRAY_WORK_LOG"] = str(log)
    catalog.run(recipe, root)
    log.write_text("")
    seen: list[tuple[float, int]] = []
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(log, seen, ended))
    watcher.start()
    caption.run(recipe, root)
    ended.set()
    watcher.join()
    import ray

    ray.shutdown()
    steady = [point for point in seen if point[1] >= WARM_UP_BATCHES * recipe.caption.batch_size]
    (began, first), (end, last) = steady[0], steady[-1]
    return (last - first) / (end - began)


def _watch(log: Path, seen: list[tuple[float, int]], ended: threading.Event) -> None:
    """Note when how many pictures have reached the captioners."""
    while not ended.wait(0.02):
        count = log.read_bytes().count(b"CaptionImages ")
        if count and (not seen or seen[-1][1] != count):
            seen.append((time.perf_counter(), count))


def _images(root: Root, shard: int) -> list[bytes]:
    return root.read_table(f"images/{storage.shard_name(shard)}", columns=["image"]).column("image").to_pylist()


def _loop(recipe: Recipe, files: list[bytes], processes: int, threads: int) -> float:
    """Pictures a second of `processes` bare loops that start together."""
    context = multiprocessing.get_context("spawn")
    start, end = context.Barrier(processes + 1), context.Barrier(processes + 1)
    workers = [
        context.Process(target=_generate, args=(recipe, files[number::processes], threads, start, end), daemon=True) for number in range(processes)
    ]
    for worker in workers:
        worker.start()
    start.wait()
    before = time.perf_counter()
    end.wait()
    return len(files) / (time.perf_counter() - before)


def _generate(recipe: Recipe, files: list[bytes], threads: int, start: Barrier, end: Barrier) -> None:
    import torch
    from PIL import Image
    from transformers import Blip2ForConditionalGeneration, Blip2Processor

    torch.set_num_threads(threads)
    folder = storage.model_path(recipe.caption.model)
    processor, model = Blip2Processor.from_pretrained(folder), Blip2ForConditionalGeneration.from_pretrained(folder).eval()
    size = recipe.caption.batch_size

    def caption(batch: list[bytes]) -> list[str]:
        images = [Image.open(io.BytesIO(file)).convert("RGB") for file in batch]
        inputs = processor(images=images, text=[recipe.caption.prompt] * len(images), return_tensors="pt")
        with torch.inference_mode():
            tokens = model.generate(**inputs, max_new_tokens=recipe.caption.max_new_tokens, do_sample=False)
        answers: list[str] = processor.batch_decode(tokens, skip_special_tokens=True)
        return answers

    for _ in range(WARM_UP_BATCHES):
        caption(files[:size])
    start.wait()
    for place in range(0, len(files), size):
        caption(files[place : place + size])
    end.wait()


if __name__ == "__main__":
    main()
