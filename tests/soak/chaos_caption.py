"""Thirty seeded kills over the captioning of 3,000 drawn pictures, on a CPU node and a node whose GPUs are only counted; on the local disk and on S3.

    make soak

Driver, actor or GPU node dies each time another hundred pictures reached the captioners. The captions must then equal those of a run that nobody
disturbed, no more rows may have been done again than lay in the actors' blocks, and a further run must do nothing.
"""

import contextlib
import time
from pathlib import Path

import pytest

from ccray.storage import Root
from tests.servers import s3_store
from tests.soak.disturbing import KILLS, ROWS, Run, cluster, digest, disturb, taken

BLOCK, ACTORS = 16, 2
CPU_NODE, GPU_NODE = ("--num-cpus=4", "--labels=ccray-role=cpu"), ("--num-cpus=2", f"--num-gpus={ACTORS}", "--labels=ccray-role=caption")
TABLE, WORKER = "captions/shapes-blip2", "CaptionImages"
POOL = {"rows_per_block": BLOCK, "min_actors": ACTORS, "max_actors": ACTORS, "gpus": 1, "cpus": 0.5, "threads": 1}
SETTINGS = (
    f"catalog.shapes.count={ROWS}",
    "catalog.rows_per_shard=512",
    "caption.batch_size=512",  # far wider than a block: so slow that kills find blocks at work, as they would with a model of full size
    *(f"resources.caption.{name}={value}" for name, value in POOL.items()),
    "resources.caption.label_selector={ccray-role: caption}",
    "resources.caption.task_label_selector={ccray-role: cpu}",
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A root with catalog and captions that nobody disturbed, and the digest of its captions."""
    folder = tmp_path_factory.mktemp("undisturbed")
    began = time.monotonic()
    with cluster(folder / "work.log", CPU_NODE, GPU_NODE) as both:
        for stage in ("catalog", "caption"):
            Run(stage, str(folder / "root"), SETTINGS, folder).undisturbed(both.found)
    print(f"undisturbed: {ROWS} rows in {time.monotonic() - began:.0f} s, cluster start and catalog included")
    return folder / "root", digest(Root(str(folder / "root")), TABLE)


def copied(source: Path, target: Root) -> None:
    for directory in ("listing", "images", "catalog", "rejects"):
        target.upload(source / directory, directory)


@pytest.mark.parametrize("store", ["local", "s3"])
def test_thirty_kills(store: str, undisturbed: tuple[Path, str], tmp_path: Path) -> None:
    source, truth = undisturbed
    with contextlib.ExitStack() as stack:
        root = Root(f"{stack.enter_context(s3_store())}/run" if store == "s3" else str(tmp_path / "root"))
        copied(source, root)
        work, run = tmp_path / "work.log", Run("caption", root.uri, SETTINGS, tmp_path)
        began = time.monotonic()
        with cluster(work, CPU_NODE, GPU_NODE) as both:
            kinds = disturb(both, run, work, WORKER)
            again = taken(work, WORKER)
            seconds = time.monotonic() - began
            run.undisturbed(both.found)
        redone = again.total() - ROWS
        print(f"{store}: {kinds.total()} kills {dict(kinds)} in {seconds:.0f} s; {redone} of {ROWS} rows done again")
        assert kinds.total() == KILLS
        assert len(again) == ROWS  # none lost
        assert digest(root, TABLE) == truth  # none doubled, none other
        assert taken(work, WORKER) == again  # the run after the last did nothing
        assert redone <= KILLS * ACTORS * BLOCK
