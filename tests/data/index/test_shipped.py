"""Captions that a source ships become tables that later stages can choose."""

from pathlib import Path

import pytest

from ccray import config, recipes, schema
from ccray.data.index.shipped import folder_of, write_shipped
from ccray.interfaces import Refused
from ccray.storage import Root, adopt, caption_stage, finished, inputs_of, read_manifest, sealed_shards, stage_directories, stage_of, state
from tests.data.index import shards
from tests.data.index.shards import Row

ROWS = [
    Row("a", captions=(("Alt Text", "a cat", "en"), ("説明", "猫", "ja"), ("Alt Text", "again", "en"))),
    Row("b", captions=(("Alt Text", "  ", "en"), ("alt_text", "b", None))),
    Row("c", captions=(("Alt Text", "un chat", "fr"), ("alt_text", None, None)), license="CC-BY-NC-4.0"),
    Row("d"),
    Row("e", captions=(("Alt Text", "e", "en"),)),
]


@pytest.fixture
def root(tmp_path: Path) -> Root:
    root = Root(str(tmp_path / "root"))
    shards.write(root, ROWS, rows_per_shard=2)
    shards.index(root)
    return root


def captions(root: Root, folder: str) -> dict[int, tuple[str, str | None]]:
    tables = [root.read_table(f"captions/{folder}/shard-{shard:05d}.parquet") for shard in sealed_shards(root, f"captions/{folder}")]
    assert all(table.schema == schema.CAPTIONS for table in tables)
    return {row["key"]: (row["caption"], row["language"]) for table in tables for row in table.to_pylist()}


def test_one_table_a_column_with_catalogued_images_alone(root: Root) -> None:
    recipe = recipes.named("tiny")
    root.write("captions/source-old/manifest.json", b"{}")
    written = write_shipped(root, stage_of(recipe, "catalog"))
    assert written == {"source-alt-text": 2, "source-alt-text-2": 1, "source---": 1}
    key = {row.ref: schema.key_of(row.bytes) for row in ROWS}
    assert captions(root, "source-alt-text") == {key["a"]: ("a cat", "en"), key["e"]: ("e", "en")}
    assert captions(root, "source-alt-text-2") == {key["b"]: ("b", None)}
    assert captions(root, "source---") == {key["a"]: ("猫", "ja")}
    assert stage_directories(root) == [f"captions/{name}" for name in sorted(written)]
    manifest = read_manifest(root, "captions/source-alt-text")
    assert manifest is not None
    assert (manifest.stage, manifest.status, manifest.rows, manifest.counts) == ("caption", "finished", 2, {"ok": 2})
    assert manifest.facts["column"] == "Alt Text"


def test_later_stages_can_choose_them(root: Root) -> None:
    """A later command that names the table finds it finished, for this catalog alone."""
    write_shipped(root, stage_of(recipes.named("tiny"), "catalog"))
    words = ["train.captions={source-alt-text: 1}", "caption.fr={family: translate, model: x, input: source-alt-text, language: fr}"]
    chosen = config.build(adopt(root, config.build(recipes.named("tiny"), words)), words)
    assert list(chosen.caption) == ["shapes-blip2", "fr"], "what a source ships is no captioner"
    table = inputs_of(chosen, "train")["captions/source-alt-text"]
    assert state(root, table) == "finished"
    assert caption_stage(chosen, "fr").inputs["source-alt-text"] == table.fingerprint
    with pytest.raises(Refused, match=r"captions/source-no.*run `ccray catalog`"):
        finished(root, caption_stage(chosen, "source-no"), "train")
    other = config.build(chosen, ["catalog.policy=permissive"])
    with pytest.raises(Refused, match="another catalog"):
        state(root, caption_stage(other, "source-alt-text"))
    facts = {name: read_manifest(root, f"captions/{name}").facts for name in ("source-alt-text", "source-alt-text-2", "source---")}  # type: ignore[union-attr]
    assert [(one["language"], one["languages"]) for one in facts.values()] == [("en", ["en"]), ("und", []), ("ja", ["ja"])]
    assert facts["source---"]["column"] == "説明"


def test_a_source_without_captions_writes_nothing(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    shards.write(root, [Row("a")])
    shards.index(root)
    assert write_shipped(root, stage_of(recipes.named("tiny"), "catalog")) == {}
    assert not root.exists("captions")


def test_folder_names() -> None:
    assert folder_of("BLIP2_caption (v1)") == "source-blip2-caption--v1-"
    assert len(folder_of("x" * 500)) < 100
