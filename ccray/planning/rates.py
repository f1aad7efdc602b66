"""Measured rates: a table, and what it says of a piece of work that is like one of its rows.

`rates.csv` beside this file holds what was published; `--rates FILE` reads one's own in the same form. A row says that `gpus` GPUs of a kind took
`seconds` for `samples`:

work      caption, encode or train
model     caption: the captioner's model; encode: `encode.vae`; train: the denoiser, such as unet-866m (its kind and millions of weights)
size_px   side of the pictures; of encode every size that is made of one picture, such as 256+512
ema       train: whether weights were averaged at every step
gflop     train: 10^9 operations of one forward pass of one sample, to tell what another denoiser would take; may be left out
basis     measured, or estimated where something had to be supposed
"""

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from ccray.interfaces import Refused

Work = Literal["caption", "encode", "train"]
Basis = Literal["measured", "estimated"]
COLUMNS = ("work", "model", "gpu", "gpus", "size_px", "ema", "samples", "seconds", "gflop", "basis", "source")
PUBLISHED = Path(__file__).with_name("rates.csv")

# Dense 16-bit tensor operations a second, from the makers' data sheets: how a kind of GPU that nobody measured is compared with one that was.
PEAK_FLOPS: dict[str, float] = {
    "v100": 125e12,
    "t4": 65e12,
    "a10g": 70e12,
    "l4": 121e12,
    "l40s": 362e12,
    "a100": 312e12,
    "h100": 989e12,
    "h200": 989e12,
    "b200": 2250e12,
}


@dataclass(frozen=True)
class Job:
    """A piece of work on some GPUs; fields as in the table."""

    work: Work
    model: str
    gpu: str
    gpus: int
    size_px: tuple[int, ...] = ()
    ema: bool = False
    gflop: float | None = None


@dataclass(frozen=True)
class Rate:
    """One row of the table."""

    job: Job
    samples_per_second: float  # of all its GPUs together
    basis: Basis
    source: str


@dataclass(frozen=True)
class Speed:
    """How fast a piece of work goes, and how that is known."""

    samples_per_second: float  # of all GPUs together
    basis: Basis
    source: str


