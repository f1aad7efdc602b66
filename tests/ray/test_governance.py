"""From a first training run to a purge, as a user walks it: lineage is what training read, and what was taken down is gone from all that follows.

    pytest tests/ray/test_governance.py

96 pictures of noise, and a near copy of one of them by somebody else. A run shorter than an epoch is killed once; five pictures and the
near copy are taken down; encode, train and publish follow; then their bytes are purged.
"""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ccray import config, recipes, storage
from ccray.__main__ import main
from ccray.config import Recipe
from ccray.governance import lineage
from ccray.schema import hex_key
from ccray.stages import caption, catalog, encode, publish, train
from ccray.storage import Root
from tests.ray.test_train import UNET

pytestmark = [pytest.mark.ray, pytest.mark.slow]

COUNT, OTHERS = 96, 8  # 12 steps of 8 an epoch; the first eight pictures are by eight people, all others by one
STEPS, BATCH, WINDOW = 10, 8, 2
NEAR = 3  # has a near copy
PATIENCE_SECONDS = 300
ATTEMPTS = 3  # to kill in the middle
CATALOG, CAPTIONS, RUN = "catalog", "captions/shapes-blip2", "checkpoints/main"
REASON = "asked by the author"


def noise(number: int) -> Image.Image:
    """64 px, coarse enough that a second file of it has the same perceptual hash."""
    coarse = np.random.default_rng(number).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures and `rows.jsonl`, which tells of each."""
    folder = tmp_path_factory.mktemp("pictures")
    rows = []
    for number in range(COUNT):
        noise(number).save(folder / f"{number}.png")
        person = min(number, OTHERS)
        rows.append({"id": f"{number}", "file": f"{number}.png", "creator": f"Person {person}", "title": f"title {number}"})
    noise(NEAR).save(folder / "near.jpg", quality=60)
    rows.append({"id": "near", "file": "near.jpg", "creator": "Copyist", "title": "title of the near copy"})
    (folder / "rows.jsonl").write_text(
        "".join(json.dumps(row | {"license": "CC-BY-4.0", "source_page": f"https://photos.example/{row['id']}"}) + "\n" for row in rows)
    )
    return folder


@dataclass(frozen=True)
class Walk:
    """A root on the way, and its recipe."""

    root: Root
    words: tuple[str, ...]
    pictures: Path

    @property
    def recipe(self) -> Recipe:
        return config.build(recipes.named("tiny"), self.words)

    def with_settings(self, *words: str) -> Recipe:
        return config.build(self.recipe, words)

    def bytes_of(self, name: str) -> bytes:
        return (self.pictures / name).read_bytes()

    def key_of(self, name: str) -> str:
        return hashlib.sha256(self.bytes_of(name)).hexdigest()[:16]

    def tables(self, directory: str) -> list[pa.Table]:
        return [self.root.read_table(f"{directory}/{storage.shard_name(shard)}") for shard in storage.sealed_shards(self.root, directory)]

    def keys(self, directory: str, status: str | None = None) -> set[str]:
        rows = [row for table in self.tables(directory) for row in table.to_pylist()]
        return {hex_key(row["key"]) for row in rows if status is None or row["status"] == status}


def words_of(pictures: Path) -> tuple[str, ...]:
    return (
        f"catalog.source=table:{pictures / 'rows.jsonl'}",
        "catalog.rows_per_shard=32",
        "catalog.validation_fraction=0",
        f"denoiser={UNET}",
        f"train.steps={STEPS}",
        f"train.global_batch_size={BATCH}",
        f"train.window_shards={WINDOW}",
        "train.checkpoint_every=2",
        "train.sample_every=6",
        "train.log_every=1",
        "resources.train.threads=1",
        *(f"resources.{stage}.{setting}=1" for stage in ("caption", "encode") for setting in ("threads", "min_actors", "max_actors")),
    )


def killed_in_the_middle(walk: Walk, target: Path) -> Root:
    """A copy of the root whose training was ended by SIGKILL after its first checkpoint and before its last step."""
    for attempt in range(ATTEMPTS):
        place = target / f"attempt-{attempt}"
        shutil.copytree(walk.root.path(), place)
        root = Root(str(place))
        command = [sys.executable, "-m", "ccray", "train", "--recipe", "tiny", "--root", root.uri, *walk.words]
        with subprocess.Popen(command, env=os.environ | {"RAY_AUTH_MODE": "disabled"}) as driver:
            for _ in range(PATIENCE_SECONDS * 50):
                if last_step(root) >= 4 or driver.poll() is not None:
                    break
                Event().wait(0.02)
            driver.send_signal(signal.SIGKILL)
        assert driver.returncode in (0, -signal.SIGKILL)
        manifest = storage.read_manifest(root, RUN)
        if manifest is not None and manifest.status == "running" and last_step(root) < STEPS:
            return root
    raise AssertionError(f"{ATTEMPTS} kills came too late")


def last_step(root: Root) -> int:
    path = f"{RUN}/metrics.jsonl"
    lines = root.read(path).splitlines() if root.exists(path) else []
    return int(json.loads(lines[-1])["step"]) if lines else 0


@pytest.fixture(scope="module")
def walk(ray_cluster: None, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Walk:
    """Catalog, captions and latents; a training that was killed and continued; all of it published."""
    target = tmp_path_factory.mktemp("walk")
    begun = Walk(Root(str(target / "begun")), words_of(pictures), pictures)
    for stage in (catalog, caption, encode):
        stage.run(begun.recipe, begun.root)
    made = Walk(killed_in_the_middle(begun, target), begun.words, pictures)
    train.run(made.recipe, made.root)
    publish.run(made.recipe, made.root)
    return made


def replayed(walk: Walk, seed: int) -> Counter[str]:
    """What the first steps of an epoch read, from the tables alone: shards in an order drawn from (seed, epoch), windows of them shuffled by (seed,
    epoch, window), batches in that order."""
    shards = {shard: table["key"].to_numpy() for shard, table in zip(storage.sealed_shards(walk.root, CATALOG), walk.tables(CATALOG), strict=True)}
    order = np.random.default_rng((seed, 0)).permutation(sorted(shards)).tolist()
    read: list[int] = []
    for window in range(0, len(order), WINDOW):
        keys = np.concatenate([shards[shard] for shard in order[window : window + WINDOW]])
        read += keys[np.random.default_rng((seed, 0, window // WINDOW)).permutation(len(keys))].tolist()
    return Counter(hex_key(key) for key in read[: STEPS * BATCH])


def test_lineage_says_what_training_read(walk: Walk) -> None:
    expected = replayed(walk, walk.recipe.train.seed)
    keys = walk.keys(CATALOG)
    assert len(keys) == COUNT
    assert len(expected) == expected.total() == STEPS * BATCH, "shorter than an epoch: nobody is seen twice"
    for key in sorted(keys):
        uses = {use.place: use.times for use in lineage.of(walk.root, key).checkpoints}
        assert uses[RUN] == uses[f"{RUN}/step-{STEPS:08d}"] == expected[key]


@pytest.fixture(scope="module")
def gone(walk: Walk, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names of five pictures that were taken down, each way of naming them once, and of the near copy, which was too."""
    names = ["0.png", "1.png", "2.png", "4.png", "5.png"]
    lines = [
        f"key:{walk.key_of('0.png')}",
        f"sha256:{hashlib.sha256(walk.bytes_of('1.png')).hexdigest()}",
        "url:http://photos.example/2",
        "creator:Person 4",
        f"key:{walk.key_of('5.png')}",
        "creator:Copyist",
    ]
    path = tmp_path_factory.mktemp("list") / "list.txt"
    path.write_text("\n".join(lines))
    assert main(["takedown", "--root", walk.root.uri, "--list", str(path), "--reason", REASON]) == 0
    return [*names, "near.jpg"]


