"""Pushing: every byte arrives, nothing is sent twice, what is gone here goes there, and a refusal says what to do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from ccray.interfaces import Refused
from ccray.publishing import push
from ccray.publishing.push import Target
from ccray.stages import publish
from ccray.storage import Root
from tests.publishing import hub, roots

WORDS = ["publish.parts=[dataset]", "publish.page_rows=20"]


def local_files(folder: str) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def command(root: Root, server: hub.Hub, home: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`ccray` in a process of its own, as a person runs it."""
    names = ("HF_HUB_OFFLINE", "HF_TOKEN", "HF_ENDPOINT")
    inherited = {name: value for name, value in os.environ.items() if name not in names}
    own = {"HF_ENDPOINT": server.url, "HF_TOKEN": hub.TOKEN, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    line = [sys.executable, "-m", "ccray", "publish", "--recipe", "tiny", "--root", root.uri, *WORDS, *words]
    return subprocess.run(line, env=inherited | own | environment, capture_output=True, text=True, timeout=120)


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return roots.finished(tmp_path / "root", roots.recipe_of(*WORDS), 60)


def test_a_dataset_arrives_whole_and_once(root: Root, tmp_path: Path) -> None:
    with hub.running() as server:
        answer = command(root, server, tmp_path, "--to", "hf://org/name")
        assert answer.returncode == 0, answer.stderr
        assert list(server.repositories) == ["datasets/org/name"]
        repository = server.repositories["datasets/org/name"]
        assert repository.private
        assert repository.files == local_files(root.path("published/dataset"))
        assert repository.large == {name for name in repository.files if name.endswith(".parquet")}
        puts = server.puts
        again = command(root, server, tmp_path, "--to", "hf://org/name")
        assert again.returncode == 0, again.stderr
        assert (repository.commits, server.puts) == (1, puts), "what had arrived was sent again"


def test_what_is_taken_down_leaves_the_hub(root: Root, tmp_path: Path) -> None:
    with hub.running() as server:
        assert command(root, server, tmp_path, "--to", "hf://datasets/org/name", "--public").returncode == 0
        repository = server.repositories["datasets/org/name"]
        assert not repository.private
        keys = [roots.row(number)["key"] % 2**64 for number in range(60)]
        gone = f"{keys[0]:016x}"
        root.write("takedowns/1.jsonl", "".join(f'{{"key": "{key:016x}"}}\n' for key in keys[:45]).encode())
        before = set(repository.files)
        answer = command(root, server, tmp_path, "--to", "hf://org/name")
        assert answer.returncode == 0, answer.stderr
        assert "taken down since" in answer.stderr
        assert repository.files == local_files(root.path("published/dataset"))
        assert before - set(repository.files), "fewer rows, fewer files of the page: the old ones must go"
        assert not any(gone.encode() in data for name, data in repository.files.items() if not name.endswith(".parquet"))


def test_a_refusal_says_what_to_do_and_the_push_can_be_run_again(root: Root, tmp_path: Path) -> None:
    with hub.running(refuse_commits=1) as server:
        refused = command(root, server, tmp_path, "--to", "hf://org/name")
        assert refused.returncode == 1
        assert "403" in refused.stderr
        assert "HF_TOKEN" in refused.stderr
        assert "Traceback" not in refused.stderr
        before = Path(root.path("published/dataset/croissant.json")).stat().st_mtime_ns
        answer = command(root, server, tmp_path, "--to", "hf://org/name")
        assert answer.returncode == 0, answer.stderr
        assert server.repositories["datasets/org/name"].files == local_files(root.path("published/dataset"))
        assert Path(root.path("published/dataset/croissant.json")).stat().st_mtime_ns == before, "the finished folder was written anew"
        wrong = command(root, server, tmp_path, "--to", "hf://org/other", HF_TOKEN="hf_wrong")
        assert wrong.returncode == 1
        assert "401" in wrong.stderr
        offline = command(root, server, tmp_path, "--to", "hf://org/name", HF_HUB_OFFLINE="1")
        assert offline.returncode == 1
        assert "offline" in offline.stderr.lower()


def test_the_clients_newer_way_of_uploading(root: Root, tmp_path: Path) -> None:
    """With hf_xet the client commits in batches by a pipeline of its own; a hub that keeps every file in git sees that way too."""
    with hub.running(large_files=False) as server:
        answer = command(root, server, tmp_path, "--to", "hf://org/name", HF_HUB_DISABLE_XET="0")
        assert answer.returncode == 0, answer.stderr
        assert server.repositories["datasets/org/name"].files == local_files(root.path("published/dataset"))


PROGRAM = """
import sys
from ccray.publishing import push
from ccray.storage import Root
for target in push.targets("hf://org/name", ("model", "dataset")):
    push.push(Root(sys.argv[1]), target, public=False)
"""


def test_model_and_dataset_go_to_repositories_of_one_name(root: Root, tmp_path: Path) -> None:
    publish.run(roots.recipe_of(*WORDS), root)
    for name, data in {"model_index.json": b"{}", "README.md": b"---\nlicense: mit\n---\n", "unet/x.safetensors": bytes(range(256)) * 99}.items():
        root.write(f"published/model/{name}", data)
    with hub.running() as server:
        environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
        environment |= {"HF_ENDPOINT": server.url, "HF_TOKEN": hub.TOKEN, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
        subprocess.run([sys.executable, "-c", PROGRAM, root.uri], env=environment, check=True, timeout=120)
        assert list(server.repositories) == ["datasets/org/name", "models/org/name"]
        assert server.repositories["models/org/name"].files == local_files(root.path("published/model"))


def test_to_an_object_store(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import boto3

        boto3.client("s3").create_bucket(Bucket="given")
        publish.run(roots.recipe_of(*WORDS), root)
        [target] = push.targets("s3://given/away", ("dataset",))
        Root("s3://given/away").write("dataset/data/old.parquet", b"of an earlier release")
        for _ in range(2):
            push.push(root, target, public=False)
            arrived = Root("s3://given/away/dataset")
            assert {name: arrived.read(name) for name in arrived.files("")} == local_files(root.path("published/dataset"))
        written_there = Root("s3://given/run")
        for name in root.files(""):
            if not name.startswith("published/"):
                written_there.write(name, root.read(name))
        publish.run(roots.recipe_of(*WORDS), written_there)
        made = {name.removeprefix("published/dataset/"): written_there.read(name) for name in written_there.files("published/dataset")}
        assert made == local_files(root.path("published/dataset")), "a root on an object store makes other bytes than a local one"
        assert not written_there.files("published/.staging")
    finally:
        server.stop()


def test_places_are_read_before_anything_is_written() -> None:
    both = ("model", "dataset")
    assert push.targets("hf://org/name", both) == [
        Target("published/dataset", "dataset", "org/name"),
        Target("published/model", "model", "org/name"),
    ]
    assert [one.address for one in push.targets("hf://org/name", both)] == ["hf://datasets/org/name", "hf://org/name"]
    assert push.targets("hf://org/name", ("model",)) == [Target("published/model", "model", "org/name")]
    assert [one.name for one in push.targets("s3://b/p/", both)] == ["s3://b/p/dataset", "s3://b/p/model"]
    for bad in ("hf://org", "hf://org/name/more", "org/name", "s3://", "hf://-/x", "https://huggingface.co/org/name"):
        with pytest.raises(Refused, match="hf://ORG/NAME"):
            push.targets(bad, both)
    with pytest.raises(Refused, match=r"publish\.parts"):
        push.targets("hf://datasets/org/name", ("model",))


def test_nothing_is_pushed_before_it_is_written(root: Root) -> None:
    with pytest.raises(Refused, match="run `ccray publish`"):
        push.push(root, Target("published/model", "model", "org/name"), public=False)
