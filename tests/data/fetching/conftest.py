"""A misbehaving server for each test, and a client that does not wait long for it."""

from collections.abc import Iterator

import pytest

from ccray.data.fetching import downloading
from tests.data.fetching import hostile
from tests.data.fetching.hostile import GOOD, Site


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(downloading, "PAUSE_SECONDS", 0.05)
    with hostile.running() as site:
        site.pages["/good"] = (GOOD, {})
        yield site