def test_status_and_the_report_know(walk: Walk, gone: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--root", walk.root.uri]) == 0
    told = capsys.readouterr().out
    for place in (CATALOG, CAPTIONS, "latents/shapes-kl-32px", "published/dataset", "published/model"):
        assert f"{place}: 5 taken-down" in told
    assert f"{RUN}: " in told
    assert "catalog: 1 taken-down rows are named as copies of other images" in told
    page = walk.root.read("catalog/report.html").decode()
    assert not [name for name in gone if walk.key_of(name) in page]


@pytest.fixture(scope="module")
def followed(walk: Walk, gone: list[str]) -> Walk:
    """The first model published anew; then latents of another size, another training and its publication in the place of the first."""
    publish.run(walk.recipe, walk.root)
    for name in ("model", "dataset"):
        walk.root.upload(Path(walk.root.path(f"published/{name}")), f"first/{name}")
    walk.root.delete("published")
    second = walk.with_settings("encode.size_px=48", f"denoiser={UNET.replace('sample_size: 8', 'sample_size: 12')}", "train.name=second")
    for stage in (encode, train, publish):
        stage.run(second, walk.root)
    return walk


def test_the_first_checkpoint_names_them_as_taken_down(followed: Walk, gone: list[str]) -> None:
    expected = replayed(followed, followed.recipe.train.seed)
    rows = followed.root.read_table("first/model/attribution.parquet").to_pylist()
    five = {followed.key_of(name) for name in gone[:5]}
    assert {row["key"]: row["times_seen"] for row in rows} == dict(expected)
    assert {row["key"] for row in rows if row["taken_down"]} == five & expected.keys()
    assert five & expected.keys(), "none of the five was seen: another seed tells more"
    card = followed.root.read("first/model/README.md").decode()
    fingerprint = storage.stage_of(followed.recipe, "train").fingerprint
    assert f"taken down since checkpoint `main` (fingerprint `{fingerprint}`) was trained: {len(five & expected.keys())}." in card


def test_nothing_that_followed_has_them(followed: Walk, gone: list[str]) -> None:
    keys = {followed.key_of(name) for name in gone}
    assert followed.keys("latents/shapes-kl-48px", "ok") == followed.keys(CATALOG) - keys
    seen = {hex_key(key) for key in followed.root.read_table("checkpoints/second/seen.parquet")["key"].to_pylist()}
    assert seen
    assert not seen & keys
    for name in ("first", "published"):
        credits = followed.root.read_table(f"{name}/dataset/attribution.parquet").to_pylist()
        assert {row["key"] for row in credits} == followed.keys(CATALOG) - keys
        assert not [row for row in credits if row["copies"]], "the one near copy was taken down"
        rest = [followed.root.read(path) for path in followed.root.files(f"{name}/dataset") if not path.endswith(".parquet")]
        assert not [key for key in keys for data in rest if key.encode() in data]
    model = followed.root.read_table("published/model/attribution.parquet").to_pylist()
    assert {row["key"] for row in model} == seen
    assert not any(row["taken_down"] for row in model)


def contents(root: Root) -> Iterator[tuple[str, bytes]]:
    """Every file as it lies there, and every binary value of every Parquet file, unpacked."""
    for path in root.files(""):
        data = root.read(path)
        yield path, data
        if data[:4] == b"PAR1":
            table = pq.read_table(io.BytesIO(data))
            for field in table.schema:
                if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
                    yield from ((f"{path}:{field.name}", value) for value in table[field.name].to_pylist() if value)


def pixels_of(data: bytes) -> str | None:
    """sha256 of a picture's pixels; None for what is no picture."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()
    except OSError:
        return None


def holders(walk: Walk, names: list[str]) -> set[tuple[str, str]]:
    """(place, picture) wherever a piece of a picture's file, or its pixels, are."""
    pieces = {name: walk.bytes_of(name)[-600:-200] for name in names}
    pixels = {pixels_of(walk.bytes_of(name)): name for name in names}
    found = set()
    for place, data in contents(walk.root):
        found |= {(place, name) for name, piece in pieces.items() if piece in data}
        found |= {(place, pixels[digest])} if (digest := pixels_of(data)) in pixels else set()
    return found


def test_a_purge_leaves_no_byte_and_nothing_comes_back(followed: Walk, gone: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert {name for _, name in holders(followed, gone)} == set(gone)
    (tmp_path / "list").write_text("".join(f"key:{followed.key_of(name)}\n" for name in gone))
    assert main(["takedown", "--root", followed.root.uri, "--list", str(tmp_path / "list"), "--purge"]) == 0
    assert holders(followed, gone) == set()
    keys = {followed.key_of(name) for name in gone}
    for directory in (CATALOG, CAPTIONS, "latents/shapes-kl-32px", "latents/shapes-kl-48px"):
        assert len(followed.keys(directory)) == COUNT - 5
        assert not followed.keys(directory) & keys
    assert not [row for table in followed.tables(CATALOG) for row in table.to_pylist() if row["copies"]]
    before = {path: followed.root.read(path) for path in followed.root.files("") if "manifest.json" not in path}
    for stage in (catalog, train):
        assert stage.run(followed.recipe, followed.root).status == "finished"
    assert {size_px: made.status for size_px, made in encode.run(followed.recipe, followed.root).items()} == {32: "finished"}
    assert {name: made.status for name, made in caption.run(followed.recipe, followed.root).items()} == {"shapes-blip2": "finished"}
    assert {path: followed.root.read(path) for path in followed.root.files("") if "manifest.json" not in path} == before
    capsys.readouterr()
    assert main(["lineage", followed.key_of("4.png"), "--root", followed.root.uri]) == 0
    told = capsys.readouterr().out
    for words in (
        "rejected: taken_down",
        "Person 4",
        "https://photos.example/4",
        "creator:Person 4",
        f"({REASON})",
        f"{RUN}: ",
        "second: never saw it",
    ):
        assert words in told
