"""Which licences each recipe trains on: the rows that one epoch visits, against a list written by hand."""

import itertools

import numpy as np
import pyarrow as pa
import pytest

from ccray import config, recipes, schema
from ccray.config import Recipe
from ccray.data.loading.eligible import Doors
from ccray.data.loading.loader import LatentDataset, Order
from ccray.data.loading.rounds import index
from ccray.interfaces import Failed
from ccray.storage import Root, shard_name
from tests.training.tables import DOORS, write_shard

# What a catalog may say of an image's licence, and the strictest policy under which it may be trained on.
LICENSES: dict[str | None, str] = {
    "CC0-1.0": "permissive",
    "LicenseRef-PDM-1.0": "permissive",
    "CC-BY-2.0": "permissive",
    "CC-BY-4.0": "permissive",
    "CC-BY-2.1-JP": "permissive",
    "CC-BY-SA-2.0": "commercial",
    "CC-BY-SA-4.0": "commercial",
    "CC-BY-NC-2.0": "noncommercial",
    "CC-BY-NC-4.0": "noncommercial",
    "CC-BY-NC-SA-2.0": "noncommercial",
    "CC-BY-NC-SA-4.0": "noncommercial",
    "CC-BY-ND-2.0": "never",
    "CC-BY-NC-ND-2.0": "never",
    "CC-BY-NC-ND-4.0": "never",
    "GFDL-1.2": "never",
    "All rights reserved": "never",
    "CC BY": "never",  # of no version
    "unknown": "never",
    "": "never",
    None: "never",
}
PERMITTED = {
    "permissive": ("permissive",),
    "commercial": ("permissive", "commercial"),
    "noncommercial": ("permissive", "commercial", "noncommercial"),
}
SHARDS, ROWS = 3, 70  # rows of one shard: each licence at least three times


def license_of(key: int) -> str | None:
    return list(LICENSES)[key % 1000 % len(LICENSES)]


def split_of(key: int) -> str:
    """Every seventh row is not trained on, and half of those that never may be are set apart for evaluation, as the catalog does."""
    if LICENSES[license_of(key)] == "never" and key % 2:
        return "evaluation"
    return "validation" if key % 7 == 0 else "train"


def keys_of(shard: int) -> np.ndarray:
    return np.arange(ROWS) + 1000 * shard


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Root:
    root = Root(str(tmp_path_factory.mktemp("licences")))
    for shard in range(SHARDS):
        write_shard(root, shard, keys_of(shard))
        path, keys = f"{DOORS.catalog}/{shard_name(shard)}", keys_of(shard).tolist()
        columns = {"license": [license_of(key) for key in keys], "split": [split_of(key) for key in keys]}
        table = root.read_table(path)
        for name, values in columns.items():
            table = table.set_column(table.schema.get_field_index(name), name, pa.array(values, schema.CATALOG.field(name).type))
        root.write_table(path, table)
    return root


def visited(root: Root, policy: str) -> list[int]:
    """Keys of one epoch, in ascending order, each as often as it is visited."""
    doors = Doors(DOORS.latents, DOORS.captions, DOORS.catalog, policy)  # type: ignore[arg-type]
    counted, order = index(root, doors), Order(seed=1, batch_size=16, window_shards=2)
    batches = LatentDataset(root, doors, counted, order).batches(0)
    return sorted(np.concatenate([batch.keys for batch in itertools.islice(batches, -(-counted.total // 16))]).tolist())


def listed(policy: str) -> list[int]:
    """The same, row by row from the list above."""
    keys = [int(key) for shard in range(SHARDS) for key in keys_of(shard)]
    return [key for key in keys if split_of(key) == "train" and LICENSES[license_of(key)] in PERMITTED[policy]]


def trained_policy(recipe: Recipe) -> str:
    return recipe.train.policy or recipe.catalog.policy


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("commoncanvas-s-c", "commercial"),
        ("commoncanvas-s-nc", "noncommercial"),
        ("commoncanvas-l-nc", "noncommercial"),
        ("commonart-beta", "permissive"),
    ],
)
def test_an_epoch_visits_exactly_the_licences_of_the_recipe(root: Root, name: str, policy: str) -> None:
    found = visited(root, trained_policy(recipes.named(name)))
    assert found == listed(policy)
    assert {license_of(key) for key in found} == {license for license, strictest in LICENSES.items() if strictest in PERMITTED[policy]}


@pytest.mark.parametrize("policy", ["permissive", "commercial"])
def test_training_may_be_stricter_than_the_catalog(root: Root, policy: str) -> None:
    recipe = config.build(recipes.commoncanvas_s_nc(), [f"train.policy={policy}"])
    found = visited(root, trained_policy(recipe))
    assert found == listed(policy)
    assert len(found) < len(listed(recipe.catalog.policy))


def test_policies_that_permit_nothing_that_is_there_fail(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = Root(str(tmp_path_factory.mktemp("nothing")))
    write_shard(root, 0, keys_of(0))
    path = f"{DOORS.catalog}/{shard_name(0)}"
    table = root.read_table(path)
    place = table.schema.get_field_index("license")
    root.write_table(path, table.set_column(place, "license", pa.array(["CC-BY-NC-4.0"] * ROWS)))
    assert visited(root, "noncommercial") == keys_of(0).tolist()
    with pytest.raises(Failed, match="a licence that policy commercial permits"):
        visited(root, "commercial")
