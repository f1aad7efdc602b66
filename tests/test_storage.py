"""Atomic writes, leases, manifests and refusals, on a local disk and on a real S3 protocol server."""

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from ccray import config, recipes, schema, storage
from ccray.__main__ import main
from ccray.interfaces import Failed, Refused
from ccray.storage import Root
from tests.servers import s3_store


@pytest.fixture(scope="module")
def s3_uri() -> Iterator[str]:
    """A bucket on a local S3 server in a process of its own."""
    with s3_store() as uri:
        yield f"{uri}/runs"


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Root:
    if request.param == "local":
        return Root(str(tmp_path / "root"))
    return Root(f"{request.getfixturevalue('s3_uri')}/{tmp_path.name}")


def test_files(root: Root) -> None:
    assert not root.exists("a/b.txt")
    assert root.names("a") == []
    root.write("a/b.txt", b"one")
    root.write("a/b.txt", b"two")
    root.write("a/c/d.txt", b"three")
    assert root.read("a/b.txt") == b"two"
    assert root.names("a") == ["b.txt", "c"]
    assert root.files("a") == ["a/b.txt", "a/c/d.txt"]
    root.delete("a/c")
    assert root.files("a") == ["a/b.txt"]


def test_only_the_first_creates(root: Root) -> None:
    assert root.create("lease", b"mine")
    assert not root.create("lease", b"yours")
    assert root.read("lease") == b"mine"


def test_a_sealed_shard_has_no_doubles_is_sorted_and_typed(root: Root) -> None:
    rows = pa.table({"times": [1, 2, 2, 3], "key": [9, -4, -4, 7]})
    assert storage.seal(root, "seen", 17, rows, schema.SEEN, "key") == 3
    assert storage.sealed_shards(root, "seen") == [17]
    sealed = root.read_table("seen/shard-00017.parquet")
    assert sealed.schema.equals(schema.SEEN)
    assert sealed.to_pydict() == {"key": [-4, 7, 9], "times": [2, 3, 1]}


def test_the_same_rows_seal_to_the_same_bytes(root: Root) -> None:
    rows = pa.table({"key": [3, 1, 2], "times": [1, 1, 1]})
    storage.seal(root, "a", 0, rows, schema.SEEN, "key")
    storage.seal(root, "b", 0, rows.take([2, 0, 1]), schema.SEEN, "key")
    assert root.read("a/shard-00000.parquet") == root.read("b/shard-00000.parquet")


def test_new_resume_finished(root: Root) -> None:
    stage = storage.stage_of(recipes.tiny(), "catalog")
    assert storage.state(root, stage) == "new"
    with pytest.raises(KeyError), storage.running(root, stage):
        raise KeyError("the stage broke")
    assert storage.state(root, stage) == "resume"
    with storage.running(root, stage) as manifest:
        manifest.rows = 5
    assert storage.state(root, stage) == "finished"
    assert storage.inputs(root, recipes.tiny(), "caption")["catalog"].rows == 5


def test_another_configuration_is_refused_with_both_values(root: Root) -> None:
    with storage.running(root, storage.stage_of(recipes.tiny(), "catalog")):
        pass
    other = config.build(recipes.tiny(), ["catalog.policy=permissive"])
    with pytest.raises(Refused, match=r"catalog\.policy is 'permissive', but catalog was made with 'commercial'"):
        storage.state(root, storage.stage_of(other, "catalog"))
    with pytest.raises(Refused, match=r"catalog\.policy"):
        storage.inputs(root, other, "caption")


def test_an_unfinished_input_is_refused(root: Root) -> None:
    with pytest.raises(Refused, match="ccray catalog"):
        storage.inputs(root, recipes.tiny(), "caption")


def test_settings_of_the_same_recipe_are_adopted(root: Root) -> None:
    made = config.build(recipes.tiny(), ["catalog.shapes.count=77"])
    with storage.running(root, storage.stage_of(made, "catalog")):
        pass
    assert storage.adopt(root, recipes.tiny()) == made
    assert storage.adopt(root, recipes.tiny_dit()) == recipes.tiny_dit()


TRANSLATED = ("caption.ja={family: translate, model: some/translator, input: shapes-blip2, language: ja}", "caption.ja.prompt=訳してください")
DENSE = "caption.dense={max_new_tokens: 200}"


