"""What does not fit is refused with both sides named."""

import re
from pathlib import Path
from typing import Any

import pytest

from ccray import config, recipes
from ccray.config import Recipe
from ccray.data.encoding import vae_facts
from ccray.interfaces import Refused
from ccray.training.admission import check
from tests import folders


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    folders.vae_folder(path / "vae")
    folders.vae_folder(path / "other-vae", seed=9)
    folders.text_folder(path / "text")
    folders.text_folder(path / "t5", "t5")
    folders.stable_diffusion_folder(path / "sd")
    (path / "other").mkdir()
    (path / "other" / "model_index.json").write_text('{"_class_name": "FluxPipeline", "_diffusers_version": "0.42.0"}')
    return path


def recipe(models: Path, *words: str) -> Recipe:
    base = [f"encode.model={models / 'vae'}", f"text.model={models / 'text'}", "text.width=32", "denoiser.cross_attention_dim=32"]
    return config.build(recipes.tiny(), [*base, *words])


@pytest.fixture(scope="module")
def facts(models: Path) -> dict[str, Any]:
    return vae_facts(recipe(models).encode)


def test_what_fits_passes(models: Path, facts: dict[str, Any]) -> None:
    check(recipe(models), [facts])
    check(recipe(models, f"text.model={models / 't5'}"), [facts])
    check(recipe(models, "text.model=somewhere/on-a-hub", "text.width=7", "denoiser.cross_attention_dim=7"), [facts])
    stock = recipe(models, f"encode.model={models / 'sd'}", "encode.subfolder=vae", f"train.start_from={models / 'sd'}")
    check(stock, [vae_facts(stock.encode)])
    check(recipe(models, "train.start_from=somewhere/on-a-hub"), [facts])


@pytest.mark.parametrize(
    ("words", "change", "reason"),
    [
        (["train.precision=fp16"], {}, "train.precision is 'fp16'"),
        (["denoiser.sample_size=16"], {}, "denoiser.sample_size is 16, but the latents are 8 wide"),
        ([], {"latent_channels": 16}, "denoiser.in_channels is 4, but the latents have 16 channels"),
        (["text.width=64", "denoiser.cross_attention_dim=64"], {}, "text.width is 64, but the features of MODELS/text are 32 wide"),
        (["text.model=MODELS/none"], {}, "text.model is 'MODELS/none', but there is no folder MODELS/none"),
        ([], {"size_px": 64}, "encode.size_px is 32, but the latents were made with 64"),
        ([], {"vae": "sdxl-kl"}, "encode.vae is 'shapes-kl', but the latents were made with 'sdxl-kl'"),
        ([], {"vae_sha256": "0123456789abcdef"}, "are not those that made the latents (0123456789abcdef)"),
        (["train.start_from=MODELS/none"], {}, "train.start_from is 'MODELS/none', but there is no folder"),
        (["train.start_from=MODELS/vae"], {}, "has no model_index.json"),
        (["train.start_from=MODELS/other"], {}, "is a FluxPipeline: supported are"),
        (["train.start_from=MODELS/sd"], {}, "train.start_from is MODELS/sd, whose VAE has vae_sha256"),
    ],
)
def test_what_does_not_fit_is_refused(models: Path, facts: dict[str, Any], words: list[str], change: dict[str, Any], reason: str) -> None:
    asked = recipe(models, *[word.replace("MODELS", str(models)) for word in words])
    with pytest.raises(Refused, match=re.escape(reason.replace("MODELS", str(models)))):
        check(asked, [facts | change])


def test_another_scale_of_the_same_weights_is_refused(models: Path) -> None:
    stock = recipe(models, f"encode.model={models / 'sd'}", "encode.subfolder=vae", f"train.start_from={models / 'sd'}")
    with pytest.raises(Refused, match=r"has scaling_factor 0\.18215, but the latents come from one with 0\.5"):
        check(stock, [vae_facts(stock.encode) | {"scaling_factor": 0.5}])
