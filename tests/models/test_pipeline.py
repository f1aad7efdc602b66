import json
import os
import subprocess
import sys
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, PNDMScheduler
from transformers import CLIPTextConfig, CLIPTextModel

from ccray import config, recipes
from ccray.config import ObjectiveConfig, Recipe
from ccray.diffusion.generate import generate, generate_latents
from ccray.interfaces import Refused
from ccray.models.pipeline import Components, from_recipe, load_folder, objective_of, save_folder, scheduler_for
from tests import folders

PROMPTS, SEEDS, STEPS, GUIDANCE = ["a red circle", "赤い丸 in the MIDDLE "], [3, 2**40], 6, 3.0

# What a stranger does with a published folder: stock diffusers, no ccray.
STRANGER = """
import json, sys
import numpy as np, torch
from diffusers import DiffusionPipeline
prompts, seeds, steps, guidance, cases = json.loads(sys.argv[1])
for folder, extra, target in cases:
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    for kind, name in (("latent", "latents"), ("np", "pictures")):
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        images = pipeline(prompts, generator=generators, num_inference_steps=steps, guidance_scale=guidance, output_type=kind, **extra).images
        np.save(f"{target}-{name}.npy", np.asarray(images))
assert not [name for name in sys.modules if name.startswith("ccray")], "ccray was imported"
"""


def recipe_of(path: Path, kind: str, *words: str, text: str = "clip") -> Recipe:
    base = recipes.named("tiny" if kind == "unet" else "tiny-dit")
    return config.build(base, [*folders.settings(path, kind, text), *words])


def shaken(recipe: Recipe) -> Components:
    components = from_recipe(recipe)
    folders.shake(components.denoiser)
    return components


CASES = {
    "unet-epsilon": ("unet", ["objective.kind=epsilon"], "clip"),
    "unet-v": ("unet", ["objective.kind=v"], "clip"),
    "unet-v-terminal": ("unet", ["objective.kind=v", "objective.zero_terminal_snr=true"], "clip"),
    "unet-penultimate": ("unet", ["objective.kind=v", "objective.min_snr_gamma=5", "text.layer=-2"], "clip"),
    "unet-flow": ("unet", ["objective.kind=flow", "objective.flow_shift=2.0"], "clip"),
    "pixart-flow": ("pixart", ["objective.kind=flow"], "clip"),
    "pixart-llama": ("pixart", ["objective.kind=v"], "llama"),
    "pixart-learned-sigma": ("pixart", ["objective.kind=epsilon", "objective.learned_sigma=true", "denoiser.out_channels=8"], "t5"),
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Components], Path]:
    """Our folders, and what a process without ccray draws from them."""
    place = tmp_path_factory.mktemp("published")
    models, jobs = {}, []
    for name, (kind, words, text) in CASES.items():
        models[name] = shaken(recipe_of(place / f"{name}-parts", kind, *words, text=text))
        save_folder(models[name], place / name)
        extra = {} if kind == "unet" else {"use_resolution_binning": False, "clean_caption": False, "max_sequence_length": 24}
        jobs.append((str(place / name), extra, str(place / name)))
    arguments = json.dumps([PROMPTS, SEEDS, STEPS, GUIDANCE, jobs])
    quiet = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", STRANGER, arguments], check=True, cwd=place, env=quiet, capture_output=True, text=True)
    return models, place


@pytest.mark.parametrize("name", CASES)
def test_a_stranger_draws_the_same_from_our_folder(published: tuple[dict[str, Components], Path], name: str) -> None:
    models, place = published
    latents = generate_latents(models[name], PROMPTS, SEEDS, steps=STEPS, guidance=GUIDANCE)
    assert latents.std() > 0.1
    assert np.abs(latents.numpy() - np.load(f"{place / name}-latents.npy")).max() < 1e-4
    pictures = generate(models[name], PROMPTS, SEEDS, steps=STEPS, guidance=GUIDANCE)
    theirs = np.load(f"{place / name}-pictures.npy") * 255
    assert pictures.shape == (2, 32, 32, 3)
    assert np.abs(pictures - theirs).max() < 0.51


