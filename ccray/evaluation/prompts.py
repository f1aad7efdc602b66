"""What a model is asked to draw: prompts from a file, the held-out part of the shapes world, or the catalog's own captions, as rows of `schema.PROMPTS`.

The noise's seed of a prompt is a hash of (the recipe's evaluation seed, its id), so that another order or a subset draws the same pictures.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ccray import storage
from ccray.evaluation import choice
from ccray.interfaces import Refused
from ccray.schema import PROMPTS, hex_key, id_of
from ccray.shapes import world
from ccray.storage import Root

# Column names that files use, in any capitals.
NAMES = {
    "id": ("id", "prompt_id"),
    "prompt": ("prompt", "text", "caption"),
    "language": ("language", "lang"),
    "category": ("category", "tag"),
}
LONGEST_FILE_NAME = 120  # characters; a file system takes 255 bytes


@dataclass(frozen=True)
class Prompt:
    """One line of a prompts file."""

    id: str
    prompt: str
    language: str = "en"
    category: str = ""


def read_file(path: Path) -> list[Prompt]:
    """The prompts of a JSONL, TSV, CSV (both with a header) or TXT file (one prompt a line), UTF-8.

    A row without an id gets its number, from 1; without a language, "en". TSV is taken literally: quotation marks belong to the prompt.

    Raises:
        Refused: when the file cannot be read, has no prompts, an empty one, or two of one id.
    """
    if not path.is_file():
        raise Refused(f"evaluate.prompts={path} cannot be read: expected a JSONL, TSV, CSV or TXT file")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused(f"evaluate.prompts={path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    try:
        prompts = [_prompt(path, number, row) for number, row in enumerate(_rows(path, text), 1)]
    except csv.Error as error:
        raise Refused(f"evaluate.prompts={path} is not a table: {error}") from None
    if not prompts:
        raise Refused(f"evaluate.prompts={path} holds no prompts: expected at least one row")
    seen: set[str] = set()
    for one in prompts:
        if one.id in seen:
            raise Refused(f"evaluate.prompts={path} has the id {one.id!r} twice: expected one row an id")
        seen.add(one.id)
    return prompts


def _rows(path: Path, text: str) -> Iterator[Mapping[str, object]]:
    kind = path.suffix.lower()
    if kind in (".jsonl", ".ndjson"):
        yield from _json_rows(path, text)
    elif kind == ".tsv":
        yield from csv.DictReader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    elif kind == ".csv":
        yield from csv.DictReader(io.StringIO(text, newline=""))
    elif kind == ".txt":
        yield from ({"prompt": line} for line in text.splitlines() if line.strip())
    else:
        raise Refused(f"evaluate.prompts={path} ends in {kind!r}: expected .jsonl, .tsv, .csv or .txt")


def _json_rows(path: Path, text: str) -> Iterator[dict[str, object]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise Refused(f"evaluate.prompts={path} line {number} is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise Refused(f"evaluate.prompts={path} line {number} is {line.strip()[:40]!r}: expected an object with `prompt`")
        yield row


def _prompt(path: Path, number: int, row: Mapping[str, object]) -> Prompt:
    lower = {str(name).strip().lower(): value for name, value in row.items() if name is not None}
    found = {ours: next((str(lower[name]).strip() for name in names if lower.get(name) is not None), "") for ours, names in NAMES.items()}
    if not found["prompt"]:
        raise Refused(
            f"evaluate.prompts={path} row {number} has no prompt: expected a column {' or '.join(NAMES['prompt'])}, found {', '.join(lower)}"
        )
    return Prompt(found["id"] or str(number), found["prompt"], found["language"] or "en", found["category"])


def held_out(seed: int, count: int) -> list[Prompt]:
    """Captions of the first `count` held-out scenes of `seed`; ids are "SEED-INDEX"."""
    scenes = [world.held_out_scene(seed, index) for index in range(count)]
    categories = ("", "one thing", "two things")
    return [Prompt(f"{seed}-{index}", world.caption(scene), "en", categories[len(scene.things)]) for index, scene in enumerate(scenes)]


def of_captions(root: Root, catalog: str, tables: Mapping[str, str], count: int) -> list[Prompt]:
    """Captions of up to `count` images, those of the validation split first; categories are the images' splits.

    Of several tables each image gives one caption: the tables take turns, so that every language is asked for, and where one has no good caption of
    an image the next is asked. Ids are the images' keys in hex; of several tables "KEY-TABLE".

    Args:
        root: where the tables lie.
        catalog: the catalog's directory under the root.
        tables: name -> directory under the root, of captions.
        count: the most images.

    Raises:
        Refused: when no image has a caption whose status is "ok".
    """
    chosen = choice.images(root, catalog, count)
    turns = {int(key): number for number, key in enumerate(chosen["key"])}
    prompts = []
    for shard in np.unique(chosen["shard"]):
        training = {int(row["key"]): bool(row["training"]) for row in chosen[chosen["shard"] == shard]}
        found = {name: _good_captions(root, directory, int(shard), [*training]) for name, directory in tables.items()}
        for key in sorted(training):
            name = _table_of_turn(found, key, turns[key])
            if name is not None:
                category = "train" if training[key] else "validation"
                prompts.append(Prompt(hex_key(key) + (f"-{name}" if len(tables) > 1 else ""), *found[name][key], category))
    if not prompts:
        places = ", ".join(map(root.path, tables.values()))
        raise Refused(f"no image of {root.path(catalog)} has a caption in {places}: name a file of prompts, evaluate.prompts=FILE")
    return prompts


def _good_captions(root: Root, captions: str, shard: int, keys: Sequence[int]) -> dict[int, tuple[str, str]]:
    """Key -> caption and its language, of one shard's images that have one with which nothing is wrong."""
    path = f"{captions}/{storage.shard_name(shard)}"
    if not root.exists(path):  # a source ships captions for some images only
        return {}
    wanted = pc.field("key").isin(keys) & (pc.field("status") == choice.OK)
    rows = root.read_table(path, columns=["key", "caption", "language"], filters=wanted).to_pylist()
    return {row["key"]: (row["caption"], row["language"] or "und") for row in rows if row["caption"]}


