"""The engine in one process: model folders, one queue, one thread that draws.

Requests that wait are drawn together when they ask the same model for the same size and number of steps; every batch is padded to one width,
so that a picture's bits depend neither on how many others are drawn beside it nor on what they show. Prompt, seed and guidance are each row's own.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers.utils import cached_file

from ccray.config import Precision
from ccray.diffusion.generate import generate, size_multiple_px
from ccray.interfaces import GenerationRequest, ModelInfo, Overloaded, Refused
from ccray.models.pipeline import Components, load_folder
from ccray.serving import provenance
from ccray.storage import model_path

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Kind:
    """What pictures drawn together have in common."""

    model: str
    steps: int
    height_px: int
    width_px: int
    guided: bool  # classifier-free guidance draws every row twice


@dataclass(frozen=True)
class _Waiting:
    kind: _Kind
    request: GenerationRequest
    picture: "asyncio.Future[np.ndarray]"


class LocalEngine:
    """`interfaces.Engine` on one device of this process."""

    def __init__(
        self,
        folders: Mapping[str, str],
        width: int,
        device: str = "cpu",
        precision: Precision = "fp32",
        max_waiting: int = 64,
        threads: int | None = None,
    ) -> None:
        """Load every folder (model id -> folder or hub name). `width` pictures are drawn together, at most `max_waiting` wait.

        Raises:
            Refused: on a folder that cannot be served.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        self.width = width
        self.max_waiting = max_waiting
        self._components = {id: load_folder(folder, device, precision) for id, folder in folders.items()}
        self._models = {id: _info(id, folders[id], components) for id, components in self._components.items()}
        self._waiting: deque[_Waiting] = deque()
        self._device = ThreadPoolExecutor(1, thread_name_prefix="draw")  # one thread: the device draws one batch at a time
        self._drawing: asyncio.Task[None] | None = None
        self._broken: Exception | None = None

    async def models(self) -> list[ModelInfo]:
        return list(self._models.values())

    async def generate(self, model: str, requests: Sequence[GenerationRequest]) -> list[np.ndarray]:
        """One picture (uint8, H W 3) a request, in order.

        Raises:
            Refused: on a model that is not here, or a size it cannot draw.
            Overloaded: when more than `max_waiting` pictures would wait.
        """
        kinds = [self._kind(model, request) for request in requests]
        if self._waiting and len(self._waiting) + len(requests) > self.max_waiting:
            raise Overloaded(f"{len(self._waiting)} pictures wait to be drawn, {len(requests)} more are too many (at most {self.max_waiting}).")
        loop = asyncio.get_running_loop()
        waiting = [_Waiting(kind, request, loop.create_future()) for kind, request in zip(kinds, requests, strict=True)]
        self._waiting.extend(waiting)
        if self._drawing is None or self._drawing.done():
            self._drawing = loop.create_task(self._draw_all())
        try:
            return list(await asyncio.gather(*(entry.picture for entry in waiting)))
        finally:
            for entry in waiting:  # a client that went away is not drawn for
                entry.picture.cancel()

    def check(self) -> None:
        """Raises:
        RuntimeError: when the device is in a state that only a new process leaves.
        """
        if self._broken is not None:
            raise RuntimeError(f"the device failed: {self._broken}")

    def _kind(self, model: str, request: GenerationRequest) -> _Kind:
        if model not in self._models:
            raise Refused(f"model {model!r} is not here: expected one of {', '.join(self._models)}")
        info = self._models[model]
        height, width = request.height_px or info.size_px, request.width_px or info.size_px
        if height % info.size_step_px or width % info.size_step_px:
            raise Refused(f"size {width}x{height} cannot be drawn by {model!r}: expected multiples of {info.size_step_px}")
        return _Kind(model, request.steps or info.default_steps, height, width, self._guidance(model, request) > 1)

    def _guidance(self, model: str, request: GenerationRequest) -> float:
        return self._models[model].default_guidance if request.guidance is None else request.guidance

    async def _draw_all(self) -> None:
        while batch := self._next_batch():
            try:
                pictures = await asyncio.get_running_loop().run_in_executor(self._device, self._draw, batch)
            except Exception as error:
                if isinstance(error, torch.AcceleratorError):
                    self._broken = error
                for entry in batch:
                    if not entry.picture.done():
                        entry.picture.set_exception(error)
                continue
            for entry, pixels in zip(batch, pictures, strict=True):
                if not entry.picture.done():
                    entry.picture.set_result(pixels)

    def _next_batch(self) -> list[_Waiting]:
        """The longest waiting picture and those like it, up to the width; they leave the queue."""
        alive = [entry for entry in self._waiting if not entry.picture.done()]
        batch = [entry for entry in alive if entry.kind == alive[0].kind][: self.width]
        taken = {id(entry) for entry in batch}
        self._waiting = deque(entry for entry in alive if id(entry) not in taken)
        return batch

    def _draw(self, batch: list[_Waiting]) -> np.ndarray:
        kind, requests = batch[0].kind, [entry.request for entry in batch]
        return generate(
            self._components[kind.model],
            [request.prompt for request in requests],
            [request.seed for request in requests],
            negative_prompts=[request.negative_prompt for request in requests],
            steps=kind.steps,
            guidance=[self._guidance(kind.model, request) for request in requests],
            size_px=(kind.height_px, kind.width_px),
            width=self.width,
        )


def _info(id: str, folder: str, components: Components) -> ModelInfo:
    """What the endpoint says of a loaded model."""
    index = _file(folder, "model_index.json")
    origin = provenance.origin(_text(_file(folder, "README.md")), _text(_file(folder, provenance.COMPONENTS)))
    return ModelInfo(
        id=id,
        created=int(index.stat().st_mtime) if index else 0,
        owned_by=origin.owned_by,
        license=origin.license,
        provenance=origin.provenance,
        size_px=components.size_px,
        size_step_px=size_multiple_px(components),
        default_steps=components.default_steps,
        default_guidance=components.default_guidance,
    )


def _file(folder: str, name: str) -> Path | None:
    """A file of a folder or hub name, or None."""
    found = cached_file(model_path(folder), name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False)
    return Path(found) if found else None


def _text(file: Path | None) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file else ""
