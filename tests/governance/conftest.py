"""A root with everything in it, and a copy of it for each test."""

import shutil
from pathlib import Path

import pytest

from ccray.storage import Root
from tests.governance import governed


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("governed")
    governed.write(Root(str(path)))
    return path


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Root:
    shutil.copytree(whole, tmp_path / "root")
    return Root(str(tmp_path / "root"))
