"""What comes in over the wire, and how a refusal goes out: the OpenAI Images API's request and error forms.

`ImageRequest` is OpenAI's `images/generations` body plus four fields of ours: `seed`, `steps`, `guidance`, `negative_prompt`. OpenAI's
fields that mean nothing here (`user`, `quality`, `style`, ...) are accepted when their value is one that OpenAI knows. A field nobody knows
is refused, as OpenAI refuses it: a misspelt `sead` must not silently draw another picture.
"""

import json
import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ccray.config import ServeConfig
from ccray.interfaces import ModelInfo

MAX_SEED = 2**53 - 1  # the largest integer that every JSON reader keeps exact
LARGEST_SIDE = 2  # times the side the model was trained at
SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})", re.ASCII)
EXAMPLE = '{"prompt": "a red circle"}'
KNOWN_ELSEWHERE = ("stream", "partial_images", "complexity", "frame_count", "frame_duration_ms", "svg")  # OpenAI's, not offered here


class WireError(Exception):
    """An answer other than 200, in OpenAI's form."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        type: str = "invalid_request_error",
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": type, "param": param, "code": code}}
        self.headers = headers or {}


class ImageRequest(BaseModel):
    """The body of `POST /v1/images/generations`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    prompt: str
    model: str | None = None
    n: int = Field(1, ge=1)
    size: str = "auto"
    response_format: Literal["b64_json", "url"] = "b64_json"
    output_format: Literal["png", "jpeg", "webp"] = "png"
    output_compression: int | None = Field(None, ge=0, le=100)
    # ours
    seed: int | None = Field(None, ge=0, le=MAX_SEED)
    steps: int | None = Field(None, ge=1)
    guidance: float | None = Field(None, ge=0, le=100, allow_inf_nan=False)
    negative_prompt: str = ""
    # OpenAI's, accepted and without effect
    quality: Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] = "auto"
    background: Literal["auto", "opaque"] = "auto"
    moderation: Literal["auto", "low"] = "auto"
    style: Literal["vivid", "natural"] = "vivid"
    user: str = ""
    safety_identifier: str = ""


def read_json(body: bytes) -> dict[str, Any]:
    """A request body as a JSON object without its null members, which OpenAI reads as absent.

    Raises:
        WireError: 400, when it is something else.
    """
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # a lone surrogate is no text
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else shorten(str(error), 160)
        raise WireError(400, f"The body of your request is not valid JSON in UTF-8: {reason}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise WireError(400, f"The body of your request is {_kind(value)}: expected a JSON object such as {EXAMPLE}", code="invalid_type")
    return {key: member for key, member in value.items() if member is not None}


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def parse(body: bytes, config: ServeConfig) -> ImageRequest:
    """A request within the endpoint's bounds.

    Raises:
        WireError: 400, naming the first field that does not fit, its value and what was expected.
    """
    values = read_json(body)
    for name in KNOWN_ELSEWHERE:
        if values.pop(name, False):  # False, 0, "" and {} ask for nothing
            raise WireError(400, f"'{name}' is not supported here: leave it out.", param=name, code="unsupported_parameter")
    try:
        request = ImageRequest.model_validate(values)
    except ValidationError as error:
        raise _refusal(error) from None
    _check_bounds(request, config)
    return request


def _check_bounds(request: ImageRequest, config: ServeConfig) -> None:
    if not request.prompt.strip():
        raise WireError(400, "Invalid 'prompt': it is empty, expected a description of the picture.", param="prompt", code="empty_string")
    for name, text in (("prompt", request.prompt), ("negative_prompt", request.negative_prompt)):
        if len(text) > config.max_prompt_characters:
            message = f"Invalid '{name}': string too long. Expected at most {config.max_prompt_characters} characters, but got {len(text)} instead."
            raise WireError(400, message, param=name, code="string_above_max_length")
    for name, count, most in (("n", request.n, config.max_images), ("steps", request.steps or 1, config.max_steps)):
        if count > most:
            raise _bound(name, "maximum", f"<= {most}", count)
    if (request.seed or 0) + request.n - 1 > MAX_SEED:
        raise _bound("seed", "maximum", f"<= {MAX_SEED + 1 - request.n} for n={request.n}", request.seed)
    if request.output_format == "png" and request.output_compression not in (None, 100):
        message = f"Invalid 'output_compression': {request.output_compression} is for jpeg and webp, expected 100 or nothing with png."
        raise WireError(400, message, param="output_compression", code="invalid_value")


def size_px(request: ImageRequest, model: ModelInfo) -> tuple[int, int]:
    """Width and height to draw, in pixels.

    Raises:
        WireError: 400, when the model does not draw that size.
    """
    if request.size == "auto":
        return model.size_px, model.size_px
    match = SIZE.fullmatch(request.size)
    sides = [int(side) for side in match.groups()] if match else []
    step, most = model.size_step_px, LARGEST_SIDE * model.size_px
    if not sides or any(side % step or side > most for side in sides):
        expected = f"'auto' ({model.size_px}x{model.size_px}) or WIDTHxHEIGHT, each a multiple of {step} and at most {most}"
        message = f"Invalid size: '{shorten(request.size)}'. Model '{model.id}' draws {expected}."
        raise WireError(400, message, param="size", code="invalid_value")
    return sides[0], sides[1]


def _refusal(error: ValidationError) -> WireError:
    """The first fault of a body, in OpenAI's words."""
    fault = min(error.errors(), key=lambda fault: fault["type"] == "extra_forbidden")  # what is asked for comes before what is too much
    name, value, kind = shorten(str(fault["loc"][0])), fault["input"], fault["type"]
    context = fault.get("ctx", {})
    if kind == "missing":
        return WireError(400, f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")
    if kind == "extra_forbidden":
        return WireError(400, f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter")
    if kind == "literal_error" and isinstance(value, str):
        message = f"Invalid value: '{shorten(value)}'. Supported values of '{name}' are: {context['expected']}."
        return WireError(400, message, param=name, code="invalid_value")
    if kind in ("greater_than_equal", "less_than_equal"):
        low = kind == "greater_than_equal"
        return _bound(name, "minimum" if low else "maximum", f">= {context['ge']}" if low else f"<= {context['le']}", value)
    wanted = WANTED.get(kind, f"one of {context['expected']}" if "expected" in context else fault["msg"].lower())
    return WireError(400, f"Invalid type for '{name}': expected {wanted}, but got {_kind(value)} instead.", param=name, code="invalid_type")


WANTED = {"string_type": "a string", "int_type": "an integer", "float_type": "a number", "finite_number": "a finite number"}


def _bound(name: str, which: str, expected: str, value: Any) -> WireError:
    side = "above maximum" if which == "maximum" else "below minimum"
    message = f"Invalid '{name}': number {side} value. Expected a value {expected}, but got {shorten(str(value))} instead."
    return WireError(400, message, param=name, code=f"integer_{'above_max' if which == 'maximum' else 'below_min'}_value")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", int: "an integer", float: "a number"}
    return names.get(type(value), "null")


def shorten(text: str, length: int = 80) -> str:
    """Text of a stranger, short enough to say back."""
    return text if len(text) <= length else f"{text[:length]}..."
