"""The plan of a recipe: every stage's GPU-hours, days, dollars and bytes."""

import math
from dataclasses import asdict, dataclass

from ccray.config import Phase, Recipe, final_size_px, phases_of, sizes_of, total_steps
from ccray.interfaces import Refused
from ccray.planning import counting
from ccray.planning.rates import Basis, Job, Rate, Speed, check_gpu, speed

ROW_BYTES = 16  # of a row of captions or latents beside its words or numbers: key, shard, status
CHARACTERS_PER_TOKEN = 4
ADAM_COPIES = 3  # fp32 weights and both moments of AdamW
# Weights of the linear layers, which each token of a caption meets, by `text.encoder`.
TEXT_WEIGHTS = {"openclip-h": 289_406_976, "calm2-7b": 6_476_005_376}


@dataclass(frozen=True)
class Line:
    """One piece of work. GPU-hours, days and dollars are None where nothing is known."""

    stage: str
    what: str
    samples: int
    samples_per_second: float | None = None
    gpu_hours: float | None = None
    days: float | None = None
    dollars: float | None = None
    basis: Basis | None = None
    source: str = ""


@dataclass(frozen=True)
class Stored:
    """What a stage leaves on disk; None where nothing is known."""

    stage: str
    what: str
    bytes: int | None


@dataclass(frozen=True)
class Asked:
    """What is to be planned for."""

    images: int
    gpus: int
    gpu: str
    dollars_per_gpu_hour: float | None = None
    bytes_per_image: float | None = None  # as fetched and kept


@dataclass(frozen=True)
class Plan:
    """A recipe on some GPUs, its stages one after the other."""

    recipe: str
    asked: Asked
    work: tuple[Line, ...]
    stored: tuple[Stored, ...]
    epochs: float  # how often training sees each image
    text_features_bytes: int  # what features of one caption an image would take in half precision, padded; they are made while training instead

    def total(self, stage: str | None = None) -> Line:
        """The sum of a stage's lines, or of all; what is unknown is left out of it."""
        lines = [line for line in self.work if stage in (None, line.stage) and line.gpu_hours is not None]
        hours = sum(line.gpu_hours or 0 for line in lines)
        estimated = any(line.basis == "estimated" for line in lines)
        return _timed(Line(stage or "total", "", 0, basis="estimated" if estimated else "measured"), self.asked, hours)


def plan(recipe: Recipe, asked: Asked, table: list[Rate]) -> Plan:
    """What the recipe takes.

    Raises:
        Refused: on a number that is not above 0, and when this kind of GPU, or the denoiser's blocks, are not known.
    """
    _check(asked)
    check_gpu(table, asked.gpu)
    lines = [*_captions(recipe, asked, table), *_latents(recipe, asked, table)]
    for phase in phases_of(recipe):
        lines += _phase(recipe, phase, asked, table)
    samples = sum(phase.steps * phase.global_batch_size for phase in phases_of(recipe))
    text_bytes = 2 * asked.images * recipe.text.max_tokens * recipe.text.width
    return Plan(recipe.name, asked, tuple(lines), tuple(_stored(recipe, asked)), samples / asked.images, text_bytes)


def _check(asked: Asked) -> None:
    for name, value in asdict(asked).items():
        if isinstance(value, int | float) and not 0 < value < math.inf:
            raise Refused(f"--{name.replace('_', '-')} is {value}: expected a number above 0")


def denoiser_name(recipe: Recipe) -> str:
    """As the table of rates calls it: unet-866m."""
    return f"{recipe.denoiser.kind}-{counting.denoiser(recipe, final_size_px(recipe)).weights / 1e6:.0f}m"


def _captions(recipe: Recipe, asked: Asked, table: list[Rate]) -> list[Line]:
    jobs = {name: Job("caption", one.model, asked.gpu, asked.gpus) for name, one in recipe.caption.items()}
    return [_line("caption", f"{name}: {job.model}", asked.images, asked, speed(table, job)) for name, job in jobs.items()]


def _latents(recipe: Recipe, asked: Asked, table: list[Rate]) -> list[Line]:
    """Every size from one reading of each image; online, each picture anew whenever it is trained on."""
    if recipe.train.latents == "stored":
        wanted = [(tuple(sorted(sizes_of(recipe))), asked.images)]
    else:
        wanted = [((phase.size_px,), phase.steps * phase.global_batch_size) for phase in phases_of(recipe)]
    jobs = [(Job("encode", recipe.encode.vae, asked.gpu, asked.gpus, sizes), samples) for sizes, samples in wanted]
    return [_line("encode", f"{job.model} at {'+'.join(map(str, job.size_px))} px", samples, asked, speed(table, job)) for job, samples in jobs]


