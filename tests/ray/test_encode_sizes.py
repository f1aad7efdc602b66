"""Several sizes of latents from one map: the same files as one after the other, whatever comes between."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ccray import config
from ccray.config import Recipe
from ccray.data.encoding import facts_of
from ccray.interfaces import Failed
from ccray.sharded.mapping import Job
from ccray.sharded.working import to_table
from ccray.stages import encode
from ccray.storage import Root, Stage, encode_stage, read_manifest, shard_name, state
from tests.conftest import Corridor
from tests.ray import test_kill
from tests.ray.test_kill import Case, command, environment, interrupted, rows_taken, sealed_bytes, uninterrupted, words  # noqa: F401  fixtures

pytestmark = pytest.mark.ray
SMALL, LARGE = "latents/shapes-kl-32px", "latents/shapes-kl-64px"
LARGER = "train.phases.large.size_px=64"


def catalog_of(corridor: Corridor, folder: Path) -> Root:
    """A root of its own, with the corridor's images."""
    for directory in ("listing", "images", "catalog"):
        shutil.copytree(Path(corridor.root.uri) / directory, folder / directory)
    return Root(str(folder))


@pytest.fixture(scope="module")
def both(corridor: Corridor, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Root]:
    """A root with latents of two sizes, made together."""
    recipe, root = corridor.with_settings(LARGER), catalog_of(corridor, tmp_path_factory.mktemp("both"))
    manifests = encode.run(recipe, root)
    assert {size: (one.status, one.rows, one.counts) for size, one in manifests.items()} == {
        32: ("finished", 96, {"ok": 96}),
        64: ("finished", 96, {"ok": 96}),
    }
    return recipe, root


def test_made_together_or_one_after_the_other(both: tuple[Recipe, Root], corridor: Corridor, tmp_path: Path) -> None:
    recipe, together = both
    assert sealed_bytes(Path(together.uri), SMALL) == sealed_bytes(Path(corridor.root.uri), SMALL)
    apart = catalog_of(corridor, tmp_path)
    shutil.copytree(Path(corridor.root.uri) / SMALL, Path(apart.uri) / SMALL)
    before = (Path(apart.uri) / SMALL / "manifest.json").read_bytes()
    assert encode.run(recipe, apart)[64].facts["size_px"] == 64
    assert (Path(apart.uri) / SMALL / "manifest.json").read_bytes() == before, "what is finished is left alone"
    for directory in (SMALL, LARGE):
        assert sealed_bytes(Path(apart.uri), directory) == sealed_bytes(Path(together.uri), directory)
        assert not apart.exists(f"{directory}/.staging")
        assert not apart.exists(f"{directory}/lease.json")
    row = pq.read_table(apart.path(f"{LARGE}/{shard_name(0)}")).to_pylist()[0]
    assert (row["latent_shape"], row["crop"], row["original_size"]) == ([4, 16, 16], [0, 0, 32, 32], [32, 32]), "enlarged, and says so"


def begun_again(both: tuple[Recipe, Root], folder: Path) -> tuple[Recipe, Root, Stage, Stage]:
    """A copy of the two tables, as running ones."""
    recipe, root = both
    shutil.copytree(root.uri, folder)
    copy = Root(str(folder))
    stages = encode_stage(recipe, 32), encode_stage(recipe, 64)
    for stage in stages:
        copy.write_json(f"{stage.directory}/manifest.json", copy.read_json(f"{stage.directory}/manifest.json") | {"status": "running", "shards": {}})
    return recipe, copy, *stages


def waiting(recipe: Recipe, root: Root, shards: list[int]) -> Job:
    """The map of both sizes, with all rows of some shards staged."""
    stages = {size: encode_stage(recipe, size) for size in (32, 64)}
    job = Job(root, stages[32], "catalog", *encode._doors(stages, facts_of(recipe.encode, [*stages])))
    steps = encode._steps(recipe, root, [*stages])
    for shard in shards:
        keys = root.read_table(f"catalog/{shard_name(shard)}", columns=["key"])["key"].to_numpy()
        rows = {"key": keys, "shard": np.full(len(keys), shard, np.int32)}
        for step in steps:
            rows = step.worker(*step.arguments)(rows)
        root.write_table(f"{job.staging}/rows/shard={shard}/block.parquet", to_table(rows, steps[-1].output).drop_columns("shard"))
    return job


def test_sealed_in_one_table_and_not_in_the_other(both: tuple[Recipe, Root], tmp_path: Path) -> None:
    """Killed between the two seals of a shard: from what waits, without encoding anything anew; or, where nothing waits, anew."""
    recipe, root, small, large = begun_again(both, tmp_path / "waiting")
    job = waiting(recipe, root, [1])
    for shard, directory in ((1, LARGE), (2, SMALL)):
        root.delete(f"{directory}/{shard_name(shard)}")
    assert job.unsealed() == [1, 2]
    job.seal_complete()
    assert job.unsealed() == [2], "the other's shard is sealed from what waited"
    assert not root.exists(f"{job.staging}/rows/shard=1")
    encode.run(recipe, root)
    for directory, stage in ((SMALL, small), (LARGE, large)):
        assert sealed_bytes(Path(root.uri), directory) == sealed_bytes(Path(both[1].uri), directory)
        assert state(root, stage) == "finished"


