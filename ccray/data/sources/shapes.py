"""The drawn world as a source: scenes by number, CC0, with a title that tells nothing of what the picture shows."""

from collections.abc import Iterator

from ccray.config import CatalogConfig
from ccray.data.sources.listed import Listed
from ccray.storage import Root


class ShapesSource:
    """`catalog.shapes.count` training scenes of one seed."""

    name = "shapes"
    base: Root | None = None
    image_column: str | None = None

    def __init__(self, config: CatalogConfig) -> None:
        self._config = config.shapes

    def listing(self) -> Iterator[Listed]:
        """One row a scene; what it shows is not told, so that nothing under the root gives the caption away."""
        for index in range(self._config.count):
            scene = f"{self._config.seed}/{index}"
            yield Listed(
                own_id=f"{scene}@{self._config.size_px}",
                source_ref=scene,
                locator=f"scene:{scene}",
                license_text="CC0-1.0",
                license_basis="source record",
                title=f"Drawn scene {index}",
            )


def open_source(config: CatalogConfig) -> ShapesSource:
    return ShapesSource(config)
