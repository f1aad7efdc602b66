"""One stock SD-class and one stock PixArt-class folder with random weights, an engine with both, and a client of the app around it."""

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from ccray.config import ServeConfig
from ccray.serving import app
from ccray.serving.engine import LocalEngine
from tests import folders

BOUNDS = ServeConfig(width=2, max_images=3, max_steps=8, max_prompt_characters=200)


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    place = tmp_path_factory.mktemp("models")
    stranger = folders.stable_diffusion_folder(place / "sd")
    (stranger / "README.md").unlink()  # nobody says what may be done with it
    return {"sd": str(stranger), "pixart": str(folders.pixart_folder(place / "pixart"))}


@pytest.fixture(scope="session")
def engine(model_folders: dict[str, str]) -> LocalEngine:
    return LocalEngine(model_folders, BOUNDS.width, threads=1)


@pytest.fixture(scope="session")
def client(engine: LocalEngine) -> Iterator[TestClient]:
    with TestClient(app.build(engine, BOUNDS)) as client:
        yield client
