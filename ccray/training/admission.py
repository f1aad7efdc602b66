"""Whether latents, text and denoiser belong together, found out before anything is written."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ccray import storage
from ccray.config import Recipe, final_size_px, phases_of, sizes_of
from ccray.interfaces import Refused
from ccray.models import pipeline
from ccray.storage import Root

READERS = 16


def check(recipe: Recipe, latents: Sequence[dict[str, Any]]) -> None:
    """Compare the recipe, and the models of it that are on this disk, with the facts of the latents' manifests, one for each of `sizes_of(recipe)`.

    Raises:
        Refused: when they do not fit, naming both sides.
    """
    for size_px, facts in zip(sizes_of(recipe), latents, strict=True):
        _check_size(recipe, size_px, facts)


def check_shards(root: Root, directory: str, shards: dict[str, int]) -> None:
    """Whether every file of latents that their manifest lists is there and whole.

    Args:
        root: where they lie.
        directory: of the latents.
        shards: file -> rows, as the manifest says.

    Raises:
        Refused: when one is missing, cannot be read, or has other rows.
    """
    there = set(root.names(directory))
    with ThreadPoolExecutor(READERS) as pool:  # a shard is one wait on the store
        faults = pool.map(lambda name: _fault(root, directory, name, shards[name], name in there), shards)
        found = next((fault for fault in faults if fault is not None), None)
    if found is not None:
        raise Refused(f"{found}: put it back, or remove {root.path(directory)} and run `ccray encode` again")


def _fault(root: Root, directory: str, name: str, rows: int, there: bool) -> str | None:
    """What is wrong with one file."""
    path, told = root.path(f"{directory}/{name}"), f"{directory}/{storage.MANIFEST} lists it with {rows}"
    if not there:
        return f"{path} is missing, but {told} rows"
    try:
        with pq.ParquetFile(path, filesystem=root.filesystem) as file:
            found = file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        return f"{path} cannot be read as Parquet ({' '.join(str(error).split())[:200]})"
    return None if found == rows else f"{path} has {found} rows, but {told}"


def check_machines(recipe: Recipe) -> None:
    """Whether what the recipe asks of machines goes together.

    Raises:
        Refused: when it does not, naming both sides.
    """
    wanted, text = recipe.resources.train, recipe.resources.text
    least = wanted.workers if wanted.min_workers is None else wanted.min_workers
    if least > wanted.workers:
        raise Refused(f"resources.train.min_workers is {least}, but resources.train.workers is {wanted.workers}: expected as many at most")
    if text is not None and text.min_actors > text.max_actors:
        raise Refused(
            f"resources.text.min_actors is {text.min_actors}, but resources.text.max_actors is {text.max_actors}: all of max_actors are started, "
            "so expected as many at most"
        )
    for phase in phases_of(recipe):
        size = f"train.{f'phases.{phase.name}.' if phase.name else ''}global_batch_size is {phase.global_batch_size}"
        if phase.global_batch_size < wanted.workers:
            raise Refused(f"{size}, but resources.train.workers is {wanted.workers}: expected a row for every rank at least")
        uneven = [ranks for ranks in range(least, wanted.workers + 1) if phase.global_batch_size % ranks]
        if recipe.train.latents == "online" and uneven:
            raise Refused(
                f"{size}, but with train.latents=online every rank gets as many rows, and {uneven[0]} ranks may share it: expected a multiple"
            )


def _check_size(recipe: Recipe, size_px: int, latents: dict[str, Any]) -> None:
    if recipe.train.precision == "fp16":
        raise Refused("train.precision is 'fp16': expected fp32, bf16 or fp64 (gradients would underflow)")
    _check_vae(recipe, size_px, latents)
    if recipe.train.start_from is not None:
        _check_start(recipe.train.start_from, latents)
        return
    if recipe.denoiser.in_channels != latents["latent_channels"]:
        raise Refused(f"denoiser.in_channels is {recipe.denoiser.in_channels}, but the latents have {latents['latent_channels']} channels")
    if size_px == final_size_px(recipe) and recipe.denoiser.sample_size != latents["latent_size"]:
        raise Refused(f"denoiser.sample_size is {recipe.denoiser.sample_size}, but the latents are {latents['latent_size']} wide")
    storage.require_model("text.model", recipe.text.model)
    if recipe.text.tokenizer is not None:
        storage.require_model("text.tokenizer", recipe.text.tokenizer)
    width = _text_width(_settings(recipe.text.model, recipe.text.subfolder))
    if width not in (None, recipe.text.width):
        raise Refused(f"text.width is {recipe.text.width}, but the features of {recipe.text.model} are {width} wide")


def _check_vae(recipe: Recipe, size_px: int, latents: dict[str, Any]) -> None:
    storage.require_model("encode.model", recipe.encode.model)
    asked = {"vae": recipe.encode.vae, "model": recipe.encode.model, "size_px": size_px}
    for key, value in asked.items():
        if latents[key] != value:
            raise Refused(f"encode.{key} is {value!r}, but the latents were made with {latents[key]!r}: run `ccray encode` under another --root")
    now = storage.weights_digest(str(Path(storage.model_path(recipe.encode.model), recipe.encode.subfolder or "")))
    if None not in (now, latents["vae_sha256"]) and now != latents["vae_sha256"]:
        raise Refused(f"the weights of {recipe.encode.model} ({now}) are not those that made the latents ({latents['vae_sha256']}): encode anew")


def _check_start(start_from: str, latents: dict[str, Any]) -> None:
    """A folder to start from brings its own VAE; a hub name is looked at when it is loaded."""
    storage.require_model("train.start_from", start_from)
    folder = Path(storage.model_path(start_from)).expanduser()
    if not folder.is_dir():
        return
    pipeline.read_index(str(folder))
    vae = _settings(str(folder), "vae") or {}
    scale = {"scaling_factor": vae.get("scaling_factor", 0.18215), "shift_factor": vae.get("shift_factor") or 0.0}
    found = {"vae_sha256": storage.weights_digest(str(folder / "vae")), **scale}
    for key, value in found.items():
        if latents[key] is not None and value != latents[key]:
            raise Refused(
                f"train.start_from is {start_from}, whose VAE has {key} {value}, but the latents come from one with {latents[key]}: "
                f"encode with encode.model={start_from} encode.subfolder=vae"
            )


def _settings(model: str, subfolder: str | None) -> dict[str, Any] | None:
    """A model's config.json; None when it is not on this disk."""
    path = Path(storage.model_path(model), subfolder or "", "config.json")
    return json.loads(path.read_text()) if path.is_file() else None


def _text_width(settings: dict[str, Any] | None) -> int | None:
    """Numbers in a token's feature, as transformers' configurations call it."""
    if settings is None:
        return None
    settings = settings.get("text_config", settings)
    return settings.get("hidden_size", settings.get("d_model"))
