import json
from pathlib import Path

import pytest

from ccray.interfaces import Failed
from ccray.storage import LEASE, Root
from ccray.training.shelf import Shelf


def rank_files(folder: Path, name: str) -> Path:
    """One rank's part of a checkpoint."""
    folder.mkdir()
    (folder / name).write_text(name)
    return folder


def newest(shelf: Shelf) -> set[str] | None:
    with shelf.opened() as folder:
        return None if folder is None else {path.name for path in folder.iterdir()}


def test_a_checkpoint_counts_once_it_is_published(tmp_path: Path) -> None:
    root = Root(str(tmp_path / "root"))
    shelf = Shelf(root, "run", keep=2)
    assert newest(shelf) is None
    for rank in range(2):
        shelf.put(1, rank_files(tmp_path / f"rank-{rank}", f"part-{rank}"))
        assert newest(shelf) is None
    shelf.publish(1)
    assert newest(shelf) == {"part-0", "part-1"}
    shelf.put(2, rank_files(tmp_path / "torn", "part-0"))  # killed before rank 1 was done
    assert newest(shelf) == {"part-0", "part-1"}


def test_old_and_torn_checkpoints_go(tmp_path: Path) -> None:
    root = Root(str(tmp_path / "root"))
    shelf = Shelf(root, "run", keep=2)
    for step in (1, 2, 3):
        shelf.put(step, rank_files(tmp_path / f"step-{step}", "part"))
        shelf.publish(step)
    shelf.put(9, rank_files(tmp_path / "torn", "part"))  # killed here; the run that follows comes from step 3
    assert root.names("run") == ["latest.json", "step-00000002", "step-00000003", "step-00000009"]
    shelf.put(4, rank_files(tmp_path / "step-4", "part"))
    shelf.publish(4)
    assert root.names("run") == ["latest.json", "step-00000003", "step-00000004"]


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
    assert json.loads(root.read("run/latest.json")) == {"checkpoint": "step-00000001"}
