"""The runs whose losses are kept: 20 steps of a tiny UNet or DiT with each objective on synthetic latents, one thread, float64 throughout."""

from pathlib import Path

from tests.training.tables import DIT, UNET, make_place

KEPT = Path(__file__).parent / "tiny_loss.txt"
FP64 = ("train.precision=fp64", "text.precision=fp64")
RUNS = {"unet-epsilon": (UNET, "objective.kind=epsilon"), "unet-v": (UNET, "objective.kind=v"), "dit-flow": (DIT, "objective.kind=flow")}


def losses(path: Path, name: str, *words: str) -> list[float]:
    """The loss of each step of one of `RUNS`, trained anew below `path`."""
    place, (denoiser, objective) = make_place(path), RUNS[name]
    place.train(place.recipe(denoiser, objective, "train.checkpoint_every=1000", "train.schedule=cosine", *words), name)
    return [line["loss"] for line in place.metrics(name)]


def kept() -> dict[str, list[float]]:
    """What the file says: run -> losses."""
    found: dict[str, list[float]] = {}
    for line in KEPT.read_text().splitlines():
        name, _, loss = line.split()
        found.setdefault(name, []).append(float(loss))
    return found
