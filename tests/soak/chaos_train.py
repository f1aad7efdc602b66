"""Twenty seeded kills over one training run of two ranks, each on a node of its own, on the local disk and on S3.

    make soak

Driver, rank or node dies each time another share of the steps was made; what does not come back by itself is started again. Losses, weights and the
record of what was seen must then be those of the run that nobody disturbed, bit for bit.
"""

import contextlib
import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from ccray import config, recipes
from ccray.storage import Root
from tests import folders
from tests.ray.machines import Machines, Training, machines, same
from tests.ray.test_train import UNET, tables_for
from tests.servers import s3_store

KILLS = int(os.environ.get("CCRAY_SOAK_TRAIN_KILLS", "20"))
SEED = int(os.environ.get("CCRAY_SOAK_SEED", "0"))
EVERY = 15  # steps between checkpoints
STEPS = (KILLS + 1) * 2 * EVERY


def settings(path: Path) -> tuple[str, ...]:
    vae, text = folders.vae_folder(path / "vae"), folders.text_folder(path / "text")
    return (
        f"encode.model={vae}",
        f"text.model={text}",
        "text.width=32",
        f"denoiser={UNET.replace('cross_attention_dim: 96', 'cross_attention_dim: 32')}",
        f"train.steps={STEPS}",
        "train.global_batch_size=6",
        f"train.checkpoint_every={EVERY}",
        "train.log_every=1",
        "train.sample_every=100000",
        "train.sample_prompts=[picture]",
        "publish.default_steps=2",
        "resources.train.workers=2",
        "resources.train.threads=1",
        f"resources.train.max_failures={2 * KILLS}",
    )


def disturb(nodes: Machines, run: Training) -> Counter[str]:
    """Let the run end, with a kill within each of as many equal shares of its steps; how often each kind died."""
    seed, kinds, began = random.Random(SEED), Counter[str](), time.monotonic()
    run.start()
    for number in range(KILLS):
        run.until(2 * EVERY * number + seed.randrange(1, 2 * EVERY))
        nodes.await_alive(4)
        kind = seed.choice(("driver", "rank", "node"))
        if kind == "driver":
            run.kill_driver()
        else:
            while not (held := sorted(nodes.ranks())):
                time.sleep(0.1)
            node = seed.choice(held)
            if kind == "rank":
                run.kill_rank(node)
            else:
                nodes.kill_node(node)
                nodes.join()
        kinds[kind] += 1
        print(f"{time.monotonic() - began:5.0f} s: {kind} killed at step {run.step()}, newest checkpoint {run.checkpoint()}", flush=True)
    run.end()
    return kinds


@pytest.mark.parametrize("store", ["local", "s3"])
def test_twenty_kills(store: str, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        words = settings(tmp_path)
        root = Root(str(tmp_path / "root"))
        tables_for(root, config.build(recipes.named("tiny"), words))
        if store == "s3":
            root, source = Root(f"{stack.enter_context(s3_store())}/run"), root
            for directory in ("catalog", "captions", "latents"):
                root.upload(Path(source.path(directory)), directory)
        nodes = stack.enter_context(machines(3))
        began = time.monotonic()
        whole = Training(nodes, root, words, "whole").start()
        whole.end()
        print(f"{store}: undisturbed {STEPS} steps in {time.monotonic() - began:.0f} s")
        began = time.monotonic()
        run = Training(nodes, root, words, "disturbed")
        kinds = disturb(nodes, run)
        print(f"{store}: {kinds.total()} kills {dict(kinds)} in {time.monotonic() - began:.0f} s")
        assert kinds.total() == KILLS
        same(run, whole)
