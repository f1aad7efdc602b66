"""`ray job submit` of the project's jobs to a real local head, as a person types it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ccray import storage
from ccray.storage import Root
from tests.conftest import Corridor
from tests.ray.heads import Head, head, joined

pytestmark = pytest.mark.ray

TRAIN = [
    "train.name=job",
    "train.steps=3",
    "train.global_batch_size=8",
    "train.warmup_steps=1",
    "train.checkpoint_every=2",
    "train.sample_every=100",
    "train.log_every=1",
]


@pytest.fixture(scope="module")
def local_head() -> Iterator[Head]:
    with head("--num-cpus=8") as found:
        yield found


@pytest.fixture
def copied(corridor: Corridor, tmp_path: Path) -> Root:
    """The corridor's catalog and images under a root of the test's own."""
    for name in corridor.root.names(""):
        if name not in ("captions", "latents", "checkpoints", "evaluation", "published"):
            shutil.copytree(corridor.root.path(name), tmp_path / name)
    return Root(str(tmp_path))


def test_the_upload_is_the_package_and_the_jobs(local_head: Head):
    """Neither environments nor runs travel, and the job's ccray is the one it brought."""
    code, output = local_head.run("python", "-c", "import ccray, os; print('uploaded', sorted(os.listdir('.')), ccray.__file__)", name="list")
    assert code == 0, output
    line = next(line for line in output.splitlines() if line.startswith("uploaded"))
    names, _, place = line.removeprefix("uploaded ").rpartition(" ")
    assert {"ccray", "jobs", "pyproject.toml"} <= set(eval(names))
    assert not {".venv", ".git", "runs", "tests", "docs"} & set(eval(names))
    assert "_ray_pkg_" in place


def test_the_caption_job_seals_every_shard(local_head: Head, copied: Root, corridor: Corridor):
    code, output = local_head.run(
        "python", "jobs/caption.py", "--recipe", "tiny", "--root", copied.uri, "resources.caption.max_actors=1", name="caption"
    )
    assert code == 0, output
    stage = storage.stage_of(corridor.recipe, "caption")
    manifest = storage.read_manifest(copied, stage.directory)
    assert manifest is not None
    assert manifest.status == "finished"
    for shard in storage.sealed_shards(corridor.root, stage.directory):
        place = f"{stage.directory}/{storage.shard_name(shard)}"
        assert copied.read_table(place).equals(corridor.root.read_table(place)), "the job's captions are those of the fixture's own cluster"


def test_the_train_job_writes_a_model_folder(local_head: Head, corridor: Corridor, tmp_path: Path):
    shutil.copytree(corridor.root.uri, tmp_path, dirs_exist_ok=True)
    root = Root(str(tmp_path))
    code, output = local_head.run("python", "jobs/train.py", "--recipe", "tiny", "--root", root.uri, *TRAIN, name="train")
    assert code == 0, output
    manifest = storage.read_manifest(root, "checkpoints/job")
    assert manifest is not None
    assert manifest.status == "finished"
    assert root.exists("checkpoints/job/model/model_index.json")
    assert root.exists("checkpoints/job/seen.parquet")


@pytest.mark.parametrize("root", [["--root", "runs/tiny"], []], ids=["relative", "default"])
def test_a_job_refuses_a_relative_root(local_head: Head, root: list[str]):
    code, output = local_head.run("python", "jobs/catalog.py", "--recipe", "tiny", *root, name="relative")
    assert code == 1
    assert local_head.driver_exit_code("relative") == 2
    assert "refused: --root" in output
    assert "expected an absolute path or s3://bucket/prefix" in output


def test_a_job_refuses_a_local_root_where_several_nodes_are_alive(local_head: Head, tmp_path: Path):
    with joined(local_head):
        code, output = local_head.run("python", "jobs/catalog.py", "--recipe", "tiny", "--root", str(tmp_path / "run"), name="local")
    assert code == 1
    assert local_head.driver_exit_code("local") == 2
    assert f"refused: --root {tmp_path}/run is on the disk of one machine, but 2 nodes are alive: expected s3://bucket/prefix" in output
    assert not (tmp_path / "run").exists()
