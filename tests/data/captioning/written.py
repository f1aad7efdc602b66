"""Roots with a catalog of real bytes and sealed tables of captions, written by hand so that no model has to run."""

from collections.abc import Mapping, Sequence

import pyarrow as pa

from ccray import schema
from ccray.config import CatalogConfig
from ccray.data.sources.shapes import ShapesSource
from ccray.shapes import world
from ccray.storage import MANIFEST, Manifest, Root, seal, sealed_shards, shard_name
from tests.data.index import shards
from tests.data.index.shards import Row

Said = tuple[str | None, str, float | None]  # caption, status, mean_logprob


def catalog(root: Root, rows: Sequence[Row], rows_per_shard: int = 4) -> None:
    shards.write(root, rows, rows_per_shard)
    shards.index(root)


def drawn(root: Root, count: int, rows_per_shard: int = 50) -> dict[int, world.Scene]:
    """A catalog of drawn scenes; key -> scene."""
    listed = ShapesSource(CatalogConfig.model_validate({"shapes": {"count": count}})).listing()
    rows, scenes = [], {}
    for one in listed:
        seed, index = map(int, one.source_ref.split("/"))
        scene = world.train_scene(seed, index)
        data = world.png_bytes(world.draw(scene))
        rows.append(Row(one.source_ref, data, license="CC0-1.0", creator=None, source="shapes", size=(32, 32), title=one.title))
        scenes[schema.key_of(data)] = scene
    catalog(root, rows, rows_per_shard)
    return scenes


def captions(root: Root, name: str, said: Mapping[int, Said], language: str = "en", model: str | None = "a/model") -> None:
    """Seal `captions/<name>/` with what is said of images by key, shard by shard as the catalog has them."""
    files = {}
    for shard in sealed_shards(root, "catalog"):
        keys = [key for key in root.read_table(f"catalog/{shard_name(shard)}", columns=["key"]).column("key").to_pylist() if key in said]
        rows = [dict(zip(schema.CAPTIONS.names, (key, shard, said[key][0], language, "", said[key][2], said[key][1]), strict=True)) for key in keys]
        if rows:
            files[shard_name(shard)] = seal(
                root, f"captions/{name}", shard, pa.Table.from_pylist(rows, schema=schema.CAPTIONS), schema.CAPTIONS, "key"
            )
    manifest = Manifest("caption", "tiny", "finished", "f" * 16, {}, {}, sum(files.values()), files)
    manifest.facts = {"captioner": name, "language": language} | ({"model": model} if model else {})
    root.write_json(f"captions/{name}/{MANIFEST}", manifest.__dict__)
