"""catalog: sources -> `listing/`, `images/`, `catalog/`, `rejects/`.

It lists (every source becomes rows with an id and a shard, fixed before any download), then fetches (one row of `images/` for each listed row,
failures with their reason), then indexes (no bytes: licence, duplicates, split; the captions that a source ships; a report to look at). Listing and
images carry manifests of their own, so that neither is taken for another source's after `catalog/` was removed.
"""

from dataclasses import replace
from pathlib import Path

from ccray import components, schema, takedowns
from ccray.config import Recipe
from ccray.data.fetching.worker import FetchImages
from ccray.data.index.blocklist import read_blocklist
from ccray.data.index.indexing import IMAGES, LISTING, Index, write_index
from ccray.data.index.report import write_report
from ccray.data.index.shipped import write_shipped
from ccray.data.listing import open_source, shards
from ccray.data.pictures.scoring import ScoreImages
from ccray.data.sources.listed import Source
from ccray.interfaces import Failed, Refused
from ccray.sharded import Door, Step, device_of, map_shards, say, threads_of
from ccray.storage import MANIFEST, Manifest, Root, Stage, now, read_manifest, running, shard_name, stage_of, state

NAME = "catalog"
BATCH = 64  # rows fetched together; a URL each, at worst
IMAGES_DOOR = Door(IMAGES, schema.IMAGES, "row_id", order=("key", "row_id"), row_group_rows=64)
FETCHED_COLUMNS = ["row_id", "shard", "locator", "license_text"]


def run(recipe: Recipe, root: Root) -> Manifest:
    """Build the catalog, or continue where an earlier run stopped.

    Raises:
        Refused: when the source cannot be used, or the root holds another catalog.
        Failed: when no image is left; `rejects/` then says why.
    """
    components.check(recipe, NAME)
    stage = stage_of(recipe, NAME)
    if state(root, stage) == "finished":
        return _manifest(root, stage)
    parts = {part: replace(stage, directory=part) for part in (LISTING, IMAGES)}
    states = {part: state(root, of_part) for part, of_part in parts.items()}
    blocked = read_blocklist(recipe.catalog.blocklist)
    source = open_source(recipe.catalog)
    _refuse_root_inside(source, root)
    with running(root, stage) as manifest:
        if states[LISTING] != "finished":
            _list(recipe, root, source, parts[LISTING])
        if states[IMAGES] != "finished":
            _fetch(recipe, root, source, stage, parts[IMAGES])
        index = write_index(root, recipe.catalog, blocked)
        _fill(manifest, index, write_shipped(root, stage))
        write_report(root, recipe.catalog)
        if not index.accepted:
            raise Failed(_nothing_left(recipe, root, index))
        say(f"catalog: {index.accepted} accepted, {index.rejected} rejected of {index.listed}{_reasons(index)}")
    return manifest


def _refuse_root_inside(source: Source, root: Root) -> None:
    """A folder's files are all listed: those that this run writes would be among them, other ones after each kill."""
    base = source.base
    if source.name != "folder" or base is None or not (base.is_local and root.is_local):
        return
    if Path(root.uri).resolve().is_relative_to(Path(base.uri).resolve()):
        raise Refused(f"--root {root.uri} lies in the source's folder {base.uri}, whose files are all listed: expected a place outside of it")


def _manifest(root: Root, stage: Stage) -> Manifest:
    manifest = read_manifest(root, stage.directory)
    assert manifest is not None
    return manifest


def _list(recipe: Recipe, root: Root, source: Source, part: Stage) -> None:
    root.delete(LISTING)  # what a kill left, perhaps of another source
    files: dict[str, int] = {}
    for table in shards(source, recipe.catalog):
        name = shard_name(len(files))
        root.write_table(f"{LISTING}/{name}", table)
        files[name] = table.num_rows
    say(f"listing: {sum(files.values())} images in {len(files)} shards")
    _mark(root, part, files)


def _fetch(recipe: Recipe, root: Root, source: Source, stage: Stage, part: Stage) -> None:
    _mark(root, part, None)
    pool = recipe.resources.catalog
    arguments = (recipe.catalog, source.base, source.image_column, takedowns.listed(root, LISTING))
    steps = [Step(FetchImages, arguments, schema.IMAGES, min(BATCH, pool.rows_per_block), pool)]
    if recipe.catalog.filters:
        judges = recipe.resources.filters
        steps.append(Step(ScoreImages, (recipe.catalog.filters, device_of(judges), threads_of(judges)), schema.IMAGES, BATCH, judges))
    files = map_shards(root, stage, LISTING, FETCHED_COLUMNS, steps, IMAGES_DOOR, pool.rows_per_block)
    _mark(root, part, files)


def _mark(root: Root, part: Stage, files: dict[str, int] | None) -> None:
    """Write the manifest of a part; finished when its files are given."""
    manifest = read_manifest(root, part.directory) or Manifest(
        part.name, part.recipe, "running", part.fingerprint, part.config, part.inputs, started_at=now()
    )
    if files is not None:
        manifest.status, manifest.finished_at = "finished", now()
        manifest.rows, manifest.shards = sum(files.values()), files
    root.write_json(f"{part.directory}/{MANIFEST}", manifest.__dict__)


def _fill(manifest: Manifest, index: Index, captions: dict[str, int]) -> None:
    manifest.rows = index.accepted
    manifest.shards = index.shards
    manifest.counts = dict(sorted(index.reasons.items()))
    manifest.facts = index.facts | {"captions": captions}


def _reasons(index: Index) -> str:
    found = ", ".join(f"{reason} {count}" for reason, count in index.reasons.most_common())
    return f" ({found})" if found else ""


def _nothing_left(recipe: Recipe, root: Root, index: Index) -> str:
    again = any(reason.startswith("download_") for reason in index.reasons)
    cure = f"to download again remove {root.path(IMAGES)} and {root.path(NAME)} first; otherwise change" if again else "change"
    return (
        f"no image of {recipe.catalog.source!r} is left under policy {recipe.catalog.policy}: all {index.listed} were rejected{_reasons(index)}; "
        f"{root.path('rejects')} names each; {cure} the source, policy or licence and use another --root"
    )
