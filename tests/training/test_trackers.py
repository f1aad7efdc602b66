"""Services beside the files: Weights & Biases without a network, several trackers at once, and what is said when a package is missing."""

import sys
from pathlib import Path

import numpy as np
import pytest

from ccray.interfaces import Refused
from ccray.storage import Root
from ccray.training import weights_and_biases
from ccray.training.tracking import opened, progress_line


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(Refused, match=r"pip install ccray\[wandb\]"):
        weights_and_biases.check()
    with pytest.raises(Refused, match=r"resources\.train\.trackers names wandb"):
        opened(Root(str(tmp_path)), "run", ["wandb"])


def test_wandb_is_told_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Twice, as a run that is continued: the files under the root have the same, and wandb/ has every value and picture."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    root = Root(str(tmp_path))
    for steps in ((1, 2), (3,)):
        tracker = opened(root, "checkpoints/main", ["wandb"])
        for step in steps:
            tracker.scalars(step, {"loss": 1.5 / step, "captions/test": 12})
        tracker.images(steps[-1], "samples", np.zeros((4, 4, 3), np.uint8))
        tracker.close()
    assert len(root.read("checkpoints/main/metrics.jsonl").splitlines()) == 3
    runs = sorted((tmp_path / "checkpoints" / "main" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(runs) == 2
    assert len({path.stem for path in runs}) == 1, "one run of the service"
    logs = [path.read_bytes() for path in runs]  # records that are not compressed: names and values as text
    assert all(b"loss" in log for log in logs)
    assert [(b"0.75" in log, b"0.5" in log) for log in logs] == [(True, False), (False, True)]
    assert list((tmp_path / "checkpoints" / "main" / "wandb").glob("offline-run-*/files/media/images/samples_*.png"))


def test_progress_says_what_a_person_asks() -> None:
    values = {"loss": 0.12345, "seconds_per_step": 2.5, "samples_per_second": 160.4, "skipped": 0}
    assert progress_line(120, 3000, values) == "train: step 120/3000  loss 0.1235  160 samples/s  2:00:00 left"
    del values["loss"]
    assert progress_line(2990, 3000, values | {"skipped": 4}) == "train: step 2990/3000  loss no number  4 skipped  160 samples/s  0:00:25 left"
