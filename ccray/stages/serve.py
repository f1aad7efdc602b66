"""Serve: model folders -> the OpenAI Images API over HTTP, on Ray Serve.

    ccray serve --recipe tiny                        what `publish` wrote under the root
    ccray serve --model mine=PATH --model other=ORG/NAME
    serve deploy cluster/serve.yaml                  the same through `build`, on a cluster

One deployment speaks HTTP (serving/app.py, a CPU); one deployment a model holds an engine (serving/engine.py) and the GPU. A new version of a
model starts beside the old one (`max_surge_percent: 100`), so that an update loses no request; it needs room for both.
"""

import asyncio
import base64
import json
import logging
import os
import re
import signal
import socket
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from ccray import config, recipes, sharded, storage
from ccray.config import Recipe, ServeConfig, ServeResources
from ccray.interfaces import Failed, GenerationRequest, ModelInfo, Overloaded, Refused
from ccray.serving import app
from ccray.storage import Root

log = logging.getLogger(__name__)

NAME = "serve"
PUBLISHED = "published/model"
APPLICATION = "ccray"
INGRESS = "ingress"
INGRESS_REQUESTS = 1000  # at once; the engines' queues are what bounds the work
MODEL_ID = re.compile(r"[a-z0-9-]+")
QUIET = {"log_level": "WARNING"}
FAILED = ("UNHEALTHY", "DEPLOY_FAILED")
ERROR_LINE = re.compile(r"[\w.]+(?:Refused|Failed|Error|Exception): ")  # the end of a traceback
ANSWER_SECONDS = 10  # a replica that does not say in this time what it serves is unavailable
AWAY = (BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError, RayActorError, TimeoutError)


