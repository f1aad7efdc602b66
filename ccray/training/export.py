"""From a trained run to a model folder."""

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from ccray.models import pipeline
from ccray.models.pipeline import KINDS, Components


def save(components: Components, weights: dict[str, Tensor], path: Path) -> None:
    """Write the model with `weights` (whole, by parameter name) in its denoiser as a diffusers folder.

    A new denoiser takes the weights: the trained one may be sharded, compiled and on a GPU.
    """
    network = KINDS[components.pipeline].denoiser.from_config(components.denoiser.config)
    state = network.state_dict()
    network.load_state_dict(state | weights)
    pipeline.save_folder(replace(components, denoiser=network.eval()), path)
