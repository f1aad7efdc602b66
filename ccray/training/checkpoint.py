"""What a run needs to continue as if nothing had happened, as a directory.

`*.distcp`, `.metadata`: weights, both moments of AdamW and, inside a window of averaging, the averages, each rank its shards
(torch.distributed.checkpoint), so any number of ranks can read them. `progress.json`: how far the run is. `seen.parquet`: which images it has
read, and how often (`schema.SEEN`).
"""

import json
import pickle
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import Metadata

from ccray.config import Recipe, flatten, stage_config
from ccray.interfaces import Failed
from ccray.training.ema import Ema
from ccray.training.seen import SEEN, Seen

PROGRESS = "progress.json"
METADATA = ".metadata"
MOMENTS = ("exp_avg", "exp_avg_sq")
Tensors = dict[str, dict[str, Tensor]]


@dataclass
class Progress:
    """How far a run is."""

    step: int = 0  # steps gone through, skipped ones too
    steps: int = 0  # in all
    samples: int = 0  # images, counted each time they were read
    parameters: int = 0
    skipped: int = 0  # steps that changed nothing, because their loss or gradient was no number
    skipped_in_a_row: int = 0  # up to now
    sums: list[float] = field(default_factory=list)  # of `meter.Meter`, over the steps since the last line of metrics
    loss_steps: int = 0  # of those, the ones that were not skipped
    drawn: dict[str, int] = field(default_factory=dict)  # captions by table, over the same steps
    last_loss: float = 0.0  # mean of the last line of metrics that had one
    settings: dict[str, Any] = field(default_factory=dict)  # `settings_of` the run


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """What must not change while a run is continued, as `section.key: value`; places of models may differ from one machine to the next."""
    sections = stage_config(recipe, "train")
    sections["train"].pop("start_from")
    kept = {name: sections[name] for name in ("denoiser", "objective", "train")}
    return flatten(json.loads(json.dumps(kept)))


def tensors_of(model: nn.Module, optimizer: torch.optim.AdamW, ema: Ema) -> Tensors:
    """What is saved, by the names of the model's parameters; moments that do not exist yet are zeros."""
    parameters = dict(model.named_parameters())
    tensors = {"model": {name: parameter.detach() for name, parameter in parameters.items()}}
    for moment in MOMENTS:
        tensors[moment] = {name: optimizer.state[parameter].get(moment, torch.zeros_like(parameter)) for name, parameter in parameters.items()}
    return tensors | ({"average": ema.average} if ema.average else {})


def write(directory: Path, tensors: Tensors, group: dist.ProcessGroup | None) -> None:
    """Write this rank's part of the tensors; a collective of the group's ranks (None = this process is the only one)."""
    with _one_process_is_fine():
        dcp.save(tensors, checkpoint_id=directory, process_group=group, no_dist=group is None)


def write_record(directory: Path, progress: Progress, seen: Seen) -> None:
    """Write what one rank knows for all."""
    (directory / PROGRESS).write_text(json.dumps(asdict(progress)))
    pq.write_table(seen.table(), directory / SEEN, compression="zstd")


def load(directory: Path, model: nn.Module, optimizer: torch.optim.AdamW, ema: Ema, settings: dict[str, Any]) -> Progress:
    """Put a checkpoint's numbers into model, optimizer and average, in place; a collective of all ranks.

    Raises:
        Failed: when a file is missing or cut off, or the checkpoint is of another recipe or another model.
    """
    progress, metadata = _progress(directory), _metadata(directory)
    _check_settings(directory, progress.settings, settings)
    _check_shapes(directory, metadata, model)
    if any(name.startswith("average.") for name in metadata.state_dict_metadata):
        ema.open()
    tensors = tensors_of(model, optimizer, ema)
    with _one_process_is_fine():
        dcp.load(tensors, checkpoint_id=directory, no_dist=not dist.is_initialized())
    made = float(progress.step - progress.skipped)  # what corrects the moments' bias counts updates, not steps
    for name, parameter in model.named_parameters():
        optimizer.state[parameter] = {
            "step": torch.tensor(made, device=parameter.device),
            **{moment: tensors[moment][name] for moment in MOMENTS},
        }
    return progress


def load_seen(directory: Path) -> Seen:
    """The record of what was read up to a checkpoint.

    Raises:
        Failed: when it is missing or cut off.
    """
    try:
        return Seen.read(directory)
    except (OSError, ValueError) as error:
        raise _broken(directory, f"its {SEEN} cannot be read ({error})") from None


def _progress(directory: Path) -> Progress:
    try:
        return Progress(**json.loads((directory / PROGRESS).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise _broken(directory, f"its {PROGRESS} cannot be read ({error})") from None


def _metadata(directory: Path) -> Metadata:
    """What the files should hold, once all are there and long enough."""
    try:
        metadata: Metadata = dcp.FileSystemReader(directory).read_metadata()
    except (OSError, pickle.UnpicklingError, EOFError, AttributeError) as error:
        raise _broken(directory, f"its {METADATA} cannot be read ({error})") from None
    ends: dict[str, int] = defaultdict(int)
    for part in (metadata.storage_data or {}).values():
        ends[part.relative_path] = max(ends[part.relative_path], part.offset + part.length)
    for name, end in sorted(ends.items()):
        size = (directory / name).stat().st_size if (directory / name).is_file() else None
        if size is None or size < end:
            raise _broken(directory, f"{name} is missing" if size is None else f"{name} has {size:,} bytes, expected {end:,}")
    return metadata


def _broken(directory: Path, fault: str) -> Failed:
    return Failed(
        f"the checkpoint {directory} is damaged: {fault}; to go on from the one before it, delete this directory of the run and run the same "
        "command again"
    )


def _check_settings(directory: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for key in sorted(found.keys() | wanted.keys()):
        if found.get(key) != wanted.get(key):
            raise Failed(
                f"the checkpoint {directory} is of another recipe: it was made with {key}={found.get(key)!r}, this run has {wanted.get(key)!r}; "
                "train under another train.name, or with the settings it was made with"
            )


def _check_shapes(directory: Path, metadata: Metadata, model: nn.Module) -> None:
    prefix = "model."
    found = {name.removeprefix(prefix): tuple(one.size) for name, one in metadata.state_dict_metadata.items() if name.startswith(prefix)}  # type: ignore[union-attr]
    wanted = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            here, there = (f"of shape {shapes[name]}" if name in shapes else "missing" for shapes in (wanted, found))
            raise Failed(
                f"the checkpoint {directory} is of another model: weight {name} is {there} in it and {here} in this recipe's denoiser; train "
                "under another train.name, or with the recipe it was made with"
            )


@contextmanager
def _one_process_is_fine() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")
        yield
