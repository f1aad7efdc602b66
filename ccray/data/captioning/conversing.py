"""Rows as an engine that chats takes them, and its answers as captions: for engines that Ray Data runs itself (vLLM)."""

import base64
import io
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from ccray import schema
from ccray.config import CaptionConfig
from ccray.data.captioning.names import Hints
from ccray.data.captioning.worker import answered, columns_of, told
from ccray.data.pictures.pixels import OK, as_objects
from ccray.interfaces import Batch, Caption
from ccray.models.captioners.asking import spoken
from ccray.models.captioners.instructing import instruction_of

Row = Mapping[str, Any]
JPEG_QUALITY = 95  # of the picture on its way into the engine
CONTROL = re.compile(r"<[^<>\s]{1,40}>")  # what may be a token of the engine's own in words of others
NOTHING = {"max_tokens": 1, "temperature": 0.0}  # for rows without a picture, which an engine cannot pass over


def asked(row: Row, config: CaptionConfig) -> dict[str, Any]:
    """One row of `pixels.PIXELS` as messages in OpenAI's format, with its decoding."""
    hint = CONTROL.sub(" ", told(_hints(row, config), config) or "")
    words = {"type": "text", "text": instruction_of(config, hint)}
    if row["status"] != OK:
        return {"messages": [{"role": "user", "content": [words]}], "sampling_params": dict(NOTHING)}
    picture = {"type": "image_url", "image_url": {"url": _data_url(row)}}
    decoding = {
        "temperature": 0.0,
        "max_tokens": config.max_new_tokens,
        "min_tokens": config.min_new_tokens,
        "repetition_penalty": config.repetition_penalty,
        "logprobs": 0,  # of the chosen token alone
    }
    return {"messages": [{"role": "user", "content": [picture, words]}], "sampling_params": decoding}


def _hints(row: Row, config: CaptionConfig) -> Hints | None:
    return {name: row[name] for name in columns_of(config)} or None


def _data_url(row: Row) -> str:
    pixels = np.frombuffer(row["pixels"], np.uint8).reshape(int(row["height"]), int(row["width"]), 3)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def answer_of(row: Row, config: CaptionConfig) -> dict[str, Any]:
    """One row after the engine -> a row of `schema.CAPTIONS`; what the engine could not do is its status."""
    batch: Batch = {name: as_objects([row[name]]) for name in ("key", "shard", "status", *columns_of(config))}
    outcomes: dict[int, Caption | str] = {}
    if row["status"] == OK:
        failure = row.get("__inference_error__")
        outcomes[0] = " ".join(str(failure).split())[:200] if failure else _caption(row, config)
    found = answered(batch, config, outcomes)
    return {name: found[name][0] for name in schema.CAPTIONS.names}


def _caption(row: Row, config: CaptionConfig) -> Caption:
    chosen = [next(iter(place.values()))["logprob"] for place in row.get("logprobs") or [] if place]
    return Caption(
        spoken(str(row["generated_text"])),
        math.fsum(chosen) / len(chosen) if chosen else math.nan,
        row["num_generated_tokens"] < config.max_new_tokens,
    )
