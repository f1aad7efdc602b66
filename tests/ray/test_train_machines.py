"""Training on nodes that die, go away with notice, or do not come back: two ranks, each on a node of its own.

pytest tests/ray/test_train_machines.py
"""

import random
from collections.abc import Iterator

import numpy as np
import pytest

from ccray import config, recipes
from ccray.storage import Root
from ccray.training import loop
from tests import folders
from tests.ray.machines import Machines, Training, machines, same
from tests.ray.test_train import UNET, tables_for

pytestmark = [pytest.mark.ray, pytest.mark.slow]

STEPS, EVERY, TOLD, SEED = 260, 18, 2, 7


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Root, tuple[str, ...]]:
    """Tables to train on, and the settings of a run of two ranks."""
    path = tmp_path_factory.mktemp("machines")
    vae, text = folders.vae_folder(path / "vae"), folders.text_folder(path / "text")
    settings = (
        f"encode.model={vae}",
        f"text.model={text}",
        "text.width=32",
        f"denoiser={UNET.replace('cross_attention_dim: 96', 'cross_attention_dim: 32')}",
        f"train.steps={STEPS}",
        "train.global_batch_size=6",
        f"train.checkpoint_every={EVERY}",
        f"train.log_every={TOLD}",
        "train.sample_every=100000",
        "train.sample_prompts=[picture]",
        "publish.default_steps=2",
        "resources.train.workers=2",
        "resources.train.threads=1",
        "resources.train.max_failures=2",
    )
    root = Root(str(path / "root"))
    tables_for(root, config.build(recipes.named("tiny"), settings))
    return root, settings


@pytest.fixture(scope="module")
def nodes() -> Iterator[Machines]:
    """Two nodes to train on, and a spare one."""
    with machines(3) as found:
        yield found


@pytest.fixture(scope="module")
def whole(nodes: Machines, place: tuple[Root, tuple[str, ...]]) -> Training:
    """The run that nobody disturbed."""
    run = Training(nodes, *place, "whole").start()
    run.end()
    return run


def test_kills_and_a_notice_leave_the_same_run(nodes: Machines, whole: Training, place: tuple[Root, tuple[str, ...]]) -> None:
    """Driver, rank and node die at steps that a seed says, then a machine is announced to go; every number is that of the run that was left alone.

    `max_failures` is 2, which rank and node have used up when the notice comes: machines that are announced do not count.
    """
    seed = random.Random(SEED)
    run = Training(nodes, *place, "disturbed").start()
    for number, kind in enumerate(("driver", "rank", "node")):
        run.until(seed.randrange(1, EVERY) + EVERY * (2 * number + 1))
        before = nodes.ranks()
        node = seed.choice(sorted(before))
        if kind == "driver":
            run.kill_driver()
        elif kind == "rank":
            run.kill_rank(node)
        else:
            nodes.kill_node(node)
            nodes.join()
        assert run.again(before).redone <= 2 * EVERY, "the newest checkpoint may have been on its way"
    run.until(EVERY * 6)
    nodes.await_alive(4)
    before, noticed = nodes.ranks(), run.step()
    leaving = sorted(before)[0]
    nodes.drain(leaving, seconds_of(whole, 3 * loop.DEADLINE_STEPS))
    gone = run.again(before)
    print(f"\nnoticed at step {noticed}, gone at {gone.last}, checkpoints {sorted(gone.checkpoints)}")
    assert [step for step in gone.checkpoints if step > noticed and step % EVERY], "made because of the notice"
    assert gone.redone <= gone.last - min(step for step in gone.checkpoints if step > noticed), "no more than since then"
    assert leaving not in nodes.ranks(), "on other machines"
    nodes.kill_node(leaving)
    run.end()
    same(run, whole)


def seconds_of(run: Training, steps: int) -> float:
    """What so many steps took in a finished run, and two seconds for the word to get round."""
    facts = run.root.read_json(f"checkpoints/{run.name}/manifest.json")["facts"]
    return 2 + steps * facts["seconds"] / facts["steps"]


def test_a_run_goes_on_with_the_ranks_that_are_left(nodes: Machines, whole: Training, place: tuple[Root, tuple[str, ...]]) -> None:
    """Of two nodes one dies and none comes in its place: one rank goes on from the newest checkpoint, with the same batches."""
    nodes.keep(2)
    root, settings = place
    run = Training(nodes, root, (*settings, "resources.train.min_workers=1"), "fewer").start()
    run.until(EVERY + 3)
    assert len(nodes.ranks()) == 2
    before = nodes.ranks()
    nodes.kill_node(sorted(nodes.nodes)[0])
    assert run.again(before).redone <= 2 * EVERY
    run.end()
    checkpoint = root.names(f"checkpoints/fewer/step-{STEPS:08d}")
    assert [name for name in checkpoint if name.endswith(".distcp")] == ["__0_0.distcp"], "one rank at the end"
    np.testing.assert_allclose([line["loss"] for line in run.metrics()], [line["loss"] for line in whole.metrics()], rtol=1e-2)
    assert root.read_table("checkpoints/fewer/seen.parquet") == root.read_table("checkpoints/whole/seen.parquet")
