"""The spot watcher against a metadata service on this machine: three clouds, their notices, and answers that no cloud should give.

pytest tests/test_spot.py
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from ccray import spot
from ccray.spot import Aws, Azure, Gcp, Node, Notice, Service, Unanswered
from tests import metadata
from tests.metadata import Metadata, metadata_service

NODE_ID = "ab" * 28
ENDLESS = "import time\nwhile True: time.sleep(60)"


@pytest.fixture
def aws() -> Iterator[Metadata]:
    with metadata_service("aws") as held:
        yield held


@pytest.fixture
def gcp() -> Iterator[Metadata]:
    with metadata_service("gcp") as held:
        yield held


@pytest.fixture
def azure() -> Iterator[Metadata]:
    with metadata_service("azure") as held:
        yield held


@pytest.fixture
def raylet() -> Iterator[Node]:
    """A process that looks like a raylet in the process table; it does nothing."""
    words = ["/opt/ray/raylet", "-c", ENDLESS, f"--node_id={NODE_ID}", "--gcs-address=127.0.0.1:1", "--labels={}"]
    process = subprocess.Popen(words, executable=sys.executable)
    node = Node(NODE_ID, "127.0.0.1:1", process.pid)
    while not node.alive():  # until exec
        time.sleep(0.01)
    yield node
    process.kill()
    process.wait()


def in_seconds(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def action(seconds: float, what: str = "terminate") -> str:
    return json.dumps({"action": what, "time": f"{in_seconds(seconds):%Y-%m-%dT%H:%M:%SZ}"})


def preempt(not_before: str, *machines: str, kind: str = "Preempt") -> str:
    event = {"EventId": "A1", "EventType": kind, "ResourceType": "VirtualMachine", "Resources": machines, "NotBefore": not_before}
    return json.dumps({"DocumentIncarnation": 2, "Events": [event | {"EventStatus": "Scheduled"}]})


def test_ec2_asks_with_a_token_and_reads_the_notice(aws: Metadata) -> None:
    cloud = Aws(Service(aws.url))
    assert cloud.notice() is None
    assert cloud.notice() is None
    aws.answers[metadata.ACTION] = action(110)
    notice = cloud.notice()
    assert notice is not None
    assert "terminate" in notice.message
    assert 105 <= notice.seconds_left() <= 110
    assert aws.times(metadata.TOKEN) == 1


def test_an_ec2_token_is_renewed_before_it_ends_and_when_it_is_refused(aws: Metadata) -> None:
    cloud = Aws(Service(aws.url), token_seconds=1)
    assert cloud.notice() is None
    time.sleep(0.6)
    assert cloud.notice() is None
    assert aws.times(metadata.TOKEN) == 2
    lasting = Aws(Service(aws.url))
    assert lasting.notice() is None
    aws.tokens.clear()  # as when an instance is stopped and started
    assert lasting.notice() is None
    assert aws.times(metadata.TOKEN) == 4
    aws.token_seconds = -1
    aws.tokens.clear()
    with pytest.raises(Unanswered, match="HTTP 401"):
        lasting.notice()


def test_a_rebalance_is_told_once_and_is_no_notice(aws: Metadata, capsys: pytest.CaptureFixture[str]) -> None:
    cloud = Aws(Service(aws.url))
    aws.answers[metadata.REBALANCE] = json.dumps({"noticeTime": "2026-11-20T08:22:00Z"})
    assert [cloud.notice() for _ in range(3)] == [None] * 3
    assert capsys.readouterr().out.count("recommends a rebalance") == 1


@pytest.mark.parametrize(
    ("body", "least", "most"),
    [
        (lambda: action(-3600), 1, 1),
        (lambda: action(60, "hibernate"), 50, 60),
        (lambda: action(86_400), 119, 120),
        (lambda: json.dumps({"action": "stop"}), 119, 120),
        (lambda: json.dumps({"action": "stop", "time": "soon"}), 119, 120),
        (lambda: json.dumps({"action": "stop", "time": ["2026"]}), 119, 120),
    ],
    ids=["in the past", "hibernate", "a day ahead", "no time", "time in words", "time in a list"],
)
def test_the_time_of_an_ec2_notice_is_held_within_two_minutes(aws: Metadata, body: Callable[[], str], least: int, most: int) -> None:
    aws.answers[metadata.ACTION] = body()
    notice = Aws(Service(aws.url)).notice()
    assert notice is not None
    assert least <= notice.seconds_left() <= most


@pytest.mark.parametrize("body", ["", "<html>", "[1]", "null", "{}", '{"time": "2026-11-20T08:22:00Z"}', "[" * 100_000, "\xff\xfe"])
def test_garbage_is_no_notice(aws: Metadata, body: str) -> None:
    aws.answers[metadata.ACTION] = body
    with pytest.raises(Unanswered):
        Aws(Service(aws.url)).notice()


def test_compute_engine_says_true_or_false(gcp: Metadata) -> None:
    cloud = Gcp(Service(gcp.url))
    assert cloud.notice() is None
    gcp.answers[metadata.PREEMPTED] = "TRUE\n"
    notice = cloud.notice()
    assert notice is not None
    assert 29 <= notice.seconds_left() <= 30
    gcp.answers[metadata.PREEMPTED] = "maybe"
    with pytest.raises(Unanswered, match="neither TRUE nor FALSE"):
        cloud.notice()


def test_azure_names_the_machine_and_the_moment(azure: Metadata) -> None:
    cloud = Azure(Service(azure.url))
    assert cloud.notice() is None
    soon = format_datetime(in_seconds(40).astimezone(UTC), usegmt=True)
    for others in (preempt(soon, "spot_1"), preempt(soon, "spot_3", kind="Freeze"), preempt(soon)):
        azure.answers[metadata.EVENTS] = others
        assert cloud.notice() is None
    azure.answers[metadata.EVENTS] = preempt(soon, "spot_1", "spot_3")
    notice = cloud.notice()
    assert notice is not None
    assert 37 <= notice.seconds_left() <= 40
    azure.answers[metadata.EVENTS] = preempt("", "spot_3")  # it has begun
    begun = cloud.notice()
    assert begun is not None
    assert begun.seconds_left() <= 30


@pytest.mark.parametrize("body", ["", "{}", '{"Events": 3}', "]"])
def test_azure_garbage_is_no_notice(azure: Metadata, body: str) -> None:
    azure.answers[metadata.EVENTS] = body
    with pytest.raises(Unanswered):
        Azure(Service(azure.url)).notice()


@pytest.mark.parametrize("event", [None, 3, {}, {"EventType": "Preempt"}, {"EventType": "Preempt", "Resources": 7}, {"EventType": ["Preempt"]}])
def test_odd_azure_events_are_passed_over(azure: Metadata, event: object) -> None:
    azure.answers[metadata.EVENTS] = json.dumps({"Events": [event]})
    assert Azure(Service(azure.url)).notice() is None


def test_a_service_that_hangs_drips_or_is_gone_costs_a_time_out(aws: Metadata) -> None:
    aws.hanging.add(metadata.TOKEN)
    began = time.monotonic()
    with pytest.raises(Unanswered, match="timed out"):
        Aws(Service(aws.url, request_seconds=0.3)).notice()
    assert time.monotonic() - began < 2
    with pytest.raises(Unanswered, match="refused"):
        Aws(Service("http://127.0.0.1:1")).notice()
    aws.hanging.clear()
    aws.answers[metadata.ACTION] = "x" * (2 << 20)
    with pytest.raises(Unanswered, match="too long"):
        Aws(Service(aws.url)).notice()


@pytest.mark.parametrize("cloud", spot.CLOUDS)
def test_the_cloud_is_found_by_asking(cloud: str, capsys: pytest.CaptureFixture[str]) -> None:
    with metadata_service(cloud) as held:
        found = spot.this_cloud(None, Service(held.url), patience_seconds=0)
        assert found is not None
        assert found.name == cloud
    assert spot.this_cloud(None, Service("http://127.0.0.1:1"), patience_seconds=0) is None
    assert "no cloud answers at http://127.0.0.1:1" in capsys.readouterr().out


def test_the_metadata_service_is_asked_past_proxies(gcp: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    assert Gcp(Service(gcp.url)).notice() is None


def test_watching_outlives_errors_and_says_each_once(aws: Metadata, raylet: Node, capsys: pytest.CaptureFixture[str]) -> None:
    aws.broken[metadata.ACTION] = 500
    found: list[Notice | None] = []
    thread = threading.Thread(target=lambda: found.append(spot.watch(Aws(Service(aws.url)), raylet, poll_seconds=0.02)))
    thread.start()
    while aws.times(metadata.ACTION) < 8:
        time.sleep(0.01)
    aws.broken.clear()
    while aws.times(metadata.REBALANCE) < 2:
        time.sleep(0.01)
    aws.answers[metadata.ACTION] = action(100)
    thread.join(timeout=10)
    assert found
    assert found[0] is not None
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("spot: ")[1].split(";")[0] for line in lines] == [
        f"aws metadata: GET {metadata.ACTION}: HTTP 500",
        "aws metadata answers again",
    ]


def test_a_raylet_is_found_by_its_command_line(raylet: Node, capsys: pytest.CaptureFixture[str]) -> None:
    assert raylet in spot.raylets()
    assert spot.this_node(NODE_ID, patience_seconds=0) == raylet
    assert spot.this_node("cd" * 28, patience_seconds=0) is None
    assert f"no raylet {'cd' * 28} runs here" in capsys.readouterr().out
    other = "ef" * 28
    second = subprocess.Popen(["raylet", "-c", ENDLESS, f"--node_id={other}", "--gcs-address=127.0.0.1:1"], executable=sys.executable)
    try:
        while NODE_ID not in (said := _refused(capsys)) or other not in said:
            time.sleep(0.01)
        assert "name one with --node-id" in said
    finally:
        second.kill()
        second.wait()
    assert [node.node_id for node in spot.raylets([Path(f"/proc/{second.pid}")])] == []


def _refused(capsys: pytest.CaptureFixture[str]) -> str:
    spot.this_node(None, patience_seconds=0)
    return capsys.readouterr().out


def test_the_watcher_ends_when_its_raylet_has_gone(aws: Metadata) -> None:
    """Killed before any notice; its metadata answers to the end."""
    words = ["raylet", "-c", ENDLESS, f"--node_id={NODE_ID}", "--gcs-address=127.0.0.1:1"]
    with subprocess.Popen(words, executable=sys.executable) as process:
        command = [sys.executable, "-m", "ccray.spot", "--node-id", NODE_ID, "--metadata-url", aws.url, "--poll-seconds", "0.05"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watcher:
            assert watcher.stdout is not None
            assert f"watching aws at {aws.url} for node {NODE_ID}" in watcher.stdout.readline()
            process.kill()
            process.wait()
            assert "has gone: nothing left to watch" in watcher.stdout.read()
            assert watcher.wait(timeout=10) == 0


def test_a_drain_is_asked_for_until_the_raylet_has_gone(raylet: Node, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody listens at the address of this cluster: Ray's command line never comes back with a yes."""
    monkeypatch.setattr(spot, "DRAIN_SECONDS", 0.5)
    monkeypatch.setattr(spot, "AGAIN_SECONDS", 0.05)
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(spot.drain(raylet, Notice("test", time.time() + 30))))
    thread.start()
    said = ""
    while said.count("did not accept the drain") < 2:
        time.sleep(0.05)
        said += capsys.readouterr().out
    subprocess.run(["kill", "-9", str(raylet.pid)], check=True)
    thread.join(timeout=20)
    assert answers == [False]


def test_nothing_to_watch_is_exit_code_1(raylet: Node) -> None:
    nowhere = ["--metadata-url", "http://127.0.0.1:1", "--patience-seconds", "0"]
    assert spot.main(["--node-id", NODE_ID, *nowhere]) == 1
    assert spot.main(["--node-id", "cd" * 28, *nowhere]) == 1


def test_the_watcher_imports_neither_ray_nor_torch_nor_the_rest() -> None:
    program = "import sys, ccray.spot; print([name for name in sys.modules if name.split('.')[0] in ('ray', 'torch', 'numpy', 'pydantic')])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == "[]"