def _phase(recipe: Recipe, phase: Phase, asked: Asked, table: list[Rate]) -> list[Line]:
    """Steps without the average, steps with it, and the text encoder beside them."""
    name, gflop = denoiser_name(recipe), counting.denoiser(recipe, phase.size_px).gflop
    lines = []
    for ema, steps in ((False, phase.steps - phase.ema_steps), (True, phase.ema_steps)):
        if steps:
            job = Job("train", name, asked.gpu, asked.gpus, (phase.size_px,), ema, gflop)
            what = f"{name} at {phase.size_px} px, {steps:,} steps{' with the average' if ema else ''}"
            lines.append(_line("train", what, steps * phase.global_batch_size, asked, speed(table, job)))
    return lines + _text(recipe, phase, lines, gflop, asked)


def _text(recipe: Recipe, phase: Phase, lines: list[Line], gflop: float, asked: Asked) -> list[Line]:
    """The text encoder, at the FLOP/s that the denoiser reaches there; a denoiser's backward pass takes twice its forward pass."""
    text, hours = _text_gflop(recipe), sum(line.gpu_hours or 0 for line in lines)
    if text is None or not hours:
        return []
    share = text / (3 * gflop)
    source = f"at the FLOP/s that the denoiser reaches; {share:.1%} of its operations"
    what = f"{recipe.text.encoder} beside {phase.size_px} px"
    return [_timed(Line("text", what, phase.steps * phase.global_batch_size, basis="estimated", source=source), asked, share * hours)]


def _text_gflop(recipe: Recipe) -> float | None:
    """Of one caption's forward pass; None for an encoder that is not known."""
    weights = TEXT_WEIGHTS.get(recipe.text.encoder)
    return None if weights is None else 2 * weights * recipe.text.max_tokens / 1e9


def _line(stage: str, what: str, samples: int, asked: Asked, found: Speed | None) -> Line:
    if found is None:
        return Line(stage, what, samples, source="no rate is known: measure it and give --rates FILE")
    line = Line(stage, what, samples, found.samples_per_second, basis=found.basis, source=found.source)
    return _timed(line, asked, samples / found.samples_per_second * asked.gpus / 3600)


def _timed(line: Line, asked: Asked, gpu_hours: float) -> Line:
    dollars = None if asked.dollars_per_gpu_hour is None else gpu_hours * asked.dollars_per_gpu_hour
    rate = line.samples_per_second or (line.samples * asked.gpus / gpu_hours / 3600 if gpu_hours and line.samples else None)
    return Line(line.stage, line.what, line.samples, rate, gpu_hours, gpu_hours / asked.gpus / 24, dollars, line.basis, line.source)


def _stored(recipe: Recipe, asked: Asked) -> list[Stored]:
    images = asked.images
    if asked.bytes_per_image is None:
        found = [Stored("catalog", "pictures: give --bytes-per-image, the mean size of a file of your source", None)]
    else:
        found = [Stored("catalog", f"pictures of {asked.bytes_per_image:,.0f} bytes", round(images * asked.bytes_per_image))]
    for name, one in recipe.caption.items():
        found.append(Stored("caption", f"{name}, at most", images * (ROW_BYTES + CHARACTERS_PER_TOKEN * one.max_new_tokens)))
    kinds = "mean and std" if recipe.encode.store_std else "mean"
    for size_px in sizes_of(recipe) if recipe.train.latents == "stored" else ():
        found.append(Stored("encode", f"latents of {size_px} px, fp16 {kinds}", images * (ROW_BYTES + latent_bytes(recipe, size_px))))
    weights = counting.denoiser(recipe, final_size_px(recipe)).weights
    average = any(phase.ema_steps for phase in phases_of(recipe))
    kept = min(recipe.train.keep_checkpoints, -(-total_steps(recipe) // recipe.train.checkpoint_every))
    found.append(Stored("train", f"{kept} checkpoints, and the model in fp32", 4 * weights * (kept * (ADAM_COPIES + average) + 1)))
    return found


def latent_bytes(recipe: Recipe, size_px: int) -> int:
    """Of one picture's latents in half precision."""
    side = size_px * recipe.denoiser.sample_size // final_size_px(recipe)
    return 2 * recipe.denoiser.in_channels * side**2 * (2 if recipe.encode.store_std else 1)
