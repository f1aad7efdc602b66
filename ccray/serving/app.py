"""The endpoint as a plain ASGI app around an engine: OpenAI's Images API, the list of models, health, and a page for people.

    POST /v1/images/generations    prompt -> pictures, marked as generated (provenance.py); fields in wire.py
    GET  /v1/models, /v1/models/X  what is served, its licence and where it comes from
    GET  /health                   200 when every model answers, else 503
    GET  /                         the page

Every answer has an `x-request-id`; every error is OpenAI's `{"error": {message, type, param, code}}`. It runs under uvicorn, under Ray
Serve (stages/serve.py) and in a test's ASGI client alike.
"""

import asyncio
import base64
import logging
import re
import secrets
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ccray import __version__
from ccray.config import ServeConfig
from ccray.interfaces import Engine, GenerationRequest, ModelInfo, Overloaded, Refused
from ccray.serving import provenance, wire
from ccray.serving.wire import ImageRequest, WireError

log = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "page"
PAGE_FILES = {"index.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}
RETRY_AFTER_SECONDS = "2"
DRAWN_SEEDS = 2**32  # a drawn seed is one that people can read and type
REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)


def build(engine: Engine, config: ServeConfig, host_answers_ids: bool = False) -> FastAPI:
    """The app. Requests meet `config`'s bounds here, before the engine sees them.

    `host_answers_ids`: the host puts `x-request-id` on every request and every answer itself, as Ray Serve's proxy does.
    """
    app = FastAPI(title="ccray", version=__version__, docs_url=None, redoc_url=None)  # the documentation pages load scripts from elsewhere
    endpoint = Endpoint(engine, config)
    schema = {"requestBody": {"required": True, "content": {"application/json": {"schema": ImageRequest.model_json_schema()}}}}
    app.add_api_route("/v1/images/generations", endpoint.generations, methods=["POST"], openapi_extra=schema)
    app.add_api_route("/v1/models", endpoint.models, methods=["GET"])
    app.add_api_route("/v1/models/{model_id:path}", endpoint.model, methods=["GET"])
    app.add_api_route("/health", endpoint.health, methods=["GET"])
    for name, media_type in PAGE_FILES.items():
        app.add_api_route("/" if name == "index.html" else f"/{name}", _page(name, media_type), methods=["GET"], include_in_schema=False)
    app.add_exception_handler(WireError, _wire_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_middleware(RequestIds, answer=not host_answers_ids)
    return app


def _page(name: str, media_type: str) -> Callable[[], Awaitable[Response]]:
    content = (PAGE / name).read_bytes()

    async def file() -> Response:
        return Response(content, media_type=media_type, headers=PAGE_HEADERS)

    return file


class Endpoint:
    """The answers, in terms of an engine."""

    def __init__(self, engine: Engine, config: ServeConfig) -> None:
        self.engine = engine
        self.config = config
        self.known: dict[str, ModelInfo] = {}  # a model's facts do not change while it is served

    async def generations(self, request: Request) -> Response:
        """Draw pictures."""
        asked = wire.parse(await _body(request, self.config), self.config)
        model = await self._model(asked.model)
        width, height = wire.size_px(asked, model)
        drawings = _drawings(asked, model, width, height)
        try:
            pictures = await self.engine.generate(model.id, drawings)
        except Refused as refusal:
            raise WireError(400, str(refusal), code="invalid_value") from None
        except Overloaded as reason:
            raise _overloaded(str(reason)) from None
        files = await asyncio.to_thread(_files, pictures, drawings, asked, model)
        return JSONResponse(_answer(files, drawings, asked, model, f"{width}x{height}"))

    async def models(self) -> Response:
        """The models that are served."""
        if not self.known:
            await self._refresh()
        limits = {"max_images": self.config.max_images, "max_steps": self.config.max_steps}
        return JSONResponse({"object": "list", "data": [_listed(model) for model in self.known.values()], "limits": limits})

    async def model(self, model_id: str) -> Response:
        """One model."""
        return JSONResponse(_listed(await self._model(model_id)))

    async def health(self) -> Response:
        """Whether every model answers now."""
        try:
            ready = [model.id for model in await self.engine.models()]
        except Overloaded as reason:
            body = {"status": "unavailable", "models": [], "error": _overloaded(str(reason)).body["error"]}
            return JSONResponse(body, 503, {"retry-after": RETRY_AFTER_SECONDS})
        return JSONResponse({"status": "ok", "models": ready})

    async def _refresh(self) -> None:
        try:
            self.known = {model.id: model for model in await self.engine.models()}
        except Overloaded as reason:
            raise _overloaded(str(reason)) from None

    async def _model(self, asked: str | None) -> ModelInfo:
        """The model of that name; the first one when no name is given."""
        if not self.known:
            await self._refresh()
        name = next(iter(self.known)) if asked is None else asked
        if name not in self.known:
            served = ", ".join(f"'{known}'" for known in self.known)
            raise WireError(
                404, f"The model '{wire.shorten(name)}' does not exist here: {served} can be asked.", param="model", code="model_not_found"
            )
        return self.known[name]


def _overloaded(reason: str) -> WireError:
    return WireError(503, f"{reason} Try again later.", type="server_error", code="overloaded", headers={"retry-after": RETRY_AFTER_SECONDS})


async def _body(request: Request, config: ServeConfig) -> bytes:
    """The request's body, bounded, of the one content type that a browser does not send to strangers unasked."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise WireError(400, f"Content-Type is '{wire.shorten(content_type)}': expected 'application/json'.", code="unsupported_content_type")
    most = 24 * config.max_prompt_characters + 65_536  # two prompts, every character escaped as two \\uXXXX
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise WireError(413, f"The body of your request is too large: expected at most {most} bytes.", code="request_too_large")
    return bytes(body)


def _drawings(asked: ImageRequest, model: ModelInfo, width: int, height: int) -> list[GenerationRequest]:
    """One request to the engine a picture; picture i of n has the seed of the first one + i."""
    seed = secrets.randbelow(DRAWN_SEEDS) if asked.seed is None else asked.seed
    steps = model.default_steps if asked.steps is None else asked.steps
    guidance = model.default_guidance if asked.guidance is None else asked.guidance
    return [GenerationRequest(asked.prompt, seed + i, asked.negative_prompt, steps, guidance, width, height) for i in range(asked.n)]


def mark(drawing: GenerationRequest, model: ModelInfo) -> provenance.Mark:
    """What the picture of a drawing with all its settings says of itself."""
    assert drawing.steps is not None
    assert drawing.guidance is not None
    return provenance.Mark(model.id, model.license, drawing.seed, drawing.steps, drawing.guidance)


def _files(pictures: list[np.ndarray], drawings: list[GenerationRequest], asked: ImageRequest, model: ModelInfo) -> list[str]:
    quality = 95 if asked.output_compression is None else asked.output_compression
    pairs = zip(pictures, drawings, strict=True)
    return [base64.b64encode(provenance.encode(pixels, mark(drawing, model), asked.output_format, quality)).decode() for pixels, drawing in pairs]


def _answer(files: list[str], drawings: list[GenerationRequest], asked: ImageRequest, model: ModelInfo, size: str) -> dict[str, Any]:
    if asked.response_format == "url":
        data = [{"url": f"data:image/{asked.output_format};base64,{file}"} for file in files]
    else:
        data = [{"b64_json": file} for file in files]
    return {
        "created": int(time.time()),
        "data": [item | {"seed": drawing.seed} for item, drawing in zip(data, drawings, strict=True)],
        "background": "opaque",
        "output_format": asked.output_format,
        "size": size,
        "model": model.id,
        "license": model.license,
        "steps": drawings[0].steps,
        "guidance": drawings[0].guidance,
    }


def _listed(model: ModelInfo) -> dict[str, Any]:
    return {"object": "model"} | asdict(model)


async def _wire_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, WireError)
    return JSONResponse(error.body, error.status, error.headers)


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own refusals: no such path, no such method."""
    assert isinstance(error, HTTPException)
    place = f"{request.method} {wire.shorten(request.url.path)}"
    messages = {404: f"Unknown request URL: {place}.", 405: f"Not allowed: {place}."}
    codes = {404: "unknown_url", 405: "method_not_allowed"}
    wrapped = WireError(error.status_code, messages.get(error.status_code, str(error.detail)), code=codes.get(error.status_code))
    return JSONResponse(wrapped.body, error.status_code, error.headers)


class RequestIds:
    """Names every request, and turns what nobody caught into a 500 that carries the name which the log shows."""

    def __init__(self, app: ASGIApp, answer: bool) -> None:
        self.app = app
        self.answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        name = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        started = False

        async def named(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                if self.answer:
                    MutableHeaders(scope=message)["x-request-id"] = name
            await send(message)

        try:
            await self.app(scope, receive, named)
        except ClientDisconnect:
            log.info("request %s: the client went away", name)
        except Exception:
            log.exception("request %s failed", name)
            if started:
                raise
            body = WireError(500, f"The server failed on your request, which its log names {name}.", type="server_error", code="internal_error").body
            await JSONResponse(body, 500)(scope, receive, named)