def fingerprints(*words: str) -> dict[str, str]:
    """Output directory -> fingerprint, of every stage of a recipe."""
    recipe = config.build(recipes.tiny(), words)
    stages = [stage for name in config.STAGE_SECTIONS for stage in storage.stages_of(recipe, name)]
    return {stage.directory: stage.fingerprint for stage in stages}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {directory for directory in before if after.get(directory) != before[directory]}


FOLLOWS = {"checkpoints/main", "evaluation", "published"}


def test_a_captioner_changes_its_own_table_its_translators_and_what_is_trained_on_it() -> None:
    base = fingerprints(*TRANSLATED, DENSE)
    first, ja, dense = (f"captions/{name}" for name in ("shapes-blip2", "ja", "dense"))
    assert changed(base, fingerprints(*TRANSLATED, DENSE, "caption.shapes-blip2.max_new_tokens=5")) == {first, ja, *FOLLOWS}
    assert changed(base, fingerprints(*TRANSLATED, DENSE, "caption.ja.batch_size=5")) == {ja, *FOLLOWS}
    assert changed(base, fingerprints(*TRANSLATED, DENSE, "caption.dense.language=fr")) == {dense, *FOLLOWS}
    drawn = "train.captions={ja: 1, source-alt: 2}"
    base = fingerprints(*TRANSLATED, DENSE, drawn)
    assert changed(base, fingerprints(*TRANSLATED, DENSE, drawn, "caption.dense.language=fr")) == {dense, "evaluation", "published"}
    assert changed(base, fingerprints(*TRANSLATED, DENSE, drawn, "caption.shapes-blip2.max_new_tokens=5")) == {first, ja, *FOLLOWS}
    assert changed(base, fingerprints(*TRANSLATED, DENSE, "train.captions={ja: 1, source-alt: 3}")) == FOLLOWS


def test_a_captioner_that_training_does_not_draw_from_changes_no_training() -> None:
    drawn = "train.captions={shapes-blip2: 1}"
    more = fingerprints(drawn, *TRANSLATED)
    assert changed(fingerprints(drawn), more) == {"evaluation", "published"}
    assert more["checkpoints/main"] == fingerprints()["checkpoints/main"], "the only captioner, named or not"
    assert changed(fingerprints(), fingerprints(*TRANSLATED)) == FOLLOWS


def test_what_a_stage_reads_is_known_by_directory() -> None:
    recipe = config.build(recipes.tiny(), [*TRANSLATED, DENSE, "train.captions={ja: 1, source-alt: 2}"])
    assert list(storage.inputs_of(recipe, "caption")) == ["catalog"]
    assert list(storage.inputs_of(recipe, "train")) == ["catalog", "captions/ja", "captions/source-alt", "latents/shapes-kl-32px"]
    tables = [f"captions/{name}" for name in ("shapes-blip2", "ja", "dense", "source-alt")]
    assert list(storage.inputs_of(recipe, "publish")) == ["catalog", *tables, "latents/shapes-kl-32px", "train"]
    assert storage.caption_stage(recipe, "ja").inputs.keys() == {"catalog", "shapes-blip2"}
    with pytest.raises(ValueError, match="too many values"):
        storage.stage_of(recipe, "caption")  # there is no such one


def test_captioners_found_at_a_root_are_adopted(root: Root) -> None:
    words = [*TRANSLATED, "caption.a={family: translate, input: ja, model: x, language: fr}", DENSE]
    made = config.build(recipes.tiny(), words)
    for stage in storage.stages_of(made, "caption"):
        with storage.running(root, stage):
            pass
    with storage.running(root, storage.caption_stage(made, "source-alt")):
        pass
    found = storage.adopt(root, recipes.tiny())
    assert found.caption == made.caption, "and no captioner is made of what a source ships"
    assert list(found.caption).index("ja") < list(found.caption).index("a"), "a translator of translations comes after what it reads"
    assert storage.state(root, storage.caption_stage(found, "ja")) == "finished"
    assert storage.adopt(root, recipes.tiny_dit()) == recipes.tiny_dit()
    changed = config.build(found, ["caption.ja.prompt=別の文"])
    with pytest.raises(Refused, match=r"caption\.ja\.prompt is '別の文', but captions/ja was made with '訳してください'"):
        storage.state(root, storage.caption_stage(changed, "ja"))
    root.delete("captions/ja")
    with pytest.raises(Refused, match=r"caption\.a\.input is 'ja'.*use another --root"):
        storage.adopt(root, recipes.tiny())


