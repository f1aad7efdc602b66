"""Pictures a second for each core: fetch, check, sha256, 512 px, JPEG 95, Parquet; ours over img2dataset's for the very same job.

One local server on a core of its own gives out drawn photographs of 2048 x 1536 px. Each side works pinned to another core, with its own
best number of connections or threads, and is measured by the difference between a long and a short run, so that start and end are outside.
The figure compares CPU-seconds of the worker and all its children, which a busy machine does not change; wall clocks stand beside it.
Ours is the catalog stage's own worker, decoding process included: it also reads robots.txt and tdmrep.json, looks for opt-outs in headers and files
and for end marks, makes a perceptual hash, and encodes at 4:2:0 as they do.

img2dataset lives in its own environment: `python -m venv PEER && PEER/bin/pip install img2dataset`, then CCRAY_PEER=PEER.
"""

import asyncio
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

DISTINCT = 48
SHORT, LONG = 128, 768  # pictures of the two runs
WIDTH, HEIGHT, QUALITY = 2048, 1536, 88
SIDE_PX = 512
OUR_CONNECTIONS = (8, 32)
THEIR_THREADS = (4, 16, 64)
PEER = os.environ.get("CCRAY_PEER", "")


@dataclass(frozen=True)
class Cost:
    """What a number of pictures took, start and end left out."""

    pictures: int
    cpu_seconds: float
    wall_seconds: float

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.pictures - other.pictures, self.cpu_seconds - other.cpu_seconds, self.wall_seconds - other.wall_seconds)

    @property
    def per_cpu_second(self) -> float:
        return self.pictures / self.cpu_seconds

    @property
    def per_second(self) -> float:
        return self.pictures / self.wall_seconds


def main() -> None:
    python = f"{PEER}/bin/python"
    if not Path(python).exists():
        sys.exit(f"CCRAY_PEER is {PEER!r}: expected an environment that has img2dataset (python -m venv PEER && PEER/bin/pip install img2dataset)")
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder, _server(cores[-1]) as (port, kilobytes):
        ours = {number: _slope(lambda count, number=number: _run(cores[0], _our_command(folder, port, count, number))) for number in OUR_CONNECTIONS}
        theirs = {
            number: _slope(lambda count, number=number: _run(cores[0], _their_command(python, folder, port, count, number)))
            for number in THEIR_THREADS
        }
    best = max(ours, key=lambda number: ours[number].per_cpu_second)
    their_best = max(theirs, key=lambda number: theirs[number].per_cpu_second)
    our, their = ours[best], theirs[their_best]
    print(
        json.dumps(
            {
                "what": "fetch, check, sha256, 512 px, JPEG 95, Parquet ÷ img2dataset, one core",
                "ours": f"{our.per_cpu_second:.1f} img/CPU-s, {our.per_second:.1f} img/s ({best} connections)",
                "other": f"{their.per_cpu_second:.1f} img/CPU-s, {their.per_second:.1f} img/s ({their_best} threads)",
                "figure": f"{our.per_cpu_second / their.per_cpu_second:.2f} (wall clock {our.per_second / their.per_second:.2f})",
                "goal": "≥ 1.5",
                "how": f"{LONG - SHORT} drawn photographs of {WIDTH}x{HEIGHT} px, {kilobytes} KB; server on another core; img2dataset {_version(python)}",
            }
        )
    )


def _slope(run: Callable[[int], Cost]) -> Cost:
    return run(LONG) - run(SHORT)


def _run(core: int, command: list[str]) -> Cost:
    """One program pinned to a core, with all its children. Its last line of output is the number of pictures that it stored."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    answer = subprocess.run(["taskset", "-c", str(core), *command], capture_output=True, text=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if answer.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{answer.stderr[-3000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{command[2:]}: {cpu:.2f} CPU-s, {wall:.2f} s", file=sys.stderr)
    return Cost(int(answer.stdout.splitlines()[-1]), cpu, wall)


# ------------------------------------------------------------------ ours


def _our_command(folder: str, port: int, count: int, connections: int) -> list[str]:
    return [sys.executable, "-m", "benchmarks.fetch_images", "ours", f"{folder}/ours.parquet", str(port), str(count), str(connections)]


def fetch_ours(path: str, port: int, count: int, connections: int) -> int:
    """Our side of the job, by the catalog stage's own worker; the number of pictures stored."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from ccray import schema
    from ccray.config import CatalogConfig, Download
    from ccray.data.fetching.worker import FetchImages
    from ccray.stages.catalog import BATCH

    manners = Download(allowed_hosts=("127.0.0.1",), connections_per_host=connections)
    worker = FetchImages(CatalogConfig(store=f"max_side_px:{SIDE_PX}", download=manners), None)
    stored = 0
    with pq.ParquetWriter(path, schema.IMAGES) as writer:
        for first in range(0, count, BATCH):
            urls = _urls(port, count)[first : first + BATCH]
            numbers = np.arange(first, first + len(urls))
            listed = {"row_id": numbers, "shard": np.zeros(len(urls), np.int32)}
            rows = worker(listed | {"locator": np.array([f"url:{url}" for url in urls]), "license_text": np.array(["CC0-1.0"] * len(urls))})
            for url, reason, detail in zip(urls, rows["reason"], rows["detail"], strict=True):
                if reason is not None:
                    raise SystemExit(f"{url}: {reason}: {detail}")
            writer.write(pa.table([pa.array(rows[field.name].tolist(), field.type) for field in schema.IMAGES], schema=schema.IMAGES))
            stored += len(urls)
    worker.close()  # so that the decoding process is counted
    return stored