@pytest.mark.parametrize("name", CASES)
def test_saved_and_loaded_is_the_same_model(published: tuple[dict[str, Components], Path], name: str) -> None:
    models, place = published
    before, after = models[name], load_folder(place / name)
    for part in ("denoiser", "text", "autoencoder"):
        one, other = (getattr(model, part) if part == "denoiser" else getattr(model, part).module for model in (before, after))
        assert all(torch.equal(weight, other.state_dict()[key]) for key, weight in one.state_dict().items()), part
    for fact in ("objective", "family", "size_px", "default_steps", "default_guidance", "max_tokens", "pipeline"):
        assert getattr(before, fact) == getattr(after, fact), fact
    drawn = [generate_latents(model, PROMPTS, SEEDS, steps=3, guidance=GUIDANCE) for model in (before, after)]
    assert torch.equal(*drawn)
    safe = {path.suffix for path in (place / name).rglob("*") if path.is_file() and path.stat().st_size > 50_000}
    assert safe == {".safetensors"}


BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
FOREIGN = {
    "ddim": lambda: DDIMScheduler(**BETAS),  # clip_sample and steps_offset as old folders have them
    "pndm": lambda: PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1),
    "dpm": lambda: DPMSolverMultistepScheduler(**BETAS, use_karras_sigmas=True),
    "dpm-v": lambda: DPMSolverMultistepScheduler(**BETAS, prediction_type="v_prediction"),
    "dpm-v-terminal": lambda: DPMSolverMultistepScheduler(
        **BETAS, prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    ),
    "ddim-v-terminal": lambda: DDIMScheduler(
        **BETAS, prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False
    ),
    "euler-v-terminal": lambda: diffusers.EulerDiscreteScheduler(
        **BETAS, prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    ),
    "dpm-sde": lambda: DPMSolverMultistepScheduler(**BETAS, algorithm_type="sde-dpmsolver++"),
    "euler": lambda: diffusers.EulerDiscreteScheduler(**BETAS),
    "euler-ancestral": lambda: diffusers.EulerAncestralDiscreteScheduler(**BETAS),
    "heun": lambda: diffusers.HeunDiscreteScheduler(**BETAS),
    "unipc": lambda: diffusers.UniPCMultistepScheduler(**BETAS),
}


def stock_latents(folder: Path, dtype: torch.dtype = torch.float32, **settings: object) -> torch.Tensor:
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, torch_dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in SEEDS]
    return pipeline(PROMPTS, generator=generators, num_inference_steps=STEPS, output_type="latent", **settings).images


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_stable_diffusion_folder_draws_as_in_stock_diffusers(tmp_path: Path, name: str) -> None:
    folder = folders.stable_diffusion_folder(tmp_path, FOREIGN[name]())
    components = load_folder(folder)
    assert (components.size_px, components.max_tokens, components.family) == (32, 77, "unet")
    assert components.objective.kind == ("v" if "-v" in name else "epsilon")
    assert components.objective.zero_terminal_snr == name.endswith("-terminal")
    theirs = stock_latents(folder, guidance_scale=GUIDANCE, negative_prompt=["blue", ""])
    ours = generate_latents(components, PROMPTS, SEEDS, ["blue", ""], STEPS, GUIDANCE)
    assert (ours - theirs).abs().max() < 1e-4


@pytest.mark.parametrize("out_channels", [4, 8])
def test_a_foreign_pixart_folder_draws_as_in_stock_diffusers(tmp_path: Path, out_channels: int) -> None:
    folder = folders.pixart_folder(tmp_path, out_channels=out_channels)
    components = load_folder(folder)
    assert (components.max_tokens, components.objective.learned_sigma) == (300, out_channels == 8)
    theirs = stock_latents(folder, guidance_scale=GUIDANCE, use_resolution_binning=False, clean_caption=False)
    ours = generate_latents(components, PROMPTS, SEEDS, steps=STEPS, guidance=GUIDANCE)
    assert (ours - theirs).abs().max() < 1e-4


