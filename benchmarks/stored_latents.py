"""A training step on stored latents, over the same step with the pictures decoded and the VAE run inside it ("online").

Both sides run `training.loop.train` itself on the same pictures, captions and threads, in alternating rounds; the answer compares the
median seconds of a step after warm-up.
"""

import io
import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ccray import config, recipes
from ccray.config import Recipe
from ccray.interfaces import LatentBatch
from ccray.models import pipeline
from ccray.models.autoencoder import Autoencoder
from ccray.shapes import world
from ccray.training import loop
from ccray.training.local import LocalRuntime

STEPS, WARM_UP, ROUNDS = 24, 6, 3
COUNT = 512


class Pictures:
    """PNG bytes of drawn scenes with their captions, as batches of latents; the VAE has run before, or runs now."""

    def __init__(self, recipe: Recipe, online: bool) -> None:
        self.batch_size = recipe.train.global_batch_size
        self.online = online
        self.vae = Autoencoder(recipe.encode.model, recipe.encode.subfolder, recipe.encode.precision)
        scenes = [world.train_scene(1, index) for index in range(COUNT)]
        self.texts = [world.caption(scene) for scene in scenes]
        self.files = [_png(world.draw(scene, recipe.encode.size_px)) for scene in scenes]
        self.stored = [self._encode(start) for start in range(0, COUNT, self.batch_size)]
        self.seconds: list[float] = []

    def batches(self, start_step: int) -> Iterator[LatentBatch]:
        """Whole global batches; notes how long each step took, from one request for a batch to the next."""
        step = start_step
        while True:
            before = time.perf_counter()
            place = step * self.batch_size % COUNT
            mean, std = self._encode(place) if self.online else self.stored[place // self.batch_size]
            keys = np.arange(place, place + self.batch_size, dtype=np.int64)
            yield LatentBatch(keys, mean, std, self.texts[place : place + self.batch_size], keys)
            self.seconds.append(time.perf_counter() - before)
            step += 1

    def captions(self, count: int) -> list[str]:
        return self.texts[:count]

    def _encode(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        pixels = np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in self.files[place : place + self.batch_size]])
        mean, std = self.vae.encode(pixels)
        return mean.astype(np.float16), std.astype(np.float16)


class Nowhere:
    """A tracker that keeps nothing."""

    def scalars(self, step: int, values: dict[str, float]) -> None: ...

    def images(self, step: int, name: str, grid: np.ndarray) -> None: ...


def main() -> None:
    logging.getLogger("ccray").setLevel(logging.ERROR)
    threads = os.cpu_count() or 1
    words = [f"train.steps={STEPS}", f"train.checkpoint_every={STEPS}", f"train.sample_every={10 * STEPS}", "train.warmup_steps=0"]
    recipe = config.build(recipes.tiny(), words)
    sides = {online: Pictures(recipe, online) for online in (False, True)}
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(ROUNDS):
        for online, data in sides.items():
            data.seconds.clear()
            with tempfile.TemporaryDirectory() as folder:
                loop.train(recipe, LocalRuntime(Path(folder)), data, pipeline.from_recipe(recipe), Nowhere(), threads)
            seconds[online] += data.seconds[WARM_UP : STEPS - 1]  # the last step also draws samples
    stored, online_seconds = (1000 * statistics.median(seconds[side]) for side in (False, True))
    print(
        json.dumps(
            {
                "what": "training step with stored latents ÷ online VAE",
                "ours": f"{stored:.0f} ms a step, stored",
                "other": f"{online_seconds:.0f} ms a step, online",
                "figure": f"{stored / online_seconds:.3f}",
                "goal": "below 1",
                "how": f"median of {len(seconds[False])} steps of {recipe.train.global_batch_size}; tiny UNet, 32 px, {threads} threads, alternating rounds",
            }
        )
    )


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    main()
