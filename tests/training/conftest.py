import pytest

from tests.training.tables import Place, make_place


@pytest.fixture(scope="package")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Tables and models shared by the tests of this folder; every test trains under names of its own."""
    return make_place(tmp_path_factory.mktemp("place"))
