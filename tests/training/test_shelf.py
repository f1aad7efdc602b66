import json
from pathlib import Path

import numpy as np
import pytest

from ccray.interfaces import Failed
from ccray.storage import LEASE, Root
from ccray.training.shelf import Shelf, newest_step
from ccray.training.tracking import FileTracker
from tests.test_storage import root, s3_uri

__all__ = ["root", "s3_uri"]  # fixtures: a root on a local disk, then one on an S3 server


def rank_files(folder: Path, name: str) -> Path:
    """One rank's part of a checkpoint."""
    folder.mkdir()
    (folder / name).write_text(name)
    return folder


def newest(shelf: Shelf) -> set[str] | None:
    with shelf.opened() as folder:
        return None if folder is None else {path.name for path in folder.iterdir()}


def test_a_checkpoint_counts_once_it_is_published(root: Root, tmp_path: Path) -> None:
    shelf = Shelf(root, "run", keep=2)
    assert newest(shelf) is None
    for rank in range(2):
        shelf.put(1, rank_files(tmp_path / f"rank-{rank}", f"part-{rank}"))
        assert newest(shelf) is None
    shelf.publish(1)
    assert newest(shelf) == {"part-0", "part-1"}
    shelf.put(2, rank_files(tmp_path / "torn", "part-0"))  # killed before rank 1 was done
    assert newest(shelf) == {"part-0", "part-1"}


def test_old_and_torn_checkpoints_go(root: Root, tmp_path: Path) -> None:
    shelf = Shelf(root, "run", keep=2)
    for step in (1, 2, 3):
        shelf.put(step, rank_files(tmp_path / f"step-{step}", "part"))
        shelf.publish(step)
    shelf.put(9, rank_files(tmp_path / "torn", "part"))  # killed here; the run that follows comes from step 3
    assert root.names("run") == ["latest.json", "step-00000002", "step-00000003", "step-00000009"]
    shelf.put(4, rank_files(tmp_path / "step-4", "part"))
    shelf.publish(4)
    assert root.names("run") == ["latest.json", "step-00000003", "step-00000004"]


def test_curves_and_pictures_reach_the_store(root: Root) -> None:
    tracker = FileTracker(root, "run")
    tracker.scalars(1, {"loss": 2.0})
    tracker.images(1, "samples", np.zeros((4, 4, 3), np.uint8))
    tracker.close()
    assert json.loads(root.read("run/metrics.jsonl")) == {"step": 1, "loss": 2.0}
    assert root.names("run/samples") == ["step-00000001-samples.png"]
    assert len(root.names("run/tensorboard")) == 1


def test_a_run_that_lost_its_lease_publishes_nothing(tmp_path: Path) -> None:
    root = Root(str(tmp_path / "root"))
    root.write("run/" + LEASE, json.dumps({"run": "second"}).encode())
    first, second = Shelf(root, "run", 2, "first"), Shelf(root, "run", 2, "second")
    second.put(1, rank_files(tmp_path / "one", "part"))
    second.publish(1)
    first.put(2, rank_files(tmp_path / "two", "part"))
    with pytest.raises(Failed, match="another run has taken over"):
        first.publish(2)
    assert newest(first) == {"part"}
    assert json.loads(root.read("run/latest.json")) == {"checkpoint": "step-00000001", "complete": ["step-00000001"]}


def test_who_deletes_the_newest_goes_back_to_the_one_before(root: Root, tmp_path: Path) -> None:
    """Never to a torn one, even where a later checkpoint made it old."""
    shelf = Shelf(root, "run", keep=2)
    for step in (1, 3):
        if step == 3:
            shelf.put(2, rank_files(tmp_path / "torn", "part-of-2"))  # killed here; continued from step 1
        shelf.put(step, rank_files(tmp_path / f"step-{step}", f"part-of-{step}"))
        shelf.publish(step)
    assert root.names("run") == ["latest.json", "step-00000001", "step-00000003"]
    assert newest(shelf) == {"part-of-3"}
    root.delete("run/step-00000003")
    assert newest(shelf) == {"part-of-1"}
    assert newest_step(root, "run") == 1
