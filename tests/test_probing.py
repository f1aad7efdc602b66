"""The store is asked before a stage starts whether it keeps what we rely on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ccray import probing
from ccray.__main__ import main
from ccray.interfaces import Refused
from ccray.storage import Root
from tests.servers import lying_store, s3_store


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_store() as uri:
        yield uri


def test_a_disk_and_a_true_store_pass_and_keep_nothing(bucket: str, tmp_path: Path) -> None:
    for root in (Root(str(tmp_path / "root")), Root(f"{bucket}/run")):
        probing.check(root)
        assert root.files("") == []


def test_a_store_that_overlooks_conditions_is_refused(bucket: str) -> None:
    with lying_store():
        root = Root(f"{bucket}/lying")
        assert root.create("a", b"1")
        assert root.create("a", b"2")  # the lie itself
        with pytest.raises(Refused, match="If-None-Match is not enforced"):
            probing.check(root)
        assert root.files("") == ["a"]


def test_a_store_that_is_not_there_is_refused(bucket: str) -> None:
    with pytest.raises(Refused, match="no-such-bucket"):
        probing.check(Root("s3://no-such-bucket/run"))


def test_a_stage_is_refused_before_any_write(bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    with lying_store():
        assert main(["catalog", "--recipe", "tiny", "--root", f"{bucket}/stage"]) == 2
        assert Root(f"{bucket}/stage").files("") == []
