"""Every door's columns, declared once.

*raw* latents are the VAE posterior's mean and std, unscaled; *final* latents, which the denoiser sees, are never stored.
A key is the first 8 bytes of the sha256 of the bytes as received, big-endian: int64 in Parquet, 16 hex digits wherever people see it.
"""

import hashlib

import pyarrow as pa

from ccray.rejects import Reject  # noqa: F401  the words of `rejects/`, apart for processes that do without Arrow

# Captions that a source ships, one for each of its caption columns.
SHIPPED = pa.list_(pa.struct([("column", pa.string()), ("text", pa.string()), ("language", pa.string())]))

# What is known of an image's licence and origin, as the source states it; the same columns in listing/ and catalog/.
_ORIGIN = [
    ("license_basis", pa.string()),  # "source record", "page", "file metadata", "declared"
    ("license_evidence", pa.string()),  # what was read: the record's own words, the file, the URL
    ("license_seen_at", pa.timestamp("us", tz="UTC")),
    ("creator", pa.string()),  # plain text: markup and mojibake are mended
    ("creator_original", pa.string()),  # as the source has it, where mending changed it
    ("creator_url", pa.string()),
    ("title", pa.string()),
    ("title_original", pa.string()),
    ("alt_text", pa.string()),
    ("source", pa.string()),  # "shapes", "folder", "table", "yfcc100m", ...
    ("source_ref", pa.string()),  # the source's own id: file name, row, photo id; what rejects/ and people see
    ("source_url", pa.string()),  # the page where people find the image
    ("image_url", pa.string()),  # where the bytes were downloaded, null for files
    ("private", pa.string()),  # JSON of what `catalog.keep` asked for; null otherwise
]

# listing/: what a source offers, before any byte is fetched. Rows are ordered by row_id inside a shard; those whose images lie in the rows of
# Parquet files stand as they do there.
LISTING = pa.schema(
    [
        ("row_id", pa.int64()),  # hash of (source, the source's own id)
        ("shard", pa.int32()),
        ("locator", pa.string()),  # how to fetch: `data/sources/listed.py`
        ("license_text", pa.string()),  # as the source states it; null when it states nothing
        *_ORIGIN,
        ("captions", SHIPPED),  # null when the source ships none
    ]
)

SCORES = pa.list_(pa.struct([("name", pa.string()), ("score", pa.float32())]))

# images/: one row for each listed row, sorted by key (fetched rows first); `reason` says why there are no bytes.
IMAGES = pa.schema(
    [
        ("row_id", pa.int64()),
        ("shard", pa.int32()),
        ("key", pa.int64()),
        ("sha256", pa.string()),  # of the bytes as received
        ("image", pa.large_binary()),  # the bytes as received, or reduced (`catalog.store`)
        ("format", pa.string()),  # as received; Pillow's name: "JPEG", "PNG"
        ("width", pa.int32()),  # pixels as received, after EXIF orientation
        ("height", pa.int32()),
        ("phash", pa.int64()),  # 64-bit perceptual hash; null for drawn scenes, which are alike on purpose
        ("scores", SCORES),  # of the model-backed filters; null without any
        ("opt_out", pa.string()),  # the signal that was found, null when none was
        ("reason", pa.string()),  # a `Reject`; null when the image was fetched and decodes
        ("detail", pa.string()),
    ]
)

# A copy of an image that was rejected as its duplicate: whom else to name.
COPIES = pa.list_(
    pa.struct(
        [
            ("row_id", pa.int64()),
            ("source", pa.string()),
            ("source_ref", pa.string()),
            ("source_url", pa.string()),
            ("title", pa.string()),
            ("creator", pa.string()),
            ("creator_url", pa.string()),
            ("license", pa.string()),
            ("license_url", pa.string()),
            ("bits", pa.int32()),  # Hamming distance of the perceptual hashes; 0 with equal bytes
        ]
    )
)

