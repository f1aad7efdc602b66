"""A small root as the whole corridor leaves it, written by hand: real pictures, all tables, manifests, checkpoints, an evaluation, a publication."""

import hashlib
import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from ccray import config, recipes, schema, storage
from ccray.config import Recipe
from ccray.governance import takedown
from ccray.schema import hex_key, id_of, key_of
from ccray.storage import Root, shard_name
from ccray.takedowns import parse_list

PICTURES = 24  # in two shards
TWIN = 24  # a second listing of the bytes of picture 3
UNFETCHED = 25  # listed, and never there
STEPS = {"step-00000010": 1, "step-00000020": 2}  # how often each picture is seen; the final record equals the last
JAPANESE, SHIPPED = "captions/ja", "captions/source-caption"
CAPTIONS, LATENTS, RUN = "captions/shapes-blip2", "latents/shapes-kl-32px", "checkpoints/main"


def picture(number: int) -> bytes:
    """A PNG or JPEG of noise, 24 px: its bytes are nowhere else."""
    pixels = np.random.default_rng(number).integers(0, 256, (24, 24, 3), np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "JPEG" if number % 3 == 0 else "PNG")
    return sink.getvalue()


def key(number: int) -> int:
    return key_of(picture(3 if number == TWIN else number))


def caption(number: int) -> str:
    return f"caption of picture {number}: {hashlib.sha256(str(number).encode()).hexdigest()}"


def translation(number: int) -> str:
    return f"写真{number}の説明：{hashlib.sha256(b'ja%d' % number).hexdigest()}"


def shard_of(number: int) -> int:
    return 0 if number < 12 or number == UNFETCHED else 1


def row_id(number: int) -> int:
    return id_of("folder", f"{number}.png")


def recipe() -> Recipe:
    """A captioner, a translator of its captions, and training that draws from these and from what the source ships."""
    words = ["caption.ja={family: translate, model: shapes:captioner, input: shapes-blip2, language: ja}"]
    return config.build(recipes.named("tiny"), [*words, "train.captions={shapes-blip2: 1, ja: 1, source-caption: 1}"])


def write(root: Root) -> Recipe:
    """Fill a root; the recipe whose stages are all finished there."""
    made = recipe()
    numbers = [*range(PICTURES), TWIN, UNFETCHED]
    for shard in (0, 1):
        here = [number for number in numbers if shard_of(number) == shard]
        kept = [number for number in here if number < PICTURES]
        _seal(root, "listing", shard, [_listed(number) for number in here], schema.LISTING, "row_id")
        _seal(root, "images", shard, [_image(number) for number in here], schema.IMAGES, "row_id", ("key", "row_id"), 4)
        _seal(root, "catalog", shard, [_catalog(number) for number in kept], schema.CATALOG, "key")
        _seal(root, "rejects", shard, [_reject(number) for number in here if number >= PICTURES], schema.REJECTS, "row_id")
        _seal(root, CAPTIONS, shard, [_caption(number) for number in kept], schema.CAPTIONS, "key")
        _seal(root, JAPANESE, shard, [_translated(number) for number in kept], schema.CAPTIONS, "key")
        _seal(root, SHIPPED, shard, [_caption(number) | {"caption": f"shipped {caption(number)}"} for number in kept], schema.CAPTIONS, "key")
        latents = schema.LATENTS.with_metadata({"vae": "shapes-kl", "scaling_factor": "0.18215"})
        _seal(root, LATENTS, shard, [_latent(number) for number in kept], latents, "key")
    for stage in storage.inputs_of(made, "publish").values():
        _finish(root, stage)
    for name in ("evaluate", "publish"):
        _finish(root, storage.stage_of(made, name))
    _rest(root)
    return made


def _seal(
    root: Root,
    directory: str,
    shard: int,
    rows: list[dict[str, Any]],
    schema_: pa.Schema,
    id_column: str,
    order: tuple[str, ...] = (),
    groups: int = 8,
) -> None:
    table = pa.Table.from_pylist([row | {"shard": shard} for row in rows], schema_)
    storage.seal(root, directory, shard, table, schema_, id_column, groups, order)


def _origin(number: int) -> dict[str, Any]:
    return {
        "row_id": row_id(number),
        "license_basis": "source record",
        "license_evidence": "license_url=https://creativecommons.org/licenses/by/4.0/",
        "creator": f"Creator {number % 5}",
        "creator_original": "Cr&eacute;ateur" if number == 7 else None,
        "creator_url": f"https://people.example/{number % 5}/",
        "title": f"title {number}",
        "alt_text": f"alternative text {number} {hashlib.sha256(b'alt%d' % number).hexdigest()}",
        "source": "folder",
        "source_ref": f"{number}.png",
        "source_url": f"https://Example.org/page/{number}",
        "image_url": f"http://img.example.org:80/{number}.png?size=full",
    }


def _listed(number: int) -> dict[str, Any]:
    shipped = [{"column": "caption", "text": f"shipped {caption(number)}", "language": "en"}]
    return _origin(number) | {"locator": f"url:{number}", "license_text": "CC BY 4.0", "captions": shipped}