class ModelReplica:
    """One model on one device."""

    def __init__(self, id: str, place: str, bounds: ServeConfig, device: str, threads: int | None, replicas: int) -> None:
        from ccray.serving.engine import LocalEngine  # torch: in this process only, not in the driver's or the ingress's

        folder = place if "://" not in place else str(Root(place).local("", Path(tempfile.mkdtemp(prefix="ccray-model-"))))
        if threads is None and device == "cpu":
            threads = max(1, (os.cpu_count() or 1) // replicas)
        self.engine = LocalEngine({id: folder}, bounds.width, device, bounds.precision, bounds.max_waiting, threads)

    async def models(self) -> list[ModelInfo]:
        return await self.engine.models()

    async def generate(self, model: str, requests: list[GenerationRequest]) -> list[np.ndarray]:
        return await self.engine.generate(model, requests)

    def check_health(self) -> None:
        self.engine.check()


class HandleEngine:
    """`interfaces.Engine` over Serve handles, one a model."""

    def __init__(self, handles: Mapping[str, DeploymentHandle]) -> None:
        self.handles = handles

    async def models(self) -> list[ModelInfo]:
        """Raises:
        Overloaded: when a model does not answer.
        """
        lists = await asyncio.gather(*(self._models_of(id) for id in self.handles))
        return [model for found in lists for model in found]

    async def _models_of(self, id: str) -> list[ModelInfo]:
        try:
            found: list[ModelInfo] = await asyncio.wait_for(self.handles[id].models.remote(), ANSWER_SECONDS)
        except AWAY as error:
            raise _overloaded(id, error) from None
        return found

    async def generate(self, model: str, requests: Sequence[GenerationRequest]) -> list[np.ndarray]:
        """Raises:
        Refused, Overloaded: as the replica's own engine, and Overloaded when no replica answers.
        """
        try:
            pictures: list[np.ndarray] = await self.handles[model].generate.remote(model, list(requests))
        except RayTaskError as error:
            if isinstance(error.cause, (Refused, Overloaded)):
                raise error.cause from None
            raise
        except AWAY as error:
            raise _overloaded(model, error) from None
        return pictures


def _overloaded(model: str, error: Exception) -> Overloaded:
    full = isinstance(error, BackPressureError)
    return Overloaded(f"The queue of model '{model}' is full." if full else f"Model '{model}' does not answer ({type(error).__name__}).")


@serve.ingress()
class Ingress:
    """The wire, on a CPU."""

    def __init__(self, handles: dict[str, DeploymentHandle], bounds: ServeConfig) -> None:
        self.engine = HandleEngine(handles)
        self.bounds = bounds

    def __serve_build_asgi_app__(self) -> FastAPI:
        return app.build(self.engine, self.bounds, host_answers_ids=True)


class Arguments(BaseModel):
    """`args` of an application in cluster/serve.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str = "tiny"
    root: str | None = None
    models: dict[str, str] = {}  # id -> folder, s3:// folder or hub name; empty: what the root has published
    settings: list[str] = []  # overrides, such as resources.serve.max_replicas=4


def build(args: Arguments) -> serve.Application:
    """The application that `import_path: ccray.stages.serve:build` names."""
    recipe = config.build(recipes.named(args.recipe), args.settings)
    return application(recipe, places(recipe, Root(args.root or f"runs/{args.recipe}"), args.models))


def application(recipe: Recipe, models: Mapping[str, str]) -> serve.Application:
    """Ingress and one deployment a model, with the recipe's bounds and resources."""
    resources = recipe.resources.serve
    replicas = len(models) * resources.max_replicas
    device = "cuda" if resources.gpus else "cpu"
    options = _options(recipe.serve, resources)
    deployments = {
        id: serve.deployment(name=id, **options)(ModelReplica).bind(id, place, recipe.serve, device, resources.threads, replicas)
        for id, place in models.items()
    }
    ingress = serve.deployment(name=INGRESS, max_ongoing_requests=INGRESS_REQUESTS, max_surge_percent=100, ray_actor_options={"num_cpus": 1})
    return ingress(Ingress).bind(deployments, recipe.serve)


def _options(bounds: ServeConfig, resources: ServeResources) -> dict[str, Any]:
    scale: dict[str, Any] = {"num_replicas": resources.max_replicas}
    if resources.min_replicas < resources.max_replicas:
        limits = {"min_replicas": resources.min_replicas, "max_replicas": resources.max_replicas}
        scale = {"autoscaling_config": limits | {"target_ongoing_requests": bounds.width}}
    actor = {"num_cpus": resources.cpus, "num_gpus": resources.gpus, "label_selector": resources.label_selector}
    return scale | {
        "max_ongoing_requests": bounds.max_waiting,  # the engine batches what arrives together
        "max_queued_requests": bounds.max_waiting,
        "max_surge_percent": 100,
        "ray_actor_options": actor,
    }


def places(recipe: Recipe, root: Root, models: Mapping[str, str]) -> dict[str, str]:
    """Model id -> folder, hub name or s3:// URI, each looked at. Without models: what the root has published, under the recipe's name.

    Raises:
        Refused: when one is not there, or is no pipeline that can be served.
    """
    if not models:
        if not root.exists(f"{PUBLISHED}/model_index.json"):
            cure = "run `ccray publish` with the same recipe and root first, or name a model with --model ID=PATH_OR_HUB"
            raise Refused(f"{root.path(PUBLISHED)} is not a model folder: {cure}")
        models = {recipe.name: f"{root.uri}/{PUBLISHED}"}
    return {id: _place(id, reference) for id, reference in models.items()}


def _place(id: str, reference: str) -> str:
    if not MODEL_ID.fullmatch(id) or id == INGRESS:
        raise Refused(
            f"--model {id}={reference}: {id!r} is not a model id here, expected lower-case letters, digits and hyphens, other than 'ingress'"
        )
    place = storage.model_path(reference)
    if "://" not in place and Path(place).expanduser().exists():
        place = str(Path(place).expanduser().absolute())  # replicas run in other directories
    try:
        _check(place)
    except Refused as refusal:
        raise Refused(f"--model {id}={reference} cannot be served: {refusal}") from None
    return place


def _check(place: str) -> None:
    """Raises:
    Refused: when a place holds no model of a supported family.
    """
    from ccray.models import pipeline  # torch: not in the ingress's process

    if "://" not in place:
        pipeline.read_index(place)
        return
    if not place.startswith("s3://"):
        raise Refused("expected a folder, s3://bucket/prefix or a hub name")
    with tempfile.TemporaryDirectory() as folder:
        root, name = Root(place), "model_index.json"
        try:
            (Path(folder) / name).write_bytes(root.read(name))
        except OSError as error:
            raise Refused(f"{root.path(name)} cannot be read ({error})") from None
        pipeline.read_index(folder)


def run(recipe: Recipe, root: Root, models: Mapping[str, str], block: bool = True) -> str:
    """Serve until Ctrl-C, or, without `block`, until `stop`; the URL.

    Raises:
        Refused: before anything starts, on a model that cannot be served, a port in use, or a cluster that serves already.
        Failed: when a model does not load.
    """
    served = places(recipe, root, models)
    resources = recipe.resources.serve
    port = resources.port or _free_port(resources.host)
    _check_port(resources.host, port)
    sharded.connect()
    if serve.status().proxies:
        cure = "update it with `serve deploy cluster/serve.yaml`, or end it with `serve shutdown`"
        raise Refused(f"this cluster already serves {', '.join(serve.status().applications) or 'HTTP'}: {cure}")
    logging.getLogger("ray.serve").setLevel(QUIET["log_level"])
    serve.start(http_options={"host": resources.host, "port": port}, logging_config=QUIET)
    try:
        serve.run(application(recipe, served), name=APPLICATION, route_prefix="/", logging_config=QUIET)
    except RuntimeError as error:
        reason = _failure() or str(error)
        serve.shutdown()
        raise Failed(f"serve: a model did not load: {reason}") from None
    url = f"http://{'127.0.0.1' if resources.host == '0.0.0.0' else resources.host}:{port}"
    log.info("serve: %s at %s. Open it in a browser, or:\n%s", ", ".join(served), url, example(url, next(iter(served))))
    if block:
        _wait_for_signal()
        stop()
    return url


def _failure() -> str:
    """Why replicas did not start: the last line of what the first failed deployment says, the exception."""
    deployments = serve.status().applications[APPLICATION].deployments
    messages = [status.message for status in deployments.values() if status.status in FAILED]
    lines = [line for message in messages for line in message.splitlines() if ERROR_LINE.match(line)]
    return lines[-1].partition(": ")[2] if lines else ""


def stop() -> None:
    """End the endpoint."""
    serve.shutdown()


def one_picture(recipe: Recipe, root: Root) -> bytes:
    """A PNG of the first evaluated prompt, drawn over HTTP by the published model: the endpoint starts, answers once and stops."""
    resources = recipe.resources.serve.model_copy(update={"host": "127.0.0.1", "port": 0})
    recipe = recipe.model_copy(update={"resources": recipe.resources.model_copy(update={"serve": resources})})
    url = run(recipe, root, {}, block=False)
    try:
        body = json.dumps({"prompt": _first_prompt(root), "seed": 0}).encode()
        request = Request(f"{url}/v1/images/generations", body, {"content-type": "application/json"})
        with urlopen(request) as answer:
            return base64.b64decode(json.load(answer)["data"][0]["b64_json"])
    finally:
        stop()


def _first_prompt(root: Root) -> str:
    place = f"evaluation/prompts/{storage.shard_name(0)}"
    return str(root.read_table(place, columns=["prompt"])["prompt"][0]) if root.exists(place) else "a picture"


def example(url: str, model: str) -> str:
    """A command that draws one picture."""
    body = json.dumps({"model": model, "prompt": "a small red circle", "seed": 7})
    save = """python3 -c 'import base64, json, sys; sys.stdout.buffer.write(base64.b64decode(json.load(sys.stdin)["data"][0]["b64_json"]))' > picture.png"""
    return f"  curl -s {url}/v1/images/generations -H 'content-type: application/json' -d '{body}' | {save}"


def _free_port(host: str) -> int:
    with socket.socket() as listener:
        listener.bind((host, 0))
        number: int = listener.getsockname()[1]
        return number


def _check_port(host: str, port: int) -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            cure = "stop what listens there, or choose another with resources.serve.port=PORT (0: any free one)"
            raise Refused(f"resources.serve.port is {port}: {host}:{port} cannot be used ({error.strerror}); {cure}") from None


def _wait_for_signal() -> None:
    """Return at the first SIGINT or SIGTERM."""
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    asked.wait()
    for number, handler in before.items():
        signal.signal(number, handler)
