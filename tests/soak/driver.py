"""One stage on the cluster of RAY_ADDRESS: `python -m tests.soak.driver STAGE ROOT SETTING...`. Its nodes share this machine's disk, so a local root is fine."""

import sys

import ray

from ccray import config, recipes
from ccray.stages import caption, catalog, train
from ccray.storage import Root

if __name__ == "__main__":
    ray.init(log_to_driver=False)
    run = {"catalog": catalog.run, "caption": caption.run, "train": train.run}[sys.argv[1]]
    run(config.build(recipes.named("tiny"), sys.argv[3:]), Root(sys.argv[2]))