def test_one_folder_removed_while_the_other_waits(both: tuple[Recipe, Root], tmp_path: Path) -> None:
    recipe, root, small, _ = begun_again(both, tmp_path / "removed")
    root.delete(LARGE)
    root.delete(f"{SMALL}/{shard_name(0)}")
    assert {size: one.status for size, one in encode.run(recipe, root).items()} == {32: "finished", 64: "finished"}
    for directory in (SMALL, LARGE):
        assert sealed_bytes(Path(root.uri), directory) == sealed_bytes(Path(both[1].uri), directory)
    assert state(root, small) == "finished"


def test_a_damaged_shard_of_images_or_catalog_is_named(both: tuple[Recipe, Root], tmp_path: Path) -> None:
    for directory in ("images", "catalog"):
        folder = tmp_path / directory
        for name in ("listing", "images", "catalog"):
            shutil.copytree(Path(both[1].uri) / name, folder / name)
        path = folder / directory / shard_name(1)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(Failed, match=rf"{directory}/shard-00001\.parquet cannot be read .*put back a whole copy"):
            encode.run(both[0], Root(str(folder)))
        path.write_bytes(whole)
        assert {one.status for one in encode.run(both[0], Root(str(folder))).values()} == {"finished"}, "the same command goes on"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a mebibyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("where", ["staging", "sealing"])
def test_a_full_disk_is_named_and_the_same_command_goes_on(where: str, both: tuple[Recipe, Root], corridor: Corridor, small_disk: Path) -> None:
    """Latents lie on a small disk, all else does not."""
    recipe = both[0]
    root = catalog_of(corridor, small_disk.parent / "root")
    (Path(root.uri) / "latents").symlink_to(small_disk)
    if where == "sealing":
        for stage in (encode_stage(recipe, 32), encode_stage(recipe, 64)):
            root.write_json(f"{stage.directory}/manifest.json", both[1].read_json(f"{stage.directory}/manifest.json") | {"status": "running"})
        waiting(recipe, root, [0, 1, 2])
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - (48 << 10)))
    with pytest.raises(Failed, match=r"(?s)latents/.*No space left on device.*run the same command again once the cause is mended") as raised:
        encode.run(recipe, root)
    assert str(root.path("latents")) in str(raised.value), "the place is named"
    assert ("could not be sealed" in str(raised.value)) == (where == "sealing")
    assert not list(small_disk.rglob(".shard-*")), "no half-written file keeps the disk full"
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    assert {one.status for one in encode.run(recipe, root).values()} == {"finished"}
    for directory in (SMALL, LARGE):
        assert sealed_bytes(Path(root.uri), directory) == sealed_bytes(Path(both[1].uri), directory)


@pytest.mark.slow
def test_killed_while_it_makes_both(uninterrupted: Path, words: list[str], tmp_path: Path) -> None:  # noqa: F811
    """Each picture is read and decoded once for both sizes; a kill loses nothing and changes nothing."""
    settings = [*words, LARGER]
    case = Case("encode", "EncodeImages", ("latents/shapes-kl-32px", "latents/shapes-kl-64px"), ("listing", "images", "catalog"))
    whole, log = tmp_path / "whole", tmp_path / "whole.log"
    for directory in case.reads:
        shutil.copytree(uninterrupted / directory, whole / directory)
    done = subprocess.run(command(case, whole, settings), env=environment(log), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert sealed_bytes(whole, SMALL) == sealed_bytes(uninterrupted, SMALL)
    assert rows_taken(log, "LoadPixels").total() == rows_taken(log, "EncodeImages").total() == test_kill.ROWS
    root, log = interrupted(case, uninterrupted, tmp_path, settings)
    again = subprocess.run(command(case, root, settings), env=environment(log), capture_output=True, text=True, timeout=600, check=False)
    assert again.returncode == 0, again.stderr
    assert len(rows_taken(log, "LoadPixels")) == test_kill.ROWS
    for directory in case.writes:
        assert sealed_bytes(root, directory) == sealed_bytes(whole, directory)
        manifest = read_manifest(Root(str(root)), directory)
        assert manifest is not None
        assert (manifest.status, manifest.rows) == ("finished", test_kill.ROWS)
        assert not (root / directory / ".staging").exists()


def test_no_latents_where_training_encodes_for_itself(corridor: Corridor, tmp_path: Path) -> None:
    recipe = config.build(corridor.recipe, ["train.latents=online"])
    assert encode.run(recipe, catalog_of(corridor, tmp_path)) == {}
    assert not (tmp_path / "latents").exists()