def test_what_training_drew_from_is_adopted_with_it(root: Root) -> None:
    """A captioner that came after a training does not become part of it."""
    stage = storage.stage_of(recipes.tiny(), "train")
    with storage.running(root, stage):
        pass
    manifest = storage.read_manifest(root, "checkpoints/main")
    assert manifest is not None
    assert manifest.config["train"]["captions"] == {"shapes-blip2": 1.0}
    more = config.build(storage.adopt(root, recipes.tiny()), TRANSLATED)
    assert list(more.caption) == ["shapes-blip2", "ja"]
    assert storage.state(root, storage.stage_of(more, "train")) == "finished"


def test_a_root_of_before_captioners_had_names_is_refused_in_a_sentence(root: Root) -> None:
    stage = storage.caption_stage(recipes.tiny(), "shapes-blip2")
    with storage.running(root, stage) as manifest:
        pass
    manifest.config, manifest.fingerprint = {"caption": {"captioner": "shapes-blip2", "model": "shapes:captioner"}}, "0" * 16
    root.write_json(f"{stage.directory}/manifest.json", manifest.__dict__)
    with pytest.raises(Refused, match=r"caption\.captioner is None, but captions/shapes-blip2 was made with 'shapes-blip2'"):
        storage.state(root, storage.caption_stage(storage.adopt(root, recipes.tiny()), "shapes-blip2"))


def test_a_live_lease_keeps_others_off(root: Root) -> None:
    with storage.lease(root, "captions/x"), pytest.raises(Refused, match=f"process {os.getpid()}"), storage.lease(root, "captions/x"):
        pass
    with storage.lease(root, "captions/x"):
        pass


@pytest.mark.parametrize(
    "holder",
    [
        {"host": "elsewhere", "pid": 1, "run": "r", "time": time.time() - storage.LEASE_SECONDS - 1},
        {"host": socket.gethostname(), "pid": 2**22 + 1, "run": "r", "time": time.time()},
    ],
    ids=["silent elsewhere", "dead here"],
)
def test_a_dead_lease_is_void(root: Root, holder: dict[str, object]) -> None:
    root.write("captions/x/lease.json", json.dumps(holder).encode())
    with storage.lease(root, "captions/x"):
        assert root.read_json("captions/x/lease.json")["pid"] == os.getpid()


def test_upload_and_local_copy(root: Root, tmp_path: Path) -> None:
    (tmp_path / "model" / "unet").mkdir(parents=True)
    (tmp_path / "model" / "unet" / "config.json").write_text("{}")
    root.upload(tmp_path / "model", "published/model")
    assert (root.local("published/model", tmp_path / "cache") / "unet" / "config.json").read_text() == "{}"


@pytest.mark.parametrize("uri", ["ftp://host/x", "s3://", "gs://bucket/x"])
def test_other_schemes_are_refused(uri: str) -> None:
    with pytest.raises(Refused, match="s3://bucket/prefix"):
        Root(uri)


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match="cannot be written"):
        Root(str(tmp_path / "file")).check_writable()


def test_hex_keys_are_the_beginning_of_the_sha256() -> None:
    for data in (b"", b"picture", b"another"):
        digest = __import__("hashlib").sha256(data).hexdigest()
        assert schema.hex_key(schema.key_of(data)) == digest[:16]


def test_status_tells_a_stopped_stage_from_a_running_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = Root(str(tmp_path))
    stage = storage.stage_of(recipes.named("tiny"), "catalog")

    def fail() -> None:
        with storage.running(root, stage):
            assert main(["status", "--root", root.uri]) == 0
            assert capsys.readouterr().out.startswith("catalog   running ")
            raise Failed("no image is left")

    with pytest.raises(Failed):
        fail()
    assert main(["status", "--root", root.uri]) == 0
    assert capsys.readouterr().out.startswith("catalog   stopped ")
    root.write("catalog/lease.json", json.dumps({"host": socket.gethostname(), "pid": 2**22 + 1, "run": "x", "time": time.time()}).encode())
    assert not storage.is_held(root, "catalog")  # what a kill leaves
