"""One shared Ray cluster and one small, finished corridor for all tests of a session."""

import os

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ccray import config, recipes
from ccray.config import Recipe
from ccray.storage import Root

SHARED_DATA = Path(__file__).parent.parent.parent / "shared" / "data"


@dataclass(frozen=True)
class Corridor:
    """A root with catalog, captions and latents of a few dozen drawn scenes, and the recipe that made it."""

    root: Root
    recipe: Recipe

    def with_settings(self, *words: str) -> Recipe:
        """The recipe with overrides, for stages after encode."""
        return config.build(self.recipe, words)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local cluster of 8 logical CPUs."""
    import ray

    ray.init(address="local", num_cpus=8, object_store_memory=400 * 2**20, include_dashboard=False, log_to_driver=True)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def corridor(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Corridor:
    """Catalog, captions and latents of 96 scenes in 3 shards. Read it; write only to directories of your own name."""
    from ccray.stages import caption, catalog, encode

    settings = [
        "catalog.shapes.count=96",
        "catalog.rows_per_shard=32",
        "catalog.validation_fraction=0.1",
        "resources.caption.rows_per_block=16",
        "resources.caption.threads=1",
        "resources.encode.rows_per_block=16",
    ]
    recipe = config.build(recipes.named("tiny"), settings)
    root = Root(str(tmp_path_factory.mktemp("corridor")))
    for stage in (catalog, caption, encode):
        stage.run(recipe, root)
    return Corridor(root, recipe)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data beside the checkout; tests that need it say so when it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real test data at {SHARED_DATA}")
    return SHARED_DATA
