"""All that the papers of a published dataset tell of: its card, its Croissant file and its training-content summary read this and nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ccray.components import Component, public_name
from ccray.config import Recipe
from ccray.publishing.folders import FileFacts
from ccray.publishing.table import Layout, Plan
from ccray.publishing.tally import LicenseTally, Tally
from ccray.schema import Reject
from ccray.storage import Manifest

UNSAID = "to be filled in by the provider"
WHY = {
    Reject.LICENSE_MISSING: "no licence statement",
    Reject.LICENSE_UNKNOWN: "licence statement not recognised",
    Reject.LICENSE_NONCOMMERCIAL: "licence forbids commercial use",
    Reject.LICENSE_NODERIVATIVES: "licence forbids derivatives",
    Reject.LICENSE_SHAREALIKE: "licence asks for sharing alike",
    Reject.DUPLICATE_EXACT: "same bytes as an image that was kept",
    Reject.DUPLICATE_NEAR: "looks like an image that was kept",
    Reject.KEY_COLLISION: "other bytes under the same key",
    Reject.OPTED_OUT: "a signal on the image, its answer or its site reserves rights against training",
    Reject.TAKEN_DOWN: "taken down on request",
    Reject.BLOCKLISTED: "on a blocklist",
    Reject.CREATOR_MISSING: "no creator named",
    Reject.FILTER_WATERMARK: "watermark found by a model",
    Reject.FILTER_TEXT: "mostly text, found by a model",
    Reject.FILTER_NSFW: "sexual or violent content found by a model",
}


@dataclass(frozen=True)
class Dataset:
    """A finished table and where it came from."""

    recipe: Recipe
    catalog: Manifest
    layout: Layout
    plan: Plan
    tally: Tally
    files: Mapping[str, FileFacts]  # of the folder, so far
    components: Sequence[Component]  # captioners and filters
    model: str | None  # what was trained on it, in words

    @property
    def name(self) -> str:
        return f"{self.recipe.name}-dataset"

    @property
    def date(self) -> str:
        """The day the catalog was finished, ISO 8601: the same whenever the folder is written."""
        return self.catalog.finished_at[:10]

    @property
    def provider(self) -> str:
        return self.recipe.publish.provider or UNSAID

    @property
    def contact(self) -> str:
        return self.recipe.publish.contact or UNSAID

    @property
    def source(self) -> str:
        return public_name(self.recipe.catalog.source)

    @property
    def withheld(self) -> int:
        """Rows of the catalog that were taken down since."""
        return max(0, self.catalog.rows - self.tally.images)

    @property
    def languages(self) -> list[str]:
        return sorted(set().union(*self.tally.languages.values()))

    @property
    def licenses(self) -> list[LicenseTally]:
        return self.tally.by_licence()

    @property
    def rejects(self) -> list[tuple[str, str, int]]:
        """Reason, what it means, images; most first."""
        counts = sorted(self.catalog.counts.items(), key=lambda one: (-one[1], one[0]))
        return [(reason, WHY.get(Reject(reason), "") if reason in list(Reject) else "", count) for reason, count in counts]
