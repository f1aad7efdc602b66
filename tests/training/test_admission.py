"""What does not fit is refused with both sides named."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ccray import config, recipes, storage
from ccray.config import Recipe
from ccray.data.encoding import vae_facts
from ccray.interfaces import Refused
from ccray.storage import Root
from ccray.training.admission import check, check_machines, check_shards
from tests import folders
from tests.training.tables import DOORS, write_shard


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


def test_latents_that_lack_a_file_are_refused(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    for shard in range(3):
        write_shard(root, shard, np.arange(5) + 10 * shard)
    shards = {storage.shard_name(shard): 5 for shard in range(3)}
    check_shards(root, DOORS.latents, shards)
    with pytest.raises(Refused, match=r"shard-00001.parquet has 5 rows, but latents/test-32px/manifest.json lists it with 6"):
        check_shards(root, DOORS.latents, shards | {storage.shard_name(1): 6})
    last = f"{DOORS.latents}/{storage.shard_name(2)}"
    root.write(last, root.read(last)[:-20])
    with pytest.raises(Refused, match=r"shard-00002.parquet cannot be read as Parquet .*run `ccray encode` again"):
        check_shards(root, DOORS.latents, shards)
    root.delete(last)
    with pytest.raises(Refused, match=r"shard-00002.parquet is missing, but latents/test-32px/manifest.json lists it with 5 rows: put it back"):
        check_shards(root, DOORS.latents, shards)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["resources.train.min_workers=3", "resources.train.workers=2"], "resources.train.min_workers is 3, but resources.train.workers is 2"),
        (["resources.text={min_actors: 2}"], "resources.text.min_actors is 2, but resources.text.max_actors is 1"),
        (["resources.train.workers=5", "train.global_batch_size=4"], "train.global_batch_size is 4, but resources.train.workers is 5"),
        (
            ["resources.train.workers=5", "train.phases={large: {size_px: 32, steps: 5, global_batch_size: 4}}"],
            "train.phases.large.global_batch_size is 4, but resources.train.workers is 5",
        ),
        (
            ["train.latents=online", "train.global_batch_size=8", "resources.train.workers=4", "resources.train.min_workers=2"],
            "train.global_batch_size is 8, but with train.latents=online every rank gets as many rows, and 3 ranks may share it",
        ),
    ],
)
def test_machines_that_do_not_go_together_are_refused(models: Path, words: list[str], reason: str) -> None:
    check_machines(recipe(models, "resources.train.workers=2"))
    with pytest.raises(Refused, match=re.escape(reason)):
        check_machines(recipe(models, *words))
