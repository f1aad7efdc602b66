"""A spot machine's notice becomes a drained Ray node: `python -m ccray.spot`, started beside Ray on every node.

Ray keeps a draining node's running work and gives it no more; an autoscaler starts the replacement at once, before the machine is gone.

| cloud | asked every | of the metadata service          | notice before the end     |
|-------|-------------|----------------------------------|---------------------------|
| aws   | 5 s         | spot/instance-action (IMDSv2)    | two minutes, if it can    |
| gcp   | 1 s         | instance/preempted               | 30 s                      |
| azure | 1 s         | scheduledevents, type Preempt    | 30 s at least             |

Needs Ray's command line and nothing else of ccray. Ends with 0 when the node is draining or its raylet has gone, with 1 when there is no raylet
or no cloud to watch. CCRAY_METADATA_URL, or --metadata-url, is another place to ask than the clouds' own address.
"""

import argparse
import http.client
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Protocol

METADATA_URL = "http://169.254.169.254"  # of all three clouds
URL_VARIABLE = "CCRAY_METADATA_URL"
REQUEST_SECONDS = 3.0  # for a whole answer
ANSWER_BYTES = 1 << 20
GCP_HEADERS = {"Metadata-Flavor": "Google"}  # without them the services refuse
AZURE_HEADERS = {"Metadata": "true"}
TOKEN_SECONDS = 21_600  # the longest that IMDSv2 grants
FIRST_SECONDS = 120.0  # a machine may run before its metadata service answers, and this program before the raylet
DRAIN_SECONDS = 30.0  # for one call of the command line
AGAIN_SECONDS = 1.0  # between two of them


class Unanswered(Exception):
    """The metadata service gave no answer that can be used."""


@dataclass(frozen=True)
class Notice:
    """What the cloud said, and when the machine ends in seconds since 1970 by this machine's clock."""

    message: str
    ends: float

    def seconds_left(self) -> int:
        """At least 1: Ray would take a deadline in the past as no warning at all."""
        return max(1, int(self.ends - time.time()))


@dataclass(frozen=True)
class Service:
    """A metadata service; never asked through a proxy."""

    url: str = METADATA_URL
    request_seconds: float = REQUEST_SECONDS

    def ask(self, path: str, headers: Mapping[str, str], method: str = "GET") -> tuple[int, str]:
        """Status and body.

        Raises:
            Unanswered: when nothing came in time, or no text.
        """
        request = urllib.request.Request(self.url.rstrip("/") + path, headers=dict(headers), method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        until = time.monotonic() + self.request_seconds
        try:
            with opener.open(request, timeout=self.request_seconds) as answer:
                return answer.status, _text(answer, until)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code, ""
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise Unanswered(f"{method} {path}: {reason}") from None

    def get(self, path: str, headers: Mapping[str, str]) -> str | None:
        """The body; None where the service has nothing there (404)."""
        status, body = self.ask(path, headers)
        if status == http.HTTPStatus.NOT_FOUND:
            return None
        if status != http.HTTPStatus.OK:
            raise Unanswered(f"GET {path}: HTTP {status}")
        return body


def _text(answer: Any, until: float) -> str:
    """The body, however slowly it drips: the time-out of a socket is for each piece."""
    read = b""
    while piece := answer.read1(4096):
        read += piece
        if len(read) > ANSWER_BYTES or time.monotonic() > until:
            raise TimeoutError("the answer is too long or too slow")
    return read.decode()


def _json(path: str, body: str) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Unanswered(f"GET {path}: {body[:80]!r} is no JSON object")
    return value


def _end(when: datetime | None, most_seconds: float) -> float:
    """When a machine ends that may have `most_seconds`: as told, but neither in the past nor later than that, for clocks differ."""
    now = time.time()
    return now + most_seconds if when is None else min(max(when.timestamp(), now), now + most_seconds)


class Cloud(Protocol):
    """One cloud's way of telling."""

    name: str
    poll_seconds: float

    def here(self) -> bool:
        """Whether this machine is one of this cloud's.

        Raises:
            Unanswered: when nobody answers.
        """

    def notice(self) -> Notice | None:
        """The notice, if there is one.

        Raises:
            Unanswered: when the service cannot be asked now.
        """


class Aws:
    """Spot instances of EC2; the token of IMDSv2 is renewed when half its life is over, and whenever it is refused."""

    name = "aws"
    poll_seconds = 5.0  # what EC2's user guide recommends
    notice_seconds = 120.0

    def __init__(self, service: Service, token_seconds: int = TOKEN_SECONDS) -> None:
        self._service = service
        self._token_seconds = token_seconds
        self._token = ""
        self._renew_at = 0.0
        self._warned = False

    def here(self) -> bool:
        status, token = self._fetched_token()
        return status == http.HTTPStatus.OK and bool(token)

    def notice(self) -> Notice | None:
        place = "spot/instance-action"
        body = self._read(place)
        if body is None:
            self._look_at_rebalance()
            return None
        said = _json(place, body)
        if "action" not in said:
            raise Unanswered(f"GET {place}: {body[:80]!r} names no action")
        when = _moment(said.get("time"), datetime.fromisoformat)
        return Notice(f"EC2 will {said['action']} this spot instance at {said.get('time')}", _end(when, self.notice_seconds))

    def _look_at_rebalance(self) -> None:
        if not self._warned and (body := self._read("events/recommendations/rebalance")) is not None:
            self._warned = True
            say(f"EC2 recommends a rebalance, a notice may follow: {body.strip()[:200]}")

    def _read(self, item: str) -> str | None:
        path = f"/latest/meta-data/{item}"
        for _ in range(2):
            if time.monotonic() >= self._renew_at:
                status, self._token = self._fetched_token()
                if status != http.HTTPStatus.OK:
                    raise Unanswered(f"PUT /latest/api/token: HTTP {status}")
                self._renew_at = time.monotonic() + self._token_seconds / 2
            status, body = self._service.ask(path, {"X-aws-ec2-metadata-token": self._token})
            if status == http.HTTPStatus.NOT_FOUND:
                return None
            if status == http.HTTPStatus.OK:
                return body
            self._renew_at = 0.0
        raise Unanswered(f"GET {path}: HTTP {status}")

    def _fetched_token(self) -> tuple[int, str]:
        return self._service.ask("/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": str(self._token_seconds)}, "PUT")


