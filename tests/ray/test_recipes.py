"""Every CommonCanvas recipe trains through the stage: all its blocks, layers and heads, narrow, one step of each of its phases, on its licences alone."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from ccray import config, recipes, schema, storage
from ccray.config import Recipe, phases_of, sizes_of
from ccray.data.encoding import vae_facts
from ccray.data.loading.eligible import Doors
from ccray.models import pipeline
from ccray.stages import train
from ccray.storage import Root, shard_name
from tests import folders
from tests.training.tables import finish, write_shard

DIVISOR = 8  # of the widths: 320 becomes 40
PERMITTED = {
    "commoncanvas-s-c": ("CC0-1.0", "CC-BY-2.0", "CC-BY-SA-2.0"),
    "commoncanvas-s-nc": ("CC0-1.0", "CC-BY-2.0", "CC-BY-SA-2.0", "CC-BY-NC-2.0", "CC-BY-NC-SA-2.0"),
    "commoncanvas-l-nc": ("CC0-1.0", "CC-BY-2.0", "CC-BY-SA-2.0", "CC-BY-NC-2.0", "CC-BY-NC-SA-2.0"),
}
LICENSES = [*PERMITTED["commoncanvas-s-nc"], "CC-BY-ND-2.0", "CC-BY-NC-ND-2.0", "unknown", None]
SHARDS, ROWS = 2, 9
SIZES_PX = (64, 128)  # in place of 256 and 512
SMALLER = (
    "train.steps=1",
    "train.phases.512px.steps=1",
    f"train.phases.512px.size_px={SIZES_PX[1]}",
    f"encode.size_px={SIZES_PX[0]}",
    f"denoiser.sample_size={SIZES_PX[1] // 8}",
    f"denoiser.cross_attention_dim={folders.TEXT_WIDTH}",
    "denoiser.norm_num_groups=8",
    f"text.width={folders.TEXT_WIDTH}",
    "train.global_batch_size=2048",  # as published: more than there are rows, so one step sees them all
    "train.micro_batch_size=4",
    "train.warmup_steps=1",
    "train.log_every=1",
    "train.sample_prompts=[a dog on a beach]",
    "train.compile=false",  # compiling every block for a CPU takes longer than the step
    "publish.default_steps=2",
    "resources.train.workers=1",
    "resources.train.cpus=1",
    "resources.train.gpus=0",
    "resources.train.threads=1",
    "resources.train.label_selector={}",
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Narrow networks of SD2's own structure, in folders as it has them: `sd2/` with its parts, `vae/` alone."""
    path = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(8, 16, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        norm_num_groups=8,
        latent_channels=4,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=260,
            hidden_size=folders.TEXT_WIDTH,
            intermediate_size=4 * folders.TEXT_WIDTH,
            num_hidden_layers=23,
            num_attention_heads=16,
            hidden_act="gelu",
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=3,
        )
    )
    vae.save_pretrained(path / "sd2/vae")
    vae.save_pretrained(path / "vae")
    text.save_pretrained(path / "sd2/text_encoder")
    folders.byte_tokenizer().save_pretrained(path / "sd2/tokenizer")
    for folder in ("sd2", "vae"):
        folders.carded(path / folder)
    return path


def narrow(name: str, models: Path) -> Recipe:
    """The recipe with its widths divided; its own block types, layers, heads and depths of transformers."""
    full = recipes.named(name)
    widths = [width // DIVISOR for width in full.denoiser.block_out_channels]  # type: ignore[union-attr]
    vae = models / ("sd2" if full.encode.subfolder else "vae")
    words = [f"denoiser.block_out_channels={widths}", f"encode.model={vae}", f"text.model={models / 'sd2'}"]
    return config.build(full, [*SMALLER, *words])


def license_of(key: int) -> str | None:
    return LICENSES[key % 100 % len(LICENSES)]


def write_tables(root: Root, recipe: Recipe) -> None:
    """Finished catalog with every licence, captions, and latents of noise for each size."""
    encodes, captions = storage.stages_of(recipe, "encode"), storage.caption_stage(recipe, next(iter(recipe.caption)))
    for shard in range(SHARDS):
        keys = np.arange(ROWS) + 100 * shard
        write_shard(root, shard, keys, doors=Doors(encodes[0].directory, ((captions.directory, 1.0),), "catalog", recipe.catalog.policy))
        path = f"catalog/{shard_name(shard)}"
        catalog = root.read_table(path)
        licenses = pa.array([license_of(key) for key in keys.tolist()], pa.string())
        root.write_table(path, catalog.set_column(catalog.schema.get_field_index("license"), "license", licenses))
        larger(root, encodes[0].directory, encodes[1].directory, shard, SIZES_PX[1] // 8)
    for stage in (storage.stage_of(recipe, "catalog"), captions):
        finish(root, stage)
    for stage, size_px in zip(encodes, sizes_of(recipe), strict=True):
        with storage.running(root, stage) as manifest:
            manifest.facts = vae_facts(recipe.encode.model_copy(update={"size_px": size_px}))
            manifest.shards = {shard_name(shard): ROWS for shard in range(SHARDS)}
            manifest.rows = SHARDS * ROWS


def larger(root: Root, source: str, target: str, shard: int, side: int) -> None:
    """The same rows with latents of another side."""
    table = root.read_table(f"{source}/{shard_name(shard)}")
    noise = np.random.default_rng(shard).standard_normal((2, len(table), 4 * side * side)).astype(np.float16)
    columns = {"latent_mean": list(noise[0]), "latent_std": list(np.abs(noise[1]) / 10), "latent_shape": [[4, side, side]] * len(table)}
    for name, values in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values, schema.LATENTS.field(name).type))
    storage.seal(root, target, shard, table, schema.LATENTS, "key")


def structure(unet: UNet2DConditionModel) -> dict[str, tuple[str, int | None]]:
    """Every module's name, class and number of heads: what is left of a network when its widths are forgotten."""
    return {name: (type(module).__name__, getattr(module, "heads", None)) for name, module in unet.named_modules()}


@pytest.mark.ray
@pytest.mark.parametrize("name", PERMITTED)
def test_one_step_of_each_phase_on_exactly_its_licences(ray_cluster: None, tmp_path: Path, models: Path, name: str) -> None:
    recipe, root = narrow(name, models), Root(str(tmp_path / "root"))
    write_tables(root, recipe)
    found = train.run(recipe, root)
    keys = [int(key) for shard in range(SHARDS) for key in np.arange(ROWS) + 100 * shard if license_of(key) in PERMITTED[name]]
    seen = root.read_table(found.facts["seen"]).to_pydict()
    assert seen["key"] == keys
    assert seen["times"] == [2] * len(keys), "once in each phase"
    assert found.facts["steps"] == len(phases_of(recipe)) == 2
    losses = [json.loads(line)["loss"] for line in root.read(f"checkpoints/{recipe.train.name}/metrics.jsonl").splitlines()]
    assert len(losses) == 2
    assert all(0.3 < loss < 3 for loss in losses), "an untrained denoiser misses noise of variance 1 by about that"
    trained = pipeline.load_folder(root.path(found.facts["model"]))
    with torch.device("meta"):
        full = UNet2DConditionModel(**recipes.named(name).denoiser.model_dump(exclude={"kind"}))
    assert structure(trained.denoiser) == structure(full)
    assert trained.size_px == SIZES_PX[1]
    fresh = pipeline.fresh_denoiser(recipe).state_dict()
    moved = [name for name, tensor in trained.denoiser.state_dict().items() if not torch.equal(tensor, fresh[name])]
    assert len(moved) == len(fresh), "every weight learns"
