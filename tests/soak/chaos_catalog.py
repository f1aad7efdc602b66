"""Thirty seeded kills over one catalog run of 3,000 downloads, on a cluster of two nodes, once on the local disk and once on S3.

    make soak

Driver, actor or node: whatever the seed says dies (SIGKILL) each time another hundred rows went through the workers, and what does not come
back by itself is started again. The tables must then equal those of a run that nobody disturbed. Takes about half an hour.
"""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ccray.storage import Root
from tests.ray.heads import REPOSITORY
from tests.servers import free_port, s3_store
from tests.soak.disturbing import KILLS, ROWS, Run, cluster, digest, disturb, taken

BLOCK, ACTORS = 16, 2
NODE = ("--num-cpus=4",)
LICENSES = ("CC-BY-2.0", "CC-BY-SA-4.0", "CC0-1.0", "CC-BY-NC-2.0", "CC-BY-ND-2.0")
TABLES = ("listing", "images", "catalog", "rejects")
WORKER = "FetchImages"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A table of URLs, and the log of what their server was asked for."""
    folder = tmp_path_factory.mktemp("site")
    port, log = free_port(), folder / "asked.log"
    log.touch()
    server = subprocess.Popen([sys.executable, "-m", "tests.soak.site", str(port), str(log), "0.5"], cwd=REPOSITORY)
    table = folder / "images.jsonl"
    rows = (
        {
            "id": number,
            "url": f"http://127.0.0.1:{port}/{number}.png",
            "license": LICENSES[number % len(LICENSES)],
            "creator": f"painter {number % 7}",
        }
        for number in range(ROWS)
    )
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    yield table, log
    server.kill()
    server.wait()


def settings(table: Path) -> tuple[str, ...]:
    pool = {"rows_per_block": BLOCK, "min_actors": ACTORS, "max_actors": ACTORS}
    return (
        f"catalog.source=table:{table}",
        "catalog.rows_per_shard=512",
        "catalog.download.allowed_hosts=[127.0.0.1]",
        *(f"resources.catalog.{name}={value}" for name, value in pool.items()),
    )


@pytest.fixture(scope="module")
def undisturbed(site: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digest of each table of a run without kills."""
    folder = tmp_path_factory.mktemp("undisturbed")
    began = time.monotonic()
    with cluster(folder / "work.log", NODE, NODE) as both:
        Run("catalog", str(folder / "root"), settings(site[0]), folder).undisturbed(both.found)
    print(f"undisturbed: {ROWS} rows in {time.monotonic() - began:.0f} s, cluster start included")
    return {name: digest(Root(str(folder / "root")), name) for name in TABLES}


@pytest.mark.parametrize("store", ["local", "s3"])
def test_thirty_kills(store: str, site: tuple[Path, Path], undisturbed: dict[str, str], tmp_path: Path) -> None:
    table, asked = site
    before = len(asked.read_text().split())
    with contextlib.ExitStack() as stack:
        root = f"{stack.enter_context(s3_store())}/run" if store == "s3" else str(tmp_path / "root")
        work = tmp_path / "work.log"
        began = time.monotonic()
        with cluster(work, NODE, NODE) as both:
            kinds = disturb(both, Run("catalog", root, settings(table), tmp_path), work, WORKER)
        again = taken(work, WORKER)
        downloads = len(asked.read_text().split()) - before
        wanted = sum(1 for number in range(ROWS) if LICENSES[number % len(LICENSES)] in LICENSES[:3])
        print(
            f"{store}: {kinds.total()} kills {dict(kinds)} in {time.monotonic() - began:.0f} s; {again.total() - ROWS} of {ROWS} rows done again, "
            f"{downloads - wanted} of {wanted} downloads"
        )
        assert kinds.total() == KILLS
        assert len(again) == ROWS  # none lost
        assert {name: digest(Root(root), name) for name in TABLES} == undisturbed  # none doubled, none other
        at_most = KILLS * ACTORS * BLOCK * 4  # of each actor: the block at work, and those that were queued or not yet on record
        assert again.total() - ROWS <= at_most