def _table_of_turn(found: Mapping[str, Mapping[int, object]], key: int, turn: int) -> str | None:
    names = [*found]
    first = turn % len(names)
    return next((name for name in names[first:] + names[:first] if key in found[name]), None)


def table(prompts: Iterable[Prompt], seed: int, rows_per_shard: int) -> pa.Table:
    """Rows of `schema.PROMPTS`, in shards of `rows_per_shard` in the file's order."""
    rows = [
        {
            "key": id_of(one.id),
            "shard": number // rows_per_shard,
            "id": one.id,
            "prompt": one.prompt,
            "language": one.language,
            "category": one.category,
            "seed": id_of(str(seed), one.id) % 2**32,
        }
        for number, one in enumerate(prompts)
    ]
    return pa.Table.from_pylist(rows, PROMPTS)


def shards(root: Root, directory: str, prompts: Sequence[Prompt], seed: int, rows_per_shard: int) -> dict[int, pa.Table]:
    """`table` by shard, each sorted by key, to be sealed in `directory`.

    Raises:
        Refused: when a run that was cut short has sealed other prompts there.
    """
    rows = table(prompts, seed, rows_per_shard)
    parts = {number: rows.slice(number * rows_per_shard, rows_per_shard).sort_by("key") for number in range(-(-rows.num_rows // rows_per_shard))}
    for number in storage.sealed_shards(root, directory):
        if number not in parts or not root.read_table(f"{directory}/{storage.shard_name(number)}").equals(parts[number]):
            raise Refused(f"the prompts are not those with which {root.path(directory)} was begun: remove the folder above it to begin anew")
    return parts


def file_name(prompt_id: str) -> str:
    """A safe and unique PNG name for any id: what is not a letter, digit, `-`, `_` or `~`, or an inner dot, is percent-encoded."""
    name = quote(prompt_id, safe="")
    if name.startswith("."):
        name = "%2E" + name[1:]
    if len(name) > LONGEST_FILE_NAME:
        name = f"{name[:LONGEST_FILE_NAME]}~{hex_key(id_of(prompt_id))}"
    return f"{name}.png"
