"""Roots written by hand: a finished catalog with captions, and bytes if asked for, of images whose strangers' words are as awkward as can be."""

import hashlib
import io
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from ccray import config, recipes, storage
from ccray.config import CaptionConfig, Recipe
from ccray.licenses import parse
from ccray.schema import CAPTIONS, CATALOG, IMAGES, id_of, key_of
from ccray.storage import Root

LICENSES = ("CC0-1.0", "CC-BY-2.0", "CC-BY-SA-4.0", "CC-BY-NC-2.0", "https://creativecommons.org/publicdomain/mark/1.0/", "CC-BY-2.1-JP")
TITLES = (
    "Bridge at dusk",
    "夕焼けの海を歩く猫、そして長い長い影",
    "صورة لمسجد قديم في المدينة",
    "<script>document.title='stolen'</script><img src=x onerror=\"document.title='stolen'\">",
    None,
    "A very long title " + "that goes on and on, " * 25,
    "'; DROP TABLE images; -- {creator} {0} %s",
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
)
CREATORS = ("Jane Doe", None, "山田 太郎", "نجيب محفوظ", "<b>bold</b> & sons", "x" * 90)
PAGES = ("https://photos.example.org/{n}", 'https://commons.example.org/wiki/File:{n}?a=1&b="2"', None, "javascript:alert({n})")
SOURCES = ("yfcc100m", "table", "openverse")
IMPORTED = "source-blip2-caption"
SEEN_AT = datetime(2026, 5, 1, tzinfo=UTC)


def recipe_of(*words: str) -> Recipe:
    """Recipe `tiny` that publishes a dataset alone."""
    return config.build(recipes.named("tiny"), ["publish.parts=[dataset]", "catalog.source=table:rows.parquet", *words])


def picture(number: int) -> bytes:
    """A small PNG of its own."""
    stream = io.BytesIO()
    Image.new("RGB", (16 + number % 5, 24), ((number * 7) % 256, number % 256, 90)).save(stream, "PNG")
    return stream.getvalue()


def row(number: int) -> dict[str, Any]:
    """A row of the catalog."""
    license = parse("CC-BY-ND-4.0" if number % 37 == 36 else LICENSES[number % len(LICENSES)])
    data = picture(number) + str(number).encode()
    key = key_of(data)
    page = PAGES[number % len(PAGES)]
    creator = CREATORS[number % len(CREATORS)]
    return {
        "key": key,
        "sha256": hashlib.sha256(data).hexdigest(),
        "row_id": id_of("test", str(number)),
        "format": "PNG",
        "width": 16 + number % 5,
        "height": 24,
        "license": license.id,
        "license_url": license.url,
        "commercial": license.commercial,
        "derivatives": license.derivatives,
        "share_alike": license.share_alike,
        "attribution": license.attribution,
        "license_basis": "source record",
        "license_evidence": license.url,
        "license_seen_at": SEEN_AT + timedelta(minutes=number),
        "creator": creator,
        "creator_url": f"https://people.example.org/{number % 9}" if creator else None,
        "title": TITLES[number % len(TITLES)],
        "source": SOURCES[number % len(SOURCES)],
        "source_ref": str(number),
        "source_url": page and page.format(n=number),
        "image_url": f"https://www.static{number % 3}.example.net/{number}.png" if number % 2 else None,
        "private": '{"uid": "secret"}',
        "phash": key,
        "duplicate_group": key,
        "copies": [copy(number)] if number % 10 == 0 else None,
        "split": "train" if license.derivatives and number % 8 else "validation" if license.derivatives else "evaluation",
    }


def copy(number: int) -> dict[str, Any]:
    return {
        "row_id": number,
        "source": "table",
        "source_ref": f"copy {number}",
        "source_url": f"https://elsewhere.example.org/{number}",
        "title": f"copy of {number}",
        "creator": "Copyist <i>",
        "creator_url": None,
        "license": "CC-BY-4.0",
        "license_url": "https://creativecommons.org/licenses/by/4.0/",
        "bits": 2,
    }


def finished(place: Path, recipe: Recipe, count: int, shards: int = 3, images: bool = False, reasons: dict[str, int] | None = None) -> Root:
    """A root whose catalog and captions are finished."""
    root = Root(str(place))
    every = [row(number) for number in range(count)]
    for shard in range(shards):
        rows = [one | {"shard": shard} for one in every[shard::shards]]
        storage.seal(root, "catalog", shard, pa.Table.from_pylist(rows, CATALOG), CATALOG, "key")
        for name, captioner in recipe.caption.items():
            captions = [caption(one, shard, *written(captioner, int(one["source_ref"]))) for one in rows]
            storage.seal(root, f"captions/{name}", shard, pa.Table.from_pylist(captions, CAPTIONS), CAPTIONS, "key")
        if images:
            numbers = range(shard, count, shards)
            made = [{"row_id": one["row_id"], "key": one["key"], "image": picture(number)} for one, number in zip(rows, numbers, strict=True)]
            made += [{"row_id": number, "reason": "download_failed"} for number in range(5)]
            table = pa.Table.from_pylist(made, IMAGES)
            storage.seal(root, "images", shard, table, IMAGES, "row_id", row_group_rows=64, order=("key", "row_id"))
    shipped = [caption(one, 0, f"as shipped, {one['source_ref']}", "fr") for one in every[0::shards] if one["source"] == "yfcc100m"]
    storage.seal(root, f"captions/{IMPORTED}", 0, pa.Table.from_pylist(shipped, CAPTIONS), CAPTIONS, "key")
    catalog = storage.stage_of(recipe, "catalog")
    for stage in (catalog, *storage.stages_of(recipe, "caption"), storage.caption_stage(recipe, IMPORTED)):
        with storage.running(root, stage) as manifest:
            manifest.rows = count
            manifest.counts = (reasons or {}) if stage == catalog else {"ok": count}
            manifest.facts = {"listed": count + sum((reasons or {}).values())}
            if stage.directory == f"captions/{IMPORTED}":
                manifest.facts = {"captioner": IMPORTED, "language": "fr", "languages": ["fr"], "column": "blip2_caption"}
    return root


def written(captioner: CaptionConfig, number: int) -> tuple[str, str, str]:
    """A captioner's text of an image, its language and its status: Japanese ones loop at 7, and name a person at 8, of 50."""
    if captioner.language == "ja":
        text = f"夕焼けの海を歩く猫「{number}」、\u2028そして髙い﨑の影"
        return text, "ja", {7: "looping", 8: "person_name"}.get(number % 50, "ok")
    return f"a picture, number {number}", captioner.language, "ok"


def caption(one: dict[str, Any], shard: int, text: str, language: str, status: str = "ok") -> dict[str, Any]:
    failed = int(one["source_ref"]) % 50 == 49
    status = "undecodable: no end in /home/me/image.jpg" if failed else status
    return {"key": one["key"], "shard": shard, "caption": None if failed else text, "language": language, "prompt": "", "status": status}
