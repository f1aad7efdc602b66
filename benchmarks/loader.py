"""Rows a second that arrive as shuffled training batches: our loader over MosaicML Streaming's and over WebDataset's, on one rank.

All three read the same latents (4 x 32 x 32, float16, mean and std: SD2 at 256 px) and captions from files of their own on the local disk, and give
batches of the same size as arrays: latents, captions, keys. Each peer first tries its settings, and goes into the race with the fastest. Every
measurement is a process of its own: one epoch, from nothing but imports to the last batch; in alternating rounds, with the files dropped
from the page cache before (cold) or read through (warm). Ours also looks up licences, splits, statuses and takedowns of every row, twice, as a
run does: when it counts its rows, and when it reads them.

The peers live in an environment of their own: `python -m venv PEER && PEER/bin/pip install mosaicml-streaming webdataset`, then CCRAY_LOADER_PEER=PEER.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SHARDS, SHARD_ROWS, GROUP_ROWS = 12, 4096, 256
ROWS = SHARDS * SHARD_ROWS
WINDOW_SHARDS = 2
BATCH = 256
SHAPE = (4, 32, 32)
TRIALS, ROUNDS = 2, 5
# What each peer tries. Streaming: how a row is stored, processes of its DataLoader, how it shuffles. WebDataset: processes, rows that it shuffles among.
SETTINGS = {
    "streaming": ("bytes-0-py1s", "bytes-2-py1s", "bytes-4-py1s", "bytes-4-py1e", "ndarray-4-py1s"),
    "webdataset": ("0-1000", "1-1000", "2-1000", "2-4096"),
}
TEMPERATURES = {"cold": True, "warm": False}
PEER = os.environ.get("CCRAY_LOADER_PEER", "")


@dataclass(frozen=True)
class Rate:
    """Rows a second of one epoch: by the clock, and of all processes' time on the processors, which a busy machine changes less."""

    wall: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.wall:,.0f} rows/s ({self.cpu:,.0f} rows/CPU-s)"


def main() -> None:
    if not Path(f"{PEER}/bin/python").exists():
        sys.exit(
            f"CCRAY_LOADER_PEER is {PEER!r}: expected an environment with both peers "
            "(python -m venv PEER && PEER/bin/pip install mosaicml-streaming webdataset)"
        )
    with tempfile.TemporaryDirectory() as folder:
        _write(folder)
        best = {"ours": ""} | {side: max(words, key=lambda one, side=side: _trial(folder, side, one)) for side, words in SETTINGS.items()}
        rates: dict[tuple[str, bool], list[Rate]] = {}
        for _ in range(ROUNDS):
            for cold in (True, False):
                for side, setting in best.items():
                    rates.setdefault((side, cold), []).append(_measure(folder, side, setting, cold))
    middle = {key: _middle(values) for key, values in rates.items()}
    said = {side: ", ".join(f"{name} {middle[side, cold]}" for name, cold in TEMPERATURES.items()) for side in best}
    print(
        json.dumps(
            {
                "what": "training batches from stored latents ÷ MosaicML Streaming, ÷ WebDataset",
                "ours": said["ours"],
                "other": f"Streaming ({best['streaming']}) {said['streaming']}; WebDataset ({best['webdataset']}) {said['webdataset']}",
                "figure": "; ".join(f"{side} " + ", ".join(_ratio(middle, side, name) for name in TEMPERATURES) for side in SETTINGS),
                "goal": "≥ 2",
                "how": f"{ROWS} rows of 16 KiB, batches of {BATCH}, one epoch, median of {ROUNDS} alternating rounds; windows of {WINDOW_SHARDS} shards "
                f"of {SHARD_ROWS} rows, row groups of {GROUP_ROWS}, plain and uncompressed; {_versions()}",
            }
        )
    )


def _trial(folder: str, side: str, setting: str) -> float:
    return max(_measure(folder, side, setting, cold=False).wall for _ in range(TRIALS))


def _middle(rates: list[Rate]) -> Rate:
    return Rate(statistics.median(rate.wall for rate in rates), statistics.median(rate.cpu for rate in rates))


def _ratio(middle: dict[tuple[str, bool], Rate], side: str, name: str) -> str:
    ours, theirs = (middle[one, TEMPERATURES[name]] for one in ("ours", side))
    return f"{name} {ours.wall / theirs.wall:.2f} (CPU-seconds {ours.cpu / theirs.cpu:.2f})"


