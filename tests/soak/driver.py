"""One catalog run on the cluster of RAY_ADDRESS: `python -m tests.soak.driver ROOT SETTING...`. Its nodes share this machine's disk, so a local root is fine."""

import sys

import ray

from ccray import config, recipes
from ccray.stages import catalog
from ccray.storage import Root

if __name__ == "__main__":
    ray.init(log_to_driver=False)
    catalog.run(config.build(recipes.named("tiny"), sys.argv[2:]), Root(sys.argv[1]))
