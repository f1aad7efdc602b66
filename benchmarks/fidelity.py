"""Do models of each objective draw what they are told? Trains one in the shapes world, and has the oracle read pictures of held-out prompts, drawn
with the averaged weights as exported and with the weights as the last update left them.

python -m benchmarks.fidelity NAME [--folder FOLDER] [key.sub=value ...]

The corridor without Ray, its captions the true ones, so that the figure speaks of training alone. What the same settings have begun in FOLDER is
continued, and what they have finished is only drawn with.
"""

import argparse
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ccray import config, recipes
from ccray.config import Recipe
from ccray.diffusion.generate import generate
from ccray.evaluation.fidelity import mean_fidelity, mean_of_five
from ccray.evaluation.prompts import held_out
from ccray.interfaces import LatentBatch
from ccray.models import pipeline
from ccray.models.autoencoder import Autoencoder
from ccray.models.pipeline import Components
from ccray.schema import id_of
from ccray.shapes import oracle, world
from ccray.training import export, loop
from ccray.training.local import LocalRuntime
from ccray.training.loop import Trained

THREADS = 2
# More updates of fewer rows than the recipes take: after as many rows the transformer's loss was 0.71 in place of 0.87.
UPDATES = "train.global_batch_size=32"
# Name -> recipe, and the settings laid over it.
MODELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "unet-epsilon": ("tiny", ("objective.kind=epsilon", UPDATES, "train.steps=2000")),
    "unet-v": ("tiny", ("objective.kind=v", "objective.zero_terminal_snr=true", UPDATES, "train.steps=2000")),
    "dit-flow": ("tiny-dit", (UPDATES, "train.steps=2400", "train.learning_rate=2e-3")),
}


class Drawings:
    """Latents and true captions of the recipe's training scenes, each once an epoch (`interfaces.Latents`)."""

    def __init__(self, recipe: Recipe) -> None:
        shapes, self.seed, self.batch_size = recipe.catalog.shapes, recipe.train.seed, recipe.train.global_batch_size
        scenes = [world.train_scene(shapes.seed, index) for index in range(shapes.count)]
        self.texts = [world.caption(scene) for scene in scenes]
        vae = Autoencoder(recipe.encode.model, recipe.encode.subfolder, recipe.encode.precision)
        chunks = [scenes[start : start + recipe.encode.batch_size] for start in range(0, len(scenes), recipe.encode.batch_size)]
        encoded = [vae.encode(np.stack([world.draw(scene, recipe.encode.size_px) for scene in chunk])) for chunk in chunks]
        self.mean, self.std = (np.concatenate(part).astype(np.float16) for part in zip(*encoded, strict=True))

    def batches(self, start_step: int) -> Iterator[LatentBatch]:
        """Whole global batches; what is left of an epoch's order goes unused."""
        step, in_epoch = start_step, len(self.texts) // self.batch_size
        while True:
            order = np.random.default_rng((self.seed, step // in_epoch)).permutation(len(self.texts))
            rows = order[step % in_epoch * self.batch_size :][: self.batch_size]
            yield LatentBatch(rows, self.mean[rows], self.std[rows], [self.texts[row] for row in rows], rows)
            step += 1

    def captions(self, count: int) -> list[str]:
        return self.texts[:count]


class Curve:
    """A tracker that keeps losses and times in a file."""

    def __init__(self, path: Path, samples: int) -> None:
        """samples: between two entries."""
        self.path, self.samples = path, samples

    def scalars(self, step: int, values: dict[str, float]) -> None:
        line = {"step": step, "loss": values["loss"], "seconds": self.samples / values["samples_per_second"]}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def images(self, step: int, name: str, grid: np.ndarray) -> None: ...

    @property
    def seconds(self) -> float:
        """All that was trained, what was done twice after an interruption included."""
        return sum(json.loads(line)["seconds"] for line in self.path.read_text().splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=MODELS)
    parser.add_argument("settings", nargs="*", metavar="key.sub=value")
    parser.add_argument("--folder", type=Path, default=Path("runs/fidelity"))
    arguments = parser.parse_intermixed_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    name, words = MODELS[arguments.name]
    recipe = config.build(recipes.named(name), [*words, "train.sample_every=1000000", *arguments.settings])
    folder = arguments.folder / f"{arguments.name}-{_fingerprint(recipe)}"
    folder.mkdir(parents=True, exist_ok=True)
    raw, trained, seconds = _train(recipe, folder)
    assert trained.weights is not None
    export.save(raw, trained.weights, folder / "model")
    averaged = figures(recipe, pipeline.load_folder(folder / "model"))
    as_left = figures(recipe, raw)
    print(json.dumps(_row(arguments.name, recipe, averaged, as_left, seconds)))


def _fingerprint(recipe: Recipe) -> str:
    """Of what decides which weights training ends with."""
    sections = ("catalog", "encode", "train")
    return config.fingerprint({name: config.stage_config(recipe, name) for name in sections}, {})


def _train(recipe: Recipe, folder: Path) -> tuple[Components, Trained, float]:
    """The model with the weights of the last update, what training left, and the seconds it took."""
    components = pipeline.from_recipe(recipe)
    curve = Curve(folder / "loss.jsonl", recipe.train.log_every * recipe.train.global_batch_size)
    trained = loop.train(recipe, LocalRuntime(folder / "checkpoints"), Drawings(recipe), components, curve, THREADS)
    components.denoiser.eval()
    return components, trained, curve.seconds


def figures(recipe: Recipe, components: Components) -> dict[str, float]:
    """Mean fidelity, field by field, of the recipe's held-out prompts drawn as `ccray evaluate` draws them."""
    chosen = recipe.evaluate
    prompts = held_out(chosen.seed, chosen.count)
    seeds = [id_of(str(chosen.seed), one.id) % 2**32 for one in prompts]
    pictures = generate(components, [one.prompt for one in prompts], seeds, steps=chosen.steps, guidance=chosen.guidance, width=chosen.batch_size)
    scenes = [world.held_out_scene(chosen.seed, index) for index in range(chosen.count)]
    return mean_fidelity(oracle.score(picture, scene) for picture, scene in zip(pictures, scenes, strict=True))


def _row(name: str, recipe: Recipe, averaged: dict[str, float], as_left: dict[str, float], seconds: float) -> dict[str, str]:
    def told(side: dict[str, float]) -> str:
        return f"{side['all']:.3f} exact, {mean_of_five(side):.3f} mean of five"

    train, evaluate = recipe.train, recipe.evaluate
    return {
        "what": f"prompt fidelity in the shapes world, {name}: all five attributes right",
        "ours": f"averaged weights, exported: {told(averaged)}",
        "other": f"weights as the last update left them: {told(as_left)}",
        "figure": f"{averaged['all']:.3f}",
        "goal": "≥ 0.90, averaged no worse",
        "how": (
            f"{train.steps} steps of {train.global_batch_size}, {recipe.catalog.shapes.count} scenes, {seconds:.0f} s on {THREADS} threads; "
            f"{evaluate.count} held-out prompts, {evaluate.steps} sampler steps, guidance {evaluate.guidance:g}"
        ),
    }


if __name__ == "__main__":
    main()