def test_no_guidance_and_other_sizes_as_in_stock_diffusers(tmp_path: Path) -> None:
    folder = folders.stable_diffusion_folder(tmp_path)
    components = load_folder(folder)
    theirs = stock_latents(folder, guidance_scale=1.0, height=48, width=32)
    ours = generate_latents(components, PROMPTS, SEEDS, steps=STEPS, guidance=1.0, size_px=(48, 32))
    assert ours.shape == (2, 4, 12, 8)
    assert (ours - theirs).abs().max() < 1e-4


def test_lower_precision_draws_as_in_stock_diffusers(tmp_path: Path) -> None:
    folder = folders.stable_diffusion_folder(tmp_path)
    components = load_folder(folder, precision="bf16")
    assert components.dtype == torch.bfloat16
    theirs = stock_latents(folder, torch.bfloat16, guidance_scale=3.3)
    assert torch.equal(generate_latents(components, PROMPTS, SEEDS, steps=STEPS, guidance=[3.3, 3.3]), theirs)
    assert generate(components, PROMPTS, SEEDS, steps=2).shape == (2, 32, 32, 3)


@pytest.mark.parametrize(
    "settings", [{"kind": "epsilon"}, {"kind": "v"}, {"kind": "v", "zero_terminal_snr": True}, {"kind": "flow", "flow_shift": 3.0}]
)
def test_a_scheduler_of_ours_says_its_objective(settings: dict[str, object]) -> None:
    objective = ObjectiveConfig(**settings)
    assert objective_of(scheduler_for(objective), folders.unet()) == objective


def spoil(folder: Path, file: str, **changes: object) -> Path:
    """Change settings of one JSON file."""
    place = folder / file
    place.write_text(json.dumps(json.loads(place.read_text()) | changes))
    return folder


def pickled(folder: Path) -> Path:
    for path in (folder / "unet").glob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))
    return folder


