"""Images taken down while a model is trained: which steps still see them, and that the record of what was seen is what was read."""

from collections import Counter
from pathlib import Path

import pytest

from ccray import storage, takedowns
from ccray.data.loading import rounds
from ccray.data.loading.loader import LatentDataset, Order
from ccray.models import pipeline
from ccray.schema import hex_key
from ccray.storage import Root
from ccray.takedowns import Record
from ccray.training.local import LocalRuntime
from ccray.training.loop import Trained, train
from ccray.training.seen import Seen
from ccray.training.shelf import newest_step
from ccray.training.tracking import Silence
from tests.training.datasets import Interruption, Logged, UntilStep
from tests.training.tables import DOORS, UNET, Place, make_place

Log = list[tuple[int, list[int]]]


def run(place: Place, name: str, log: Log, until: int | None = None, at: int = -1, gone: tuple[int, ...] = (), steps: int = 50) -> Trained | None:
    """As the stage does, without Ray: 59 images, 5 steps an epoch, 7 epochs a round (35 steps); `gone` is taken down at step `at`."""
    recipe = place.recipe(UNET, f"train.steps={steps}", "train.checkpoint_every=10", "train.log_every=100")
    record, size = f"{name}/rounds", recipe.train.global_batch_size
    counted = rounds.continued(place.root, DOORS, record, size, newest_step(place.root, name))
    data = LatentDataset(place.root, DOORS, counted, Order(recipe.train.seed, size, recipe.train.window_shards), record=record)
    logged = Logged(data, log, at, lambda: take_down(place.root, gone))
    components, runtime = pipeline.from_recipe(recipe), LocalRuntime(place.path / name)
    if until is None:
        return train(recipe, runtime, logged, components, Silence())
    with pytest.raises(Interruption):
        train(recipe, runtime, UntilStep(logged, until), components, Silence())  # type: ignore[arg-type]
    return None


def take_down(root: Root, keys: tuple[int, ...]) -> None:
    takedowns.record(root, [Record("key", hex_key(key), None, "", (key,), ()) for key in keys])


def some_keys(place: Place) -> tuple[int, ...]:
    return tuple(place.root.read_table(f"{DOORS.latents}/{storage.shard_name(1)}")["key"].to_pylist()[:5])


def replayed(log: Log) -> dict[int, int]:
    """How often each image was seen, by the last reading of each step."""
    return dict(Counter(key for keys in dict(log).values() for key in keys))


def recorded(place: Place, name: str, step: int) -> dict[int, int]:
    table = Seen.read(place.path / name / f"step-{step:08d}").table()
    return dict(zip(table["key"].to_pylist(), table["times"].to_pylist(), strict=True))


def test_what_is_taken_down_is_not_seen_again(tmp_path: Path) -> None:
    """Taken down at step 7 and killed at step 43: the round that had begun is gone through, every later step is without; the restart is exact."""
    gone: tuple[int, ...] = ()
    logs: dict[str, Log] = {"straight": [], "killed": []}
    weights = {}
    for name, log in logs.items():
        place = make_place(tmp_path / name)
        gone = some_keys(place)
        if name == "killed":
            run(place, "run", log, until=43, at=7, gone=gone)
        trained = run(place, "run", log, at=7 if name == "straight" else -1, gone=gone)
        assert trained is not None
        weights[name] = trained.weights
        seen_late = {key for step, keys in log if step >= 35 for key in keys}
        assert len(seen_late) == 54
        assert not seen_late & set(gone)
        assert recorded(place, "run", 50) == replayed(log)
        assert set(gone) <= recorded(place, "run", 50).keys(), "what was seen stays recorded"
    assert dict(logs["killed"]) == dict(logs["straight"])
    assert weights["straight"] is not None
    assert weights["killed"] is not None
    assert all((weights["killed"][name] == tensor).all() for name, tensor in weights["straight"].items())


def test_a_continued_run_honours_at_once_and_records_what_it_read(tmp_path: Path) -> None:
    """Shorter than an epoch, killed at step 3 of 5, with nothing saved; then killed again at step 13 with a takedown in between."""
    place = make_place(tmp_path)
    gone, log = some_keys(place), []
    assert run(place, "short", log, until=3, steps=4) is None
    run(place, "short", log, steps=4)
    assert recorded(place, "short", 4) == replayed(log)
    assert set(recorded(place, "short", 4).values()) == {1}
    log = []
    run(place, "long", log, until=13)
    take_down(place.root, gone)
    run(place, "long", log)
    last = dict(log)
    assert not {key for step, keys in last.items() if step >= 10 for key in keys} & set(gone)
    assert recorded(place, "long", 50) == replayed(log)
