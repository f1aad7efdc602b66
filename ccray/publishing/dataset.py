"""published/dataset/: rows, attribution and papers, put together shard by shard in a draft."""

import logging
from collections.abc import Mapping
from pathlib import Path

from ccray import components
from ccray.config import Recipe
from ccray.interfaces import Failed
from ccray.publishing import croissant, dataset_card, summary, table
from ccray.publishing.credits import Credits
from ccray.publishing.folders import Draft
from ccray.publishing.subject import Dataset
from ccray.publishing.table import Layout, Plan, SplitFiles
from ccray.publishing.tally import Tally
from ccray.storage import Manifest, Root
from ccray.takedowns import Takedowns

log = logging.getLogger(__name__)

FOLDER = "published/dataset"
SIGN = "croissant.json"
MODEL_SENTENCE = "The model that learned from its train split is in `../model`; where both are on a hub, it is the model of the same name."


def write(recipe: Recipe, root: Root, catalog: Manifest, captions: Mapping[str, Manifest], draft: Draft, scratch: Path, gone: Takedowns) -> Dataset:
    """Fill the draft of the dataset folder.

    Args:
        catalog: the finished catalog's manifest.
        captions: those of the recipe's captioners, by name.
        scratch: a local folder for rows on their way.
        gone: what was taken down; it is left out.

    Raises:
        Failed: when no image is left, or a table does not fit the catalog.
    """
    layout = table.layout(recipe, root, gone)
    plan = table.plan(root, layout, table.rows_per_file(recipe))
    tally = _rows(recipe, root, catalog, layout, plan, draft, scratch)
    if not tally.images:
        raise Failed("no image of the catalog is left to publish: all were taken down")
    parts = components.describers(recipe, {name: one.facts.get("captioner_sha256") for name, one in captions.items()})
    model = MODEL_SENTENCE if "model" in recipe.publish.parts else None
    subject = Dataset(recipe, catalog, layout, plan, tally, draft.files, parts, model)
    sections = summary.sections(subject)
    draft.write("README.md", dataset_card.card(subject))
    draft.write("training-content-summary.md", summary.as_markdown(sections))
    draft.write("training-content-summary.json", summary.as_json(sections))
    facts = {"dataset": subject.name, "recipe": recipe.name, "fingerprint of the catalog": catalog.fingerprint}
    draft.write("components.json", components.to_json(parts, facts))
    draft.write(SIGN, croissant.croissant(subject))
    return subject


def _rows(recipe: Recipe, root: Root, catalog: Manifest, layout: Layout, plan: Plan, draft: Draft, scratch: Path) -> Tally:
    """Every table of the folder, in one pass over the shards."""
    publish, tally = recipe.publish, Tally()
    files = SplitFiles(root, layout, plan, draft)
    title = f"{recipe.name}: whose images these are"
    credits = Credits(draft, scratch, catalog.rows, publish.page_rows, publish.plain_pages_up_to, title)
    for shard, rows in table.shards(root, layout):
        files.write(shard, rows)
        credits.add(rows)
        tally.add(rows, layout.captions)
    files.close()
    credits.finish()
    return tally