class Gcp:
    """Spot and preemptible machines of Compute Engine, which say only that it has begun."""

    name = "gcp"
    poll_seconds = 1.0
    notice_seconds = 30.0

    def __init__(self, service: Service) -> None:
        self._service = service

    def here(self) -> bool:
        return self._service.ask("/computeMetadata/v1/instance/id", GCP_HEADERS)[0] == http.HTTPStatus.OK

    def notice(self) -> Notice | None:
        path = "/computeMetadata/v1/instance/preempted"
        body = (self._service.get(path, GCP_HEADERS) or "").strip().upper()
        if body not in ("TRUE", "FALSE"):
            raise Unanswered(f"GET {path}: {body[:80]!r} is neither TRUE nor FALSE")
        return Notice("Compute Engine preempts this machine", _end(None, self.notice_seconds)) if body == "TRUE" else None


class Azure:
    """Spot machines of Azure; a scale set hears of the events of all its machines, so this one is looked for by its name."""

    name = "azure"
    poll_seconds = 1.0
    notice_seconds = 30.0
    most_seconds = 900.0  # no event is announced longer ahead

    def __init__(self, service: Service) -> None:
        self._service = service
        self._machine: str | None = None

    def here(self) -> bool:
        return self._service.ask("/metadata/instance?api-version=2021-02-01", AZURE_HEADERS)[0] == http.HTTPStatus.OK

    def notice(self) -> Notice | None:
        path = "/metadata/scheduledevents?api-version=2020-07-01"
        events = _json(path, self._service.get(path, AZURE_HEADERS) or "").get("Events")
        if not isinstance(events, list):
            raise Unanswered(f"GET {path}: no list of Events")
        return next((self._told(event) for event in events if self._takes_this_machine(event)), None)

    def _takes_this_machine(self, event: Any) -> bool:
        if not isinstance(event, dict) or event.get("EventType") != "Preempt":
            return False
        machines = event.get("Resources")
        return isinstance(machines, list) and self._name() in machines

    def _told(self, event: dict[str, Any]) -> Notice:
        told = event.get("NotBefore")  # empty once the event has begun
        when = _moment(told, parsedate_to_datetime)
        most = self.notice_seconds if when is None else self.most_seconds
        return Notice(f"Azure preempts {self._name()}, not before {told or 'now'}", _end(when, most))

    def _name(self) -> str:
        if self._machine is None:
            path = "/metadata/instance/compute/name?api-version=2021-02-01&format=text"
            self._machine = (self._service.get(path, AZURE_HEADERS) or "").strip()
        return self._machine


def _moment(text: Any, read: Callable[[str], datetime]) -> datetime | None:
    """A moment as the cloud writes it, in UTC where it names no zone; None when it cannot be read."""
    try:
        when = read(str(text))
    except (ValueError, TypeError):
        return None
    return when if when.tzinfo else when.replace(tzinfo=UTC)


CLOUDS: dict[str, Callable[[Service], Cloud]] = {"aws": Aws, "gcp": Gcp, "azure": Azure}


@dataclass(frozen=True)
class Node:
    """A Ray node by the command line of its raylet, which Ray's own tools read in the same way."""

    node_id: str
    address: str  # of the cluster: host:port
    pid: int

    def alive(self) -> bool:
        return self in raylets([Path(f"/proc/{self.pid}")])


def raylets(places: Sequence[Path] | None = None) -> list[Node]:
    """The raylets that run on this machine."""
    found = (_raylet(place) for place in places or Path("/proc").glob("[0-9]*"))
    return [node for node in found if node is not None]


