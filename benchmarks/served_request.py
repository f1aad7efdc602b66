"""One request through HTTP and Ray Serve, minus the same engine called in a process of its own; both to the same PNG bytes.

The two sides take turns, request by request, with the same threads and the same seeds; the answer compares medians after warm-up.
"""

import asyncio
import base64
import json
import multiprocessing
import os
import statistics
import tempfile
import time
import urllib.request
from multiprocessing.connection import Connection

from ccray import config, recipes
from ccray.storage import Root

WARM_UP, REQUESTS = 5, 40
PROMPT = "a large red circle on the left on a white background"


def main() -> None:
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    threads = os.cpu_count() or 1
    recipe = config.build(recipes.tiny(), [f"resources.serve.threads={threads}", "resources.serve.port=0", "serve.width=1"])
    with tempfile.TemporaryDirectory() as folder:
        _run_apart(_save_model, recipe, folder)
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        engine = multiprocessing.get_context("spawn").Process(target=_engine, args=(theirs, folder, recipe.serve.width, threads), daemon=True)
        engine.start()
        from ccray.stages import serve

        url = serve.run(recipe, Root(folder), {"tiny": folder}, block=False)
        served, called = [], []
        for seed in range(WARM_UP + REQUESTS):
            seconds, png = _over_http(url, seed)
            seconds_called, png_called = _in_process(ours, seed)
            assert png == png_called, "the two sides drew different pictures"
            served.append(seconds)
            called.append(seconds_called)
        ours.send(None)
        serve.stop()
    milliseconds = [1000 * statistics.median(side[WARM_UP:]) for side in (served, called)]
    more = milliseconds[0] - milliseconds[1]
    print(
        json.dumps(
            {
                "what": "one served request − the engine in process",
                "ours": f"{milliseconds[0]:.1f} ms through HTTP",
                "other": f"{milliseconds[1]:.1f} ms in process",
                "figure": f"{more:+.1f} ms ({more / milliseconds[1]:+.1%})",
                "goal": "≤ 3 % or ≤ 30 ms",
                "how": f"median of {REQUESTS} after {WARM_UP}, taking turns; tiny UNet, 32 px, 20 steps, guidance 3, {threads} threads, equal PNG bytes",
            }
        )
    )


def _save_model(recipe: config.Recipe, folder: str) -> None:
    from ccray.models import pipeline

    pipeline.save_folder(pipeline.from_recipe(recipe), folder)


def _run_apart(function: object, *arguments: object) -> None:
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)  # type: ignore[arg-type]
    process.start()
    process.join()
    assert process.exitcode == 0


def _engine(pipe: Connection, folder: str, width: int, threads: int) -> None:
    """The in-process side: what the replica does, without HTTP, JSON, base64 and Ray."""
    from ccray.interfaces import GenerationRequest
    from ccray.serving import app, provenance
    from ccray.serving.engine import LocalEngine

    engine = LocalEngine({"tiny": folder}, width, threads=threads)
    model = asyncio.run(engine.models())[0]
    while (seed := pipe.recv()) is not None:
        before = time.perf_counter()
        request = GenerationRequest(PROMPT, seed, steps=20, guidance=3.0)
        pixels = asyncio.run(engine.generate("tiny", [request]))[0]
        png = provenance.encode(pixels, app.mark(request, model))
        pipe.send((time.perf_counter() - before, png))


def _in_process(pipe: Connection, seed: int) -> tuple[float, bytes]:
    pipe.send(seed)
    answer: tuple[float, bytes] = pipe.recv()
    return answer


def _over_http(url: str, seed: int) -> tuple[float, bytes]:
    body = json.dumps({"model": "tiny", "prompt": PROMPT, "seed": seed, "steps": 20, "guidance": 3.0}).encode()
    request = urllib.request.Request(f"{url}/v1/images/generations", body, {"content-type": "application/json"})
    before = time.perf_counter()
    with urllib.request.urlopen(request) as answer:
        png = base64.b64decode(json.load(answer)["data"][0]["b64_json"])
    return time.perf_counter() - before, png


if __name__ == "__main__":
    main()