def _measure(folder: str, side: str, setting: str, cold: bool) -> Rate:
    """One epoch in a process of its own."""
    _page_cache(Path(folder, side), cold)
    if side == "ours":
        command = [sys.executable, "-m", "benchmarks.loader", "ours", folder]
    else:
        command = [f"{PEER}/bin/python", f"{folder}/peers.py", side, f"{folder}/{side}", setting, str(BATCH)]
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{answer.stderr[-3000:]}")
    wall, cpu, rows, keys = answer.stdout.splitlines()[-1].split()
    if (int(rows), int(keys)) != (ROWS, ROWS * (ROWS - 1) // 2):
        sys.exit(f"{side} gave {rows} rows, expected each of {ROWS} once")
    rate = Rate(ROWS / float(wall), ROWS / float(cpu))
    print(f"{side} {setting} {'cold' if cold else 'warm'}: {rate}", file=sys.stderr, flush=True)
    return rate


def _page_cache(folder: Path, cold: bool) -> None:
    """Drop all files of a folder from the page cache, or read them into it."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            if cold:
                os.fsync(file.fileno())  # what is not written yet cannot be dropped
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            else:
                while file.read(1 << 24):
                    pass


def _write(folder: str) -> None:
    """The same rows for all sides, row `key` with a caption of about 100 bytes."""
    Path(folder, "peers.py").write_text(THEIR_PROGRAM)
    for shard in range(SHARDS):
        latents = np.random.default_rng(shard).standard_normal((SHARD_ROWS, 2, *SHAPE)).astype(np.float16)
        np.save(f"{folder}/raw-{shard:05d}.npy", latents)
        _write_ours(folder, shard, latents)
    subprocess.run([f"{PEER}/bin/python", f"{folder}/peers.py", "write", folder], check=True, capture_output=True)
    for path in Path(folder).glob("raw-*.npy"):
        path.unlink()


def caption(key: int) -> str:
    return f"photograph number {key} of a red square in the upper left and a small blue circle in the lower right of it"


# ------------------------------------------------------------------ ours


def _write_ours(folder: str, shard: int, latents: np.ndarray) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from ccray import schema, storage
    from ccray.storage import Root

    keys = np.arange(shard * SHARD_ROWS, (shard + 1) * SHARD_ROWS)
    width = int(np.prod(SHAPE))

    def lists(name: str, values: np.ndarray) -> pa.Array:
        offsets = np.arange(0, values.size + 1, values.size // len(keys), dtype=np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.ravel()), type=schema.LATENTS.field(name).type)

    values = {
        "catalog": {"license": ["CC-BY-4.0"] * len(keys), "split": ["train"] * len(keys)},
        "captions/ours": {"caption": [caption(key) for key in keys.tolist()], "status": ["ok"] * len(keys)},
        "latents/sd2-256px": {
            "latent_mean": lists("latent_mean", latents[:, 0].reshape(-1, width)),
            "latent_std": lists("latent_std", latents[:, 1].reshape(-1, width)),
            "latent_shape": lists("latent_shape", np.tile(np.array(SHAPE, np.int32), (len(keys), 1))),
            "status": ["ok"] * len(keys),
        },
    }
    root = Root(f"{folder}/ours")
    for (directory, given), door in zip(values.items(), (schema.CATALOG, schema.CAPTIONS, schema.LATENTS), strict=True):
        columns = {"key": keys, "shard": np.full(len(keys), shard, np.int32)} | given
        table = pa.table([pa.array(columns.get(field.name, [None] * len(keys)), field.type) for field in door], schema=door)
        sink = pa.BufferOutputStream()
        how: dict[str, Any] = {"row_group_size": SHARD_ROWS, "compression": "zstd"}
        if directory.startswith("latents"):  # as `encode` writes them
            how = {"row_group_size": GROUP_ROWS, "compression": "none", "use_dictionary": False, "write_statistics": False}
        pq.write_table(table, sink, **how)
        root.write(f"{directory}/{storage.shard_name(shard)}", sink.getvalue())


def ours(folder: str) -> None:
    """One epoch; prints seconds, CPU-seconds, rows and the sum of their keys."""
    from contextlib import closing
    from itertools import islice

    from ccray.data.loading.eligible import Doors
    from ccray.data.loading.loader import LatentDataset, Order
    from ccray.data.loading.rounds import index
    from ccray.storage import Root

    doors = Doors("latents/sd2-256px", (("captions/ours", 1.0),), "catalog", "commercial")
    rows = keys = 0
    began, before = time.perf_counter(), sum(os.times()[:4])
    root = Root(f"{folder}/ours")
    data = LatentDataset(root, doors, index(root, doors), Order(0, BATCH, WINDOW_SHARDS))
    with closing(data.batches(0)) as batches:
        for batch in islice(batches, ROWS // BATCH):
            assert len(batch.captions) == len(batch.latent_mean) == len(batch.latent_std)
            rows, keys = rows + len(batch.keys), keys + int(batch.keys.sum())
        print(time.perf_counter() - began, sum(os.times()[:4]) - before, rows, keys)


# ------------------------------------------------------------------ theirs

THEIR_PROGRAM = """
import io, json, os, sys, tarfile, time
from glob import glob

import numpy as np
import torch
from torch.utils.data import DataLoader

SHAPE = (2, 4, 32, 32)


def caption(key):
    return f"photograph number {key} of a red square in the upper left and a small blue circle in the lower right of it"


def write(folder):
    from streaming import MDSWriter

    forms = {"bytes": {"latent": "bytes"}, "ndarray": {"latent": "ndarray:float16:2,4,32,32"}}
    writers = {name: MDSWriter(out=f"{folder}/streaming/{name}", columns={"key": "int", "caption": "str"} | form) for name, form in forms.items()}
    os.makedirs(f"{folder}/webdataset")
    key = 0
    for number, path in enumerate(sorted(glob(f"{folder}/raw-*.npy"))):
        with tarfile.open(f"{folder}/webdataset/{number:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for latent in np.load(path):
                writers["bytes"].write({"key": key, "caption": caption(key), "latent": latent.tobytes()})
                writers["ndarray"].write({"key": key, "caption": caption(key), "latent": latent})
                for ending, data in (("bin", latent.tobytes()), ("txt", caption(key).encode())):
                    member = tarfile.TarInfo(f"{key:08d}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
                key += 1
    for writer in writers.values():
        writer.finish()


def joined(pieces):
    return torch.frombuffer(bytearray().join(pieces), dtype=torch.float16).reshape(-1, *SHAPE)


def of_bytes(rows):
    return joined([row["latent"] for row in rows]), [row["caption"] for row in rows], torch.tensor([row["key"] for row in rows])


def of_arrays(rows):
    return torch.from_numpy(np.stack([row["latent"] for row in rows])), [row["caption"] for row in rows], torch.tensor([row["key"] for row in rows])


def of_members(rows):
    return joined([row["bin"] for row in rows]), [row["txt"].decode() for row in rows], torch.tensor([int(row["__key__"]) for row in rows])


def streaming(folder, setting, batch):
    from streaming import StreamingDataset

    form, workers, shuffle = setting.split("-")
    data = StreamingDataset(local=f"{folder}/{form}", shuffle=True, shuffle_algo=shuffle, batch_size=batch, num_canonical_nodes=1)
    collate = {"bytes": of_bytes, "ndarray": of_arrays}[form]
    return DataLoader(data, batch_size=batch, num_workers=int(workers), collate_fn=collate, prefetch_factor=4 if int(workers) else None)


def webdataset(folder, setting, batch):
    import webdataset

    workers, buffer = map(int, setting.split("-"))
    data = webdataset.WebDataset(sorted(glob(f"{folder}/*.tar")), shardshuffle=100).shuffle(buffer).batched(batch, collation_fn=of_members)
    return webdataset.WebLoader(data, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None)


def read(make, folder, setting, batch):
    rows = keys = 0
    began, before = time.perf_counter(), sum(os.times()[:4])
    for latents, captions, numbers in make(folder, setting, batch):
        assert len(latents) == len(captions)
        rows, keys = rows + len(captions), keys + int(numbers.sum())
    print(time.perf_counter() - began, sum(os.times()[:4]) - before, rows, keys)


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2])
    else:
        make = {"streaming": streaming, "webdataset": webdataset}[sys.argv[1]]
        __import__(sys.argv[1])
        read(make, sys.argv[2], sys.argv[3], int(sys.argv[4]))
"""


def _versions() -> str:
    program = "from importlib.metadata import version as v; print(*(f'{name} {v(name)}' for name in ('mosaicml-streaming', 'webdataset', 'torch')), sep=', ')"
    return subprocess.run([f"{PEER}/bin/python", "-c", program], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["ours", folder]:
            ours(folder)
        case _:
            main()
