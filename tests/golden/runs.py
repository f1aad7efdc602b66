"""The runs whose losses are kept: 20 steps of a tiny UNet and a tiny DiT on synthetic latents, one thread, float64 throughout."""

from pathlib import Path

from tests.training.tables import DIT, UNET, make_place

KEPT = Path(__file__).parent / "tiny_loss.txt"
FP64 = ("train.precision=fp64", "text.precision=fp64", "train.schedule=cosine")


def losses(path: Path, *words: str) -> dict[str, list[float]]:
    """Family -> loss of each step, trained anew below `path`."""
    place = make_place(path)
    found = {}
    for denoiser in (UNET, DIT):
        recipe = place.recipe(denoiser, "train.checkpoint_every=1000", *words)
        place.train(recipe, recipe.denoiser.kind)
        found[recipe.denoiser.kind] = [line["loss"] for line in place.metrics(recipe.denoiser.kind)]
    return found


def kept() -> dict[str, list[float]]:
    """What the file says."""
    found: dict[str, list[float]] = {}
    for line in KEPT.read_text().splitlines():
        family, _, loss = line.split()
        found.setdefault(family, []).append(float(loss))
    return found
