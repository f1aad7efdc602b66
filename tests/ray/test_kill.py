"""`kill -9` of the driver in the middle of fetch, caption and encode: the same command again loses nothing, doubles nothing, changes nothing.

pytest tests/ray/test_kill.py
"""

import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import pyarrow.parquet as pq
import pytest

from ccray import config, recipes
from ccray.stages import caption, catalog, encode
from ccray.storage import Root, read_manifest
from tests import folders

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROWS = 256
BLOCK = 8
ACTORS = 2
ATTEMPTS = 3  # to kill in the middle: on a busy machine a look at the log may come too late
PATIENCE_SECONDS = 600  # a machine with other work takes long to start Ray


@dataclass(frozen=True)
class Case:
    """One stage, the worker whose rows are counted, what it writes, and what it finds done."""

    stage: str
    worker: str
    writes: tuple[str, ...]
    reads: tuple[str, ...]


CASES = [
    Case("catalog", "FetchImages", ("listing", "images", "catalog"), ()),
    Case("caption", "CaptionImages", ("captions/shapes-blip2",), ("listing", "images", "catalog")),
    Case("encode", "EncodeImages", ("latents/shapes-kl-32px",), ("listing", "images", "catalog")),
]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    models = tmp_path_factory.mktemp("models")
    folders.blip2_folder(models / "blip2")
    folders.vae_folder(models / "vae")
    pools = [
        f"resources.{stage}.{setting}"
        for stage in ("catalog", "caption", "encode")
        for setting in (f"rows_per_block={BLOCK}", f"min_actors={ACTORS}", f"max_actors={ACTORS}")
    ]
    return [
        f"catalog.shapes.count={ROWS}",
        "catalog.rows_per_shard=96",
        f"caption.model={models / 'blip2'}",
        f"encode.model={models / 'vae'}",
        f"caption.batch_size={BLOCK}",
        f"encode.batch_size={BLOCK}",
        *pools,
    ]


@pytest.fixture(scope="module")
def uninterrupted(ray_cluster: None, words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root that all three stages wrote without a kill."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    recipe, root = config.build(recipes.named("tiny"), words), Root(str(folder))
    for stage in (catalog, caption, encode):
        stage.run(recipe, root)
    return folder


def command(case: Case, root: Path, words: list[str]) -> list[str]:
    return [sys.executable, "-m", "ccray", case.stage, "--recipe", "tiny", "--root", str(root), *words]


def rows_taken(log: Path, worker: str) -> Counter[str]:
    """Row -> how often the worker took it in."""
    lines = log.read_text().splitlines() if log.exists() else []
    return Counter(line.split()[1] for line in lines if line.startswith(worker + " "))


def kill_in_the_middle(case: Case, root: Path, words: list[str], environment: dict[str, str], log: Path) -> None:
    """Start the stage and end its driver when an eighth of the rows went through the worker."""
    output = root / "killed.log"
    with output.open("w") as stream:
        driver = subprocess.Popen(command(case, root, words), env=environment, stdout=stream, stderr=stream)
    waited = Event()
    for _ in range(PATIENCE_SECONDS * 50):
        if len(rows_taken(log, case.worker)) >= ROWS // 8 or driver.poll() is not None:
            break
        waited.wait(0.02)
    assert driver.poll() in (None, 0), output.read_text()
    driver.kill()
    driver.wait()


def interrupted(case: Case, uninterrupted: Path, folder: Path, words: list[str]) -> tuple[Path, Path]:
    """A root whose stage was killed before all its rows were done, and the workers' log."""
    for attempt in range(ATTEMPTS):
        root, log = folder / f"root{attempt}", folder / f"work{attempt}.log"
        for directory in case.reads:
            shutil.copytree(uninterrupted / directory, root / directory)
        root.mkdir(exist_ok=True)
        kill_in_the_middle(case, root, words, environment(log), log)
        if not sealed_bytes(root, case.writes[-1]) and len(rows_taken(log, case.worker)) < ROWS:
            return root, log
    raise AssertionError(f"{ATTEMPTS} kills came too late")


def environment(log: Path) -> dict[str, str]:
    return os.environ | {"CCRAY_WORK_LOG": str(log), "RAY_AUTH_MODE": "disabled"}


def rows_on_record(root: Path) -> int:
    """Rows that the checkpoint of the killed run holds as written."""
    files = [path for path in root.rglob(".staging/*/**/checkpoint/*.parquet") if not path.name.endswith(".pending.parquet")]
    return sum(pq.ParquetFile(path).metadata.num_rows for path in files)


def sealed_bytes(root: Path, directory: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((root / directory).glob("shard-*.parquet"))}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stage)
def test_kill_and_run_again(case: Case, uninterrupted: Path, words: list[str], tmp_path: Path) -> None:
    root, log = interrupted(case, uninterrupted, tmp_path, words)
    done, on_record = len(rows_taken(log, case.worker)), rows_on_record(root)

    again = subprocess.run(command(case, root, words), env=environment(log), capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    assert again.returncode == 0, again.stderr
    taken = rows_taken(log, case.worker)
    redone = taken.total() - ROWS
    print(f"{case.stage}: killed after {done} of {ROWS} rows, {on_record} of them on record; {redone} done again")
    assert len(taken) == ROWS
    assert redone <= done - on_record + ACTORS * BLOCK  # the blocks in flight, and what the actors took between the look and their end
    for directory in case.writes:
        assert sealed_bytes(root, directory) == sealed_bytes(uninterrupted, directory)
    manifest = read_manifest(Root(str(root)), case.writes[-1])
    assert manifest is not None
    assert (manifest.status, manifest.rows) == ("finished", ROWS)
    assert not (root / case.writes[-1] / ".staging").exists()