def read(path: Path | str = PUBLISHED) -> list[Rate]:
    """The rows of a table.

    Raises:
        Refused: when it cannot be read, or a row is not one.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"--rates {path} cannot be read: {error}") from None
    lines = csv.DictReader(io.StringIO(text))
    if set(lines.fieldnames or ()) != set(COLUMNS):
        raise Refused(f"--rates {path} has the columns {', '.join(lines.fieldnames or ('none',))}: expected {', '.join(COLUMNS)}")
    rows = []
    for line in lines:
        try:
            rows.append(_row(line))
        except (ValueError, TypeError, AttributeError) as error:
            raise Refused(f"--rates {path}, line {lines.line_num}: {error}") from None
    return rows


def _row(line: dict[str, str]) -> Rate:
    words = {"work": get_args(Work), "basis": get_args(Basis), "ema": ("yes", "no", "")}
    for column, expected in words.items():
        if line[column] not in expected:
            raise ValueError(f"{column} is {line[column]!r}, expected one of {', '.join(filter(None, expected))}")
    sizes = tuple(int(size) for size in line["size_px"].split("+") if size)
    gflop = _positive(line, "gflop") if line["gflop"] else None
    job = Job(line["work"], line["model"], line["gpu"].lower(), int(_positive(line, "gpus")), sizes, line["ema"] == "yes", gflop)  # type: ignore[arg-type]
    return Rate(job, _positive(line, "samples") / _positive(line, "seconds"), line["basis"], line["source"])  # type: ignore[arg-type]


def _positive(line: dict[str, str], column: str) -> float:
    value = float(line[column])
    if not 0 < value < math.inf:
        raise ValueError(f"{column} is {line[column]!r}, expected a number above 0")
    return value


def check_gpu(table: list[Rate], gpu: str) -> None:
    """Raises:
    Refused: when neither the table nor the data sheets know this kind.
    """
    known = sorted({rate.job.gpu for rate in table} | set(PEAK_FLOPS))
    if gpu not in known:
        raise Refused(f"--gpu-type {gpu!r} is not known: expected one of {', '.join(known)}, or measure it and give --rates FILE")


def speed(table: list[Rate], job: Job) -> Speed | None:
    """What the table says of a job; None when it has no row to compare with.

    The nearest rows are taken: of the same kind of GPU before the same denoiser, before the same size, before the same kind of step. What differs
    is made up for in proportion: GPUs by peak FLOP/s, denoisers and sizes by operations, sizes of a VAE by pixels.
    """
    likely = [rate for rate in table if rate.job.work == job.work and _comparable(rate.job, job)]
    if not likely:
        return None
    nearest = min(likely, key=lambda rate: _distance(rate.job, job)).job
    group = [rate for rate in likely if _group(rate.job) == _group(nearest)]
    found = _at(group, job.gpus)
    differences = _differences(nearest, job)
    factor = math.prod(ratio for _, ratio in differences)
    basis: Basis = "estimated" if differences else found.basis
    source = "; ".join([found.source, *(words for words, _ in differences)])
    return Speed(found.samples_per_second * factor, basis, source)


def _group(job: Job) -> tuple[object, ...]:
    return job.gpu, job.model, job.size_px, job.ema


def _comparable(row: Job, job: Job) -> bool:
    if row.gpu != job.gpu and not {row.gpu, job.gpu} <= PEAK_FLOPS.keys():
        return False
    if row.work == "train" and _group(row)[1:3] != _group(job)[1:3]:
        return row.gflop is not None and job.gflop is not None
    return row.model == job.model


def _distance(row: Job, job: Job) -> tuple[float, ...]:
    apart = abs(math.log(sum(row.size_px) / sum(job.size_px))) if row.size_px and job.size_px else 0.0
    return row.gpu != job.gpu, row.model != job.model, apart, row.ema != job.ema


def _differences(row: Job, job: Job) -> list[tuple[str, float]]:
    """What is not as it was measured, in words, and by how much it makes the rate larger."""
    found: list[tuple[str, float]] = []
    if row.gpu != job.gpu:
        found.append((f"{row.gpu} to {job.gpu} by peak FLOP/s", PEAK_FLOPS[job.gpu] / PEAK_FLOPS[row.gpu]))
    if row.work == "train" and (row.model, row.size_px) != (job.model, job.size_px):
        assert row.gflop is not None
        assert job.gflop is not None
        found.append((f"{_named(row)} to {_named(job)} by operations", row.gflop / job.gflop))
    if row.work == "encode" and row.size_px != job.size_px:
        found.append((f"{_sizes(row)} to {_sizes(job)} by pixels", _pixels(row) / _pixels(job)))
    if row.work == "train" and row.ema != job.ema:
        found.append(("measured without the average" if job.ema else "measured with the average", 1.0))
    return found


def _at(group: list[Rate], gpus: int) -> Speed:
    """The rate of so many GPUs: one GPU's share is linear in log2(GPUs) between what was measured, and constant beyond.

    Captioning and encoding machines work apart: there one GPU's share is the same everywhere.
    """
    by_gpus = {rate.job.gpus: rate for rate in sorted(group, key=lambda rate: rate.job.gpus)}
    if gpus in by_gpus:
        rate = by_gpus[gpus]
        return Speed(rate.samples_per_second, rate.basis, rate.source)
    below, above = max((n for n in by_gpus if n < gpus), default=None), min((n for n in by_gpus if n > gpus), default=None)
    ends = [by_gpus[n] for n in (below, above) if n is not None]
    shares = [rate.samples_per_second / rate.job.gpus for rate in ends]
    if len(ends) == 2:
        weight = math.log2(gpus / ends[0].job.gpus) / math.log2(ends[1].job.gpus / ends[0].job.gpus)
        share = shares[0] + weight * (shares[1] - shares[0])
        return Speed(gpus * share, "estimated", f"{ends[0].source}; between {ends[0].job.gpus} and {ends[1].job.gpus} GPUs")
    (only,) = ends
    if only.job.work != "train":
        return Speed(gpus * shares[0], only.basis, only.source)
    return Speed(gpus * shares[0], "estimated", f"{only.source}; {only.job.gpus} GPUs to {gpus} in proportion")


def _pixels(job: Job) -> int:
    return sum(size**2 for size in job.size_px)


def _sizes(job: Job) -> str:
    return "+".join(map(str, job.size_px)) + " px"


def _named(job: Job) -> str:
    return f"{job.model} at {_sizes(job)}"