# ------------------------------------------------------------------ theirs

THEIR_PROGRAM = """
import json, sys, shutil
from pathlib import Path
from img2dataset import download

if __name__ == "__main__":
    urls, folder, threads = sys.argv[1:]
    shutil.rmtree(folder, ignore_errors=True)
    download(url_list=urls, input_format="txt", output_folder=folder, output_format="parquet", resize_mode="keep_ratio_largest", image_size=512,
             encode_format="jpg", encode_quality=95, processes_count=1, thread_count=int(threads), compute_hash="sha256", number_sample_per_shard=256,
             enable_wandb=False, disallowed_header_directives=["noai", "noimageai", "noindex", "noimageindex"], user_agent_token="ccray")
    print(sum(json.loads(file.read_text())["successes"] for file in Path(folder).glob("*_stats.json")))
"""


def _their_command(python: str, folder: str, port: int, count: int, threads: int) -> list[str]:
    program, urls = Path(folder) / "theirs.py", Path(folder) / "urls.txt"
    program.write_text(THEIR_PROGRAM)
    urls.write_text("\n".join(_urls(port, count)) + "\n")
    return [python, str(program), str(urls), f"{folder}/theirs", str(threads)]


def _version(python: str) -> str:
    program = "from importlib.metadata import version as v; print(v('img2dataset'), 'with opencv', v('opencv-python-headless'))"
    return subprocess.run([python, "-c", program], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


# ------------------------------------------------------------------ the server


def _urls(port: int, count: int) -> list[str]:
    return [f"http://127.0.0.1:{port}/{number}.jpg" for number in range(count)]


@contextmanager
def _server(core: int) -> Iterator[tuple[int, int]]:
    """Its port, and the middle size of its pictures in KB."""
    command = ["taskset", "-c", str(core), sys.executable, "-m", "benchmarks.fetch_images", "serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port, kilobytes = map(int, server.stdout.readline().split())
        try:
            yield port, kilobytes
        finally:
            server.terminate()


def photographs() -> list[bytes]:
    """Noise of falling strength at rising frequency, as photographs have it, over a slope of light; drawn the same each time."""
    import numpy as np
    from PIL import Image

    def one(seed: int) -> bytes:
        chance = np.random.default_rng(seed)
        canvas = np.zeros((HEIGHT, WIDTH, 3), np.float32)
        for level in range(9):
            small = chance.normal(size=(3 * 2**level // 2 + 2, 2 * 2**level + 2, 3)).astype(np.float32)
            picture = [Image.fromarray(small[:, :, band]).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC) for band in range(3)]
            canvas += np.stack([np.asarray(band) for band in picture], axis=2) * 0.62**level
        canvas += np.linspace(-1, 1, WIDTH, dtype=np.float32)[None, :, None]
        file = io.BytesIO()
        Image.fromarray((128 + 45 * canvas).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=QUALITY)
        return file.getvalue()

    return [one(seed) for seed in range(DISTINCT)]


async def _serve() -> None:
    bodies = photographs()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                name = request.split(b" ", 2)[1][1:-4]
                body = bodies[int(name) % DISTINCT] if name.isdigit() else b""
                status = b"200 OK\r\nContent-Type: image/jpeg" if body else b"404 Not Found"
                writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n" % (status, len(body)))
                writer.write(body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], sorted(map(len, bodies))[DISTINCT // 2] // 1000, flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve"]:
            asyncio.run(_serve())
        case ["ours", path, port, count, connections]:
            print(fetch_ours(path, int(port), int(count), int(connections)))
        case _:
            main()