def spoil_width(folder: Path) -> Path:
    narrow = CLIPTextConfig(vocab_size=260, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    CLIPTextModel(narrow).save_pretrained(folder / "text_encoder")
    return folder


def truncated(folder: Path, part: str) -> Path:
    weights = next((folder / part).glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    return folder


REFUSED = {
    "another pipeline": (
        lambda f: spoil(f, "model_index.json", _class_name="StableDiffusionXLPipeline"),
        "is a StableDiffusionXLPipeline: supported are",
    ),
    "code of its own": (
        lambda f: spoil(f, "model_index.json", unet=["my_unet", "MyUNet"]),
        "its unet is a MyUNet, supported are UNet2DConditionModel",
    ),
    "an unknown scheduler": (lambda f: spoil(f, "model_index.json", scheduler=["diffusers", "LCMScheduler"]), "its scheduler is a LCMScheduler"),
    "pickled weights": (pickled, "with safetensors weights"),
    "a truncated UNet": (lambda f: truncated(f, "unet"), "cannot be loaded"),
    "a truncated VAE": (lambda f: truncated(f, "vae"), "cannot be loaded"),
    "a truncated text encoder": (lambda f: truncated(f, "text_encoder"), "cannot be loaded"),
    "weights of another size": (lambda f: spoil(f, "unet/config.json", cross_attention_dim=64), "cannot be loaded"),
    "an index that is not JSON": (lambda f: (f / "model_index.json").write_text("{") and f, "neither a diffusers folder"),
    "no text encoder": (lambda f: (f / "text_encoder").rename(f / "gone") and f, "cannot be loaded"),
    "no tokenizer": (lambda f: (f / "tokenizer").rename(f / "gone") and f, "cannot be loaded"),
    "a text encoder of another width": (spoil_width, "text features are 16 wide"),
    "predicting the sample": (lambda f: spoil(f, "scheduler/scheduler_config.json", prediction_type="sample"), "prediction_type is 'sample'"),
    "another noise schedule": (lambda f: spoil(f, "scheduler/scheduler_config.json", beta_schedule="squaredcos_cap_v2"), "noise schedule"),
    "epsilon where nothing but noise is left": (
        lambda f: spoil(f, "scheduler/scheduler_config.json", rescale_betas_zero_snr=True),
        "cannot be trained with: .*zero_terminal_snr is true with kind 'epsilon'",
    ),
    "consistency model": (lambda f: spoil(f, "unet/config.json", time_cond_proj_dim=32), "time_cond_proj_dim=32"),
    "broken facts": (lambda f: (f / "ccray.json").write_text("{}") and f, "is not what ccray writes"),
    "nothing": (lambda f: f / "unet", "has no model_index.json"),
    "a name that is nowhere": (lambda f: "nobody/nothing-of-this-name", "neither a diffusers folder nor a hub name"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_understood_is_refused_by_name(tmp_path: Path, what: str) -> None:
    change, message = REFUSED[what]
    place = change(folders.stable_diffusion_folder(tmp_path / "model"))
    with pytest.raises(Refused, match=message):
        load_folder(place)


def test_a_folder_that_says_more_than_is_asked_for_is_read(tmp_path: Path) -> None:
    """Earlier versions named the text encoder's layer."""
    save_folder(shaken(recipe_of(tmp_path, "unet", "objective.min_snr_gamma=5", "objective.kind=v")), tmp_path / "model")
    components = load_folder(spoil(tmp_path / "model", "ccray.json", layer=-1))
    assert components.objective == ObjectiveConfig(kind="v", min_snr_gamma=5)


def test_micro_conditioned_pixart_is_refused(tmp_path: Path) -> None:
    folder = spoil(folders.pixart_folder(tmp_path), "transformer/config.json", use_additional_conditions=True)
    with pytest.raises(Refused, match="conditioned on resolution and aspect ratio"):
        load_folder(folder)


def test_learned_sigma_of_a_unet_is_not_published(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, "unet", "objective.kind=epsilon", "objective.learned_sigma=true", "denoiser.out_channels=8")
    with pytest.raises(Refused, match="cannot be saved"):
        save_folder(from_recipe(recipe), tmp_path / "model")


def test_a_recipe_that_does_not_fit_its_vae_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"denoiser\.sample_size is 8, but pictures of 64 px make latents of side 16"):
        from_recipe(recipe_of(tmp_path, "unet", "encode.size_px=64"))
    with pytest.raises(Refused, match=r"denoiser\.in_channels is 8"):
        from_recipe(recipe_of(tmp_path, "unet", "denoiser.in_channels=8", "denoiser.out_channels=8"))


def test_a_fresh_denoiser_is_a_matter_of_the_seed(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, "unet")
    torch.manual_seed(1)
    one = from_recipe(recipe).denoiser.state_dict()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    other = from_recipe(recipe).denoiser.state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[key], other[key]) for key in one)
    third = from_recipe(config.build(recipe, ["train.seed=5"])).denoiser.state_dict()
    assert not all(torch.equal(one[key], third[key]) for key in one)


def test_start_from_brings_the_folders_model(tmp_path: Path) -> None:
    folder = folders.stable_diffusion_folder(tmp_path / "model")
    recipe = recipe_of(tmp_path, "pixart", f"train.start_from={folder}", "encode.size_px=64")
    components = from_recipe(recipe)
    assert (components.family, components.objective.kind, components.size_px) == ("unet", "epsilon", 64)
    save_folder(components, tmp_path / "again")
    again = load_folder(tmp_path / "again")
    assert again.size_px == 64
    assert all(torch.equal(weight, again.denoiser.state_dict()[key]) for key, weight in components.denoiser.state_dict().items())


def test_a_denoiser_may_be_given(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, "unet")
    given = folders.unet()
    assert from_recipe(recipe, given).denoiser is given