def _image(number: int) -> dict[str, Any]:
    if number == UNFETCHED:
        return {"row_id": row_id(number), "reason": "download_not_found", "detail": "404"}
    data = picture(3 if number == TWIN else number)
    about = {"format": "JPEG" if number % 3 == 0 else "PNG", "width": 24, "height": 24, "phash": number}
    return about | {"row_id": row_id(number), "key": key_of(data), "sha256": hashlib.sha256(data).hexdigest(), "image": data}


def _catalog(number: int) -> dict[str, Any]:
    copy = {"row_id": 1, "source": "other", "source_ref": "near.png", "source_url": "https://elsewhere.example", "creator": "Somebody", "bits": 2}
    license = {"license": "CC-BY-4.0", "license_url": "https://creativecommons.org/licenses/by/4.0/", "commercial": True, "derivatives": True}
    license |= {"share_alike": False, "attribution": True, "split": "validation" if number == 11 else "train", "duplicate_group": key(number)}
    return (
        _origin(number)
        | {name: _image(number)[name] for name in ("key", "sha256", "format", "width", "height")}
        | license
        | {"copies": [copy] if number == 5 else None}
    )


def _reject(number: int) -> dict[str, Any]:
    reason = "duplicate_exact" if number == TWIN else "download_not_found"
    about = {name: _origin(number)[name] for name in ("row_id", "source", "source_ref", "source_url")}
    return about | {"key": key(TWIN) if number == TWIN else None, "license_text": "CC BY 4.0", "reason": reason, "detail": "x"}


def _caption(number: int) -> dict[str, Any]:
    return {"key": key(number), "caption": caption(number), "language": "en", "prompt": "", "mean_logprob": -1.0, "status": "ok"}


def _translated(number: int) -> dict[str, Any]:
    """Picture 2's is flagged, and has a text all the same; picture 3's has none."""
    status = {2: "looping", 3: "input_empty"}.get(number, "ok")
    return _caption(number) | {"caption": None if number == 3 else translation(number), "language": "ja", "status": status}


def latent(number: int) -> np.ndarray:
    return np.random.default_rng((7, number)).standard_normal(64).astype(np.float16)


def _latent(number: int) -> dict[str, Any]:
    return {
        "key": key(number),
        "latent_mean": latent(number),
        "latent_shape": [1, 8, 8],
        "crop": [0, 0, 24, 24],
        "original_size": [24, 24],
        "status": "ok",
    }


def _finish(root: Root, stage: storage.Stage) -> None:
    """A finished manifest, as the stage writes it."""
    name = stage.name
    with storage.running(root, stage) as manifest:
        shards = storage.sealed_shards(root, stage.directory)
        manifest.shards = {shard_name(shard): root.read_table(f"{stage.directory}/{shard_name(shard)}").num_rows for shard in shards}
        manifest.rows = sum(manifest.shards.values())
        if name == "catalog":
            manifest.counts = {"download_not_found": 1, "duplicate_exact": 1}
            manifest.facts = {"listed": 26, "accepted": 24, "rejected": 2, "licenses": {"CC-BY-4.0": 24}, "splits": {"train": 23, "validation": 1}}
        if name in ("caption", "encode"):
            flagged = {"looping": 1, "input_empty": 1} if stage.directory == JAPANESE else {}
            manifest.counts = {"ok": PICTURES - len(flagged)} | flagged


def _rest(root: Root) -> None:
    for step, times in STEPS.items():
        keys = sorted(key(number) for number in range(PICTURES) if number != 11)
        seen = pa.table({"key": keys, "times": [times] * len(keys)}, schema=schema.SEEN)
        root.write_table(f"{RUN}/{step}/seen.parquet", seen)
        root.write_table(f"{RUN}/seen.parquet", seen)
    prompts = [{"key": id_of(hex_key(key(number))), "shard": 0, "id": hex_key(key(number)), "prompt": caption(number)} for number in (2, 11)]
    root.write_table("evaluation/prompts/shard-00000.parquet", pa.Table.from_pylist(sorted(prompts, key=lambda row: row["key"]), schema.PROMPTS))
    root.write("evaluation/report.html", f"<p>{caption(2)}</p>".encode())
    named = [{"key": hex_key(key(number)), "title": f"title {number}", "times_seen": 2, "taken_down": False} for number in range(PICTURES)]
    root.write_table("published/model/attribution.parquet", pa.Table.from_pylist(named, schema.ATTRIBUTION))
    rows = [{"key": hex_key(key(number)), "caption": caption(number)} for number in range(PICTURES)]
    root.write_table("published/dataset/data/train-00000.parquet", pa.Table.from_pylist(rows))
    root.write("published/dataset/page.html", json.dumps([caption(number) for number in range(PICTURES)]).encode())
    page = b"<img src=data:" + picture(1) + b">" + b"".join(translation(number).encode() for number in range(PICTURES))
    root.write("captions/report.html", page)
    root.write("captions/statistics.json", json.dumps({"longest": caption(2)}).encode())
    root.write("catalog/report.html", b"<img src=data:" + picture(1) + b">")


GONE = (0, 1, 2, 3, 13)  # JPEG, PNG, a prompt of the evaluation, one with a twin, one of the other shard
LIST = "".join(f"key:{hex_key(key(number))}\n" for number in GONE)


def run(root: Root, text: str, purge: bool = False, reason: str | None = None) -> str:
    said: list[str] = []
    takedown.run(root, parse_list(text), reason, purge, said.append)
    return "\n".join(said)