# catalog/: the images we may use, one row a key, sorted by key inside a shard.
CATALOG = pa.schema(
    [
        ("key", pa.int64()),
        ("sha256", pa.string()),
        ("shard", pa.int32()),
        ("row_id", pa.int64()),
        ("format", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("license", pa.string()),  # SPDX id
        ("license_url", pa.string()),
        ("commercial", pa.bool_()),
        ("derivatives", pa.bool_()),
        ("share_alike", pa.bool_()),
        ("attribution", pa.bool_()),
        *_ORIGIN,
        ("scores", SCORES),
        ("phash", pa.int64()),
        ("duplicate_group", pa.int64()),  # the smallest key of its group of near duplicates; one group is on one side of every split
        ("copies", COPIES),  # of it, in this catalog's source; null when there are none
        ("split", pa.string()),  # "train", "validation"; "evaluation": no derivatives, never trained on
    ]
)

# rejects/: what we may not use, and why.
REJECTS = pa.schema(
    [
        ("row_id", pa.int64()),
        ("shard", pa.int32()),
        ("key", pa.int64()),  # null where no bytes came
        ("source", pa.string()),
        ("source_ref", pa.string()),
        ("source_url", pa.string()),
        ("license_text", pa.string()),
        ("reason", pa.string()),  # a `Reject`
        ("detail", pa.string()),
    ]
)

# captions/<captioner>/, and captions/source-<column>/ for those that a source ships.
CAPTIONS = pa.schema(
    [
        ("key", pa.int64()),
        ("shard", pa.int32()),
        ("caption", pa.string()),  # also when it is flagged; null when there is none
        ("language", pa.string()),  # BCP 47
        ("prompt", pa.string()),  # as the recipe has it
        ("mean_logprob", pa.float32()),  # a token, natural logarithm
        # "ok"; a flag of `data/captioning/checking.py` ("looping", ...); or what kept the picture from being described ("taken_down", "worker_died", ...)
        ("status", pa.string()),
    ]
)

# latents/<vae>-<size>px/. Arrays are C h w, flattened in C order. Whoever reads a file alone learns the rest from its metadata: vae, model,
# scaling_factor, shift_factor, size_px and, in `latents`, what the numbers are (`data/encoding.py`).
_HALVES = pa.list_(pa.field("element", pa.float16(), nullable=False))  # a number that may be null takes half as long again to read
LATENTS = pa.schema(
    [
        ("key", pa.int64()),
        ("shard", pa.int32()),
        ("latent_mean", _HALVES),  # raw
        ("latent_std", _HALVES),  # raw; null when only the mean is kept
        ("latent_shape", pa.list_(pa.int32())),  # [C, h, w]; null with a status other than "ok"
        ("crop", pa.list_(pa.int32())),  # [left, top, width, height] in pixels of the oriented original; smaller than size_px: it was enlarged
        ("original_size", pa.list_(pa.int32())),  # [width, height] in pixels, oriented
        ("status", pa.string()),
    ]
)

# Columns whose numbers nothing makes smaller: neither dictionary, compression nor statistics. zstd and a dictionary save 8 % of the bytes, and reading
# them takes nine times as long.
PLAIN = ("latent_mean", "latent_std")

# checkpoints/<name>/<step>/seen.parquet: the images a checkpoint has seen, and how often.
SEEN = pa.schema([("key", pa.int64()), ("times", pa.int64())])

# evaluation/prompts/ and evaluation/samples/<model>/
PROMPTS = pa.schema(
    [
        ("key", pa.int64()),  # hash of the prompt's id
        ("shard", pa.int32()),
        ("id", pa.string()),
        ("prompt", pa.string()),
        ("language", pa.string()),
        ("category", pa.string()),
        ("seed", pa.int64()),  # of the noise
    ]
)
SAMPLES = pa.schema([*PROMPTS, ("path", pa.string()), ("sha256", pa.string())])

# published/model/attribution.parquet
ATTRIBUTION = pa.schema(
    [
        ("key", pa.string()),  # 16 hex digits
        ("title", pa.string()),
        ("creator", pa.string()),
        ("creator_url", pa.string()),
        ("source_url", pa.string()),
        ("license", pa.string()),
        ("license_url", pa.string()),
        ("sha256", pa.string()),
        ("times_seen", pa.int64()),
        ("copies", COPIES),
        ("taken_down", pa.bool_()),  # since the model saw it
    ]
)


def key_of(data: bytes) -> int:
    """The key of an image's bytes as received: the first 8 bytes of their sha256 as a signed int64."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big", signed=True)


def hex_key(key: int) -> str:
    """A key as people see it: 16 hex digits, the beginning of the image's sha256."""
    return (key % 2**64).to_bytes(8, "big").hex()


def id_of(*parts: str) -> int:
    """A stable int64 of some text, for `row_id` and prompt keys."""
    return key_of("\x1f".join(parts).encode())
