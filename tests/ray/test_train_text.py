"""The text encoder on an actor of its own: the same run, bit for bit, also when the actor dies; trainers hold no such model."""

import contextlib
import threading
import time
from pathlib import Path

import psutil
import pytest
import ray
import torch

from ccray import config, recipes
from ccray.config import Recipe, phases_of
from ccray.models import pipeline
from ccray.sharded.texts import Asking, text_actors
from ccray.stages import train
from ccray.storage import Root
from tests import folders
from tests.ray.test_train import UNET, metrics, tables_for, weights

pytestmark = pytest.mark.ray

KILLED_AT = 15
SETTINGS = (
    "text.width=32",
    f"denoiser={UNET.replace('cross_attention_dim: 96', 'cross_attention_dim: 32')}",
    "train.steps=60",
    "train.global_batch_size=8",
    "train.checkpoint_every=25",
    "train.log_every=1",
    "train.sample_every=30",
    "train.sample_prompts=[picture]",
    "publish.default_steps=2",
    "resources.train.threads=1",
)


@pytest.fixture(scope="module")
def place(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Root, Recipe]:
    path = tmp_path_factory.mktemp("text")
    vae, text = folders.vae_folder(path / "vae"), folders.text_folder(path / "text")
    recipe = config.build(recipes.named("tiny"), [*SETTINGS, f"encode.model={vae}", f"text.model={text}"])
    root = Root(str(path / "root"))
    tables_for(root, recipe)
    return root, recipe


def hosts() -> list[int]:
    """Processes of this cluster that hold the text encoder."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::TextHost"):
                found.append(process.pid)
    return found


class Killer(threading.Thread):
    """Kills the actor once the run has come to a step."""

    def __init__(self, root: Root) -> None:
        super().__init__(daemon=True)
        self.root, self.stopped = root, threading.Event()
        self.killed: list[int] = []
        self.seen: set[int] = set()

    def run(self) -> None:
        while not self.stopped.is_set():
            self.seen |= set(hosts())
            at = metrics(self.root, "apart")[-1]["step"] if self.root.exists("checkpoints/apart/metrics.jsonl") else 0
            if at >= KILLED_AT and not self.killed:
                self.killed = hosts()
                for pid in self.killed:
                    psutil.Process(pid).kill()
            time.sleep(0.05)


def test_apart_is_the_same_run_and_survives_a_kill(place: tuple[Root, Recipe]) -> None:
    root, recipe = place
    train.run(config.build(recipe, ["train.name=beside"]), root)
    killer = Killer(root)
    killer.start()
    apart = config.build(recipe, ["train.name=apart", "resources.text={cpus: 1, threads: 1}"])
    found = train.run(apart, root)
    killer.stopped.set()
    killer.join()
    assert len(killer.killed) == 1
    assert len(killer.seen) > 1, "another process took its place"
    assert hosts() == []
    assert metrics(root, "apart") == metrics(root, "beside")
    mine, theirs = weights(root, "apart"), weights(root, "beside")
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    saved, own = pipeline.load_folder(root.path(found.facts["model"])).text.module.state_dict(), pipeline.text_of(recipe).module.state_dict()
    assert all(torch.equal(saved[name], own[name]) for name in own), "the model has its text encoder"


@ray.remote(num_cpus=1)
def held(recipe: Recipe, root: Root, asking: Asking | None) -> list[str]:
    """Classes of the pretrained text models in a process that has put a rank together."""
    import gc

    from transformers import PreTrainedModel

    work = train.Work(recipe, root, "checkpoints/none", [], "", asking)
    assembled = train.assembled(work, 0, 1, "cpu")
    found = [type(one).__name__ for one in gc.get_objects() if isinstance(one, PreTrainedModel)]
    del assembled
    return found


def test_trainers_hold_no_text_encoder(place: tuple[Root, Recipe]) -> None:
    root, recipe = place
    apart = config.build(recipe, ["resources.text={cpus: 1, threads: 1}"])
    with text_actors(apart) as asking:
        assert ray.get(held.remote(apart, root, asking)) == []
    assert ray.get(held.remote(recipe, root, None)), "where it is beside training it is found"
    assert phases_of(apart) == phases_of(recipe)


def test_an_encoder_that_cannot_be_loaded_fails(place: tuple[Root, Recipe], tmp_path: Path) -> None:
    from ccray.interfaces import Failed

    _, recipe = place
    missing = config.build(recipe, ["resources.text={cpus: 1}", f"text.model={tmp_path / 'nothing'}"])
    with pytest.raises(Failed, match=r"did not start on its own actors \(resources\.text\)"), text_actors(missing):
        pass