def _raylet(place: Path) -> Node | None:
    try:
        words = (place / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:  # ended meanwhile
        return None
    if Path(words[0]).name != "raylet":
        return None
    flags = dict(word.removeprefix("--").split("=", 1) for word in words[1:] if "=" in word)
    if not flags.get("node_id") or not flags.get("gcs-address"):
        return None
    return Node(flags["node_id"], flags["gcs-address"], int(place.name))


def say(line: str) -> None:
    """One line for the log beside Ray."""
    print(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} spot: {line}", flush=True)


def _tries(seconds: float, pause_seconds: float = 1.0) -> Iterator[None]:
    """Once at least, then again until `seconds` are over."""
    until = time.monotonic() + seconds
    while True:
        yield
        if time.monotonic() + pause_seconds > until:
            return
        time.sleep(pause_seconds)


def this_node(node_id: str | None, patience_seconds: float) -> Node | None:
    """This machine's raylet, or the one named; None, with a line that says why, when it cannot be told."""
    found: list[Node] = []
    for _ in _tries(patience_seconds):
        found = [node for node in raylets() if node_id in (None, node.node_id)]
        if found:
            break
    if len(found) == 1:
        return found[0]
    which = ", ".join(sorted(node.node_id for node in found))
    say(f"{len(found)} raylets run here ({which}): name one with --node-id" if found else f"no raylet {node_id or ''} runs here: start Ray first")
    return None


def this_cloud(name: str | None, service: Service, patience_seconds: float) -> Cloud | None:
    """The named cloud, or the one whose metadata service answers; None, with a line, when none does."""
    if name is not None:
        return CLOUDS[name](service)
    for _ in _tries(patience_seconds):
        for make in CLOUDS.values():
            cloud = make(service)
            try:
                if cloud.here():
                    return cloud
            except Unanswered:
                continue
    say(f"no cloud answers at {service.url}: nothing to watch; --cloud names one of {', '.join(CLOUDS)}")
    return None


def watch(cloud: Cloud, node: Node, poll_seconds: float | None = None) -> Notice | None:
    """Wait for the notice; None when the raylet has gone before. Errors of the metadata service are told once and waited out."""
    trouble = ""
    while node.alive():
        try:
            notice = cloud.notice()
        except Unanswered as error:
            if str(error) != trouble:
                trouble = str(error)
                say(f"{cloud.name} metadata: {trouble}; asking again")
        else:
            if trouble:
                say(f"{cloud.name} metadata answers again")
                trouble = ""
            if notice is not None:
                return notice
        time.sleep(poll_seconds or cloud.poll_seconds)
    return None


def drain(node: Node, notice: Notice) -> bool:
    """Ask Ray to drain the node until it accepts; False when its raylet has gone before."""
    while node.alive():
        refusal = _refusal(node, notice)
        if refusal is None:
            return True
        say(f"Ray did not accept the drain: {refusal}; asking again")
        time.sleep(AGAIN_SECONDS)
    return False


def _refusal(node: Node, notice: Notice) -> str | None:
    """One `ray drain-node`; the last line of what it said when it failed."""
    words = ["--address", node.address, "--node-id", node.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    words += ["--reason-message", notice.message, "--deadline-remaining-seconds", str(notice.seconds_left())]
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DRAIN_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer in {DRAIN_SECONDS:.0f} s"
    lines = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()
    return None if done.returncode == 0 else lines[-1]


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ccray.spot", description="Drain this machine's Ray node when the cloud takes the machine back.")
    parser.add_argument("--cloud", choices=CLOUDS, help="default: the one whose metadata service answers")
    parser.add_argument("--node-id", help="hexadecimal id of the Ray node; default: that of the only raylet on this machine")
    parser.add_argument("--metadata-url", default=os.environ.get(URL_VARIABLE, METADATA_URL), help=f"default: ${URL_VARIABLE} or {METADATA_URL}")
    parser.add_argument("--poll-seconds", type=float, help="between two questions; default: 5 on aws, 1 elsewhere")
    parser.add_argument("--patience-seconds", type=float, default=FIRST_SECONDS, help="to wait for the raylet and for the metadata service at first")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Watch until the node drains or its raylet is gone; the exit code."""
    given = _arguments(words)
    node = this_node(given.node_id, given.patience_seconds)
    if node is None:
        return 1
    cloud = this_cloud(given.cloud, Service(given.metadata_url), given.patience_seconds)
    if cloud is None:
        return 1
    say(f"watching {cloud.name} at {given.metadata_url} for node {node.node_id}")
    notice = watch(cloud, node, given.poll_seconds)
    if notice is not None:
        say(f"{notice.message}, in {notice.seconds_left()} s: draining node {node.node_id}")
        if drain(node, notice):
            say("Ray drains the node: it gets no more work")
            return 0
    say(f"the raylet of node {node.node_id} has gone: nothing left to watch")
    return 0


if __name__ == "__main__":
    sys.exit(main())
