"""From sources to latents: catalog, caption, encode."""

from typing import Literal, get_args

from pydantic import Field, model_validator

from ccray.config.base import Config, Fraction, Precision, Slug
from ccray.licenses import Policy


class ColumnMap(Config):
    """Where a table keeps what we need; None = look for the common names (`data/sources/columns.py` lists them)."""

    image: str | None = None
    url: str | None = None
    id: str | None = None
    license: str | None = None
    creator: str | None = None
    creator_url: str | None = None
    title: str | None = None
    alt_text: str | None = None
    source_url: str | None = None
    captions: tuple[
        str, ...
    ] = ()  # COLUMN or COLUMN:LANGUAGE: each becomes captions/source-<column>/; of lists of texts, the second becomes -2 and so on


class ShapesSource(Config):
    """The drawn world as a source of images."""

    count: int = Field(4096, ge=1)
    seed: int = Field(0, ge=0, lt=1_000_000)  # larger seeds belong to the teachers
    size_px: int = Field(32, ge=16)


OptOut = Literal["x-robots-tag", "tdmrep", "robots.txt", "content-usage", "content-credentials", "iptc"]
OPT_OUTS: tuple[OptOut, ...] = get_args(OptOut)


class Download(Config):
    """Bounds and manners of downloads."""

    user_agent: str = "ccray/0.1 (open text-to-image training; Creative Commons images)"
    timeout_seconds: float = Field(30.0, gt=0)  # one attempt, redirects included
    attempts: int = Field(3, ge=1)  # of a download that fails for a reason that may pass
    max_wait_seconds: float = Field(60.0, ge=0)  # the longest Retry-After that is waited for
    max_redirects: int = Field(5, ge=0)
    connections: int = Field(64, ge=1)  # of one worker, to all hosts
    connections_per_host: int = Field(8, ge=1)
    allowed_hosts: tuple[str, ...] = ()  # names or addresses that may be private, loopback or link-local
    opt_outs: tuple[OptOut, ...] = OPT_OUTS  # signals that are looked for and honoured


class ScoreFilter(Config):
    """A model that scores each image; what scores above the threshold is rejected as `filter_<name>`."""

    name: Literal["watermark", "text", "nsfw"]
    model: str  # an image classifier of transformers: a folder or a hub name
    label: str  # the class whose probability is the score
    threshold: Fraction


class CatalogConfig(Config):
    """Which images may be used."""

    source: str = "shapes"  # shapes | folder:PATH | table:FILE | commoncatalog:PATH | yfcc100m:FILE | ...: `data/listing.py` lists them
    policy: Policy = "commercial"
    license: str | None = None  # declared for a whole folder: an SPDX id or deed URL
    columns: ColumnMap = ColumnMap()
    shapes: ShapesSource = ShapesSource()
    download: Download = Download()
    limit: int | None = Field(None, ge=1)  # this many rows, drawn by a hash of their ids: a smaller limit gives a subset of a larger one's
    keep: tuple[Literal["geolocation", "exif", "user_id"], ...] = ()  # of what a source tells about persons; the rest is dropped
    keep_noderivatives: bool = False  # as the `evaluation` split, never trained on
    require_creator: bool = False
    store: str = Field("original", pattern=r"^(original|max_side_px:[1-9][0-9]*)$")  # bytes as received, or reduced and encoded as JPEG
    rows_per_shard: int = Field(2048, ge=1)
    min_size_px: int = Field(16, ge=1)  # shorter side
    max_aspect: float | None = Field(None, ge=1)  # longer side over shorter
    max_pixels: int = Field(100_000_000, ge=1)
    max_bytes: int = Field(100_000_000, ge=1)
    max_decode_seconds: float = Field(30.0, gt=0)
    filters: tuple[ScoreFilter, ...] = ()
    blocklist: str | None = None  # a file of sha256 or perceptual hashes, one a line
    # Hamming distance of perceptual hashes up to which two images are one; None: not compared.
    near_duplicate_bits: int | None = Field(4, ge=0, le=16)
    validation_fraction: Fraction = 0.02
    split_seed: int = 0


Family = Literal["blip2", "florence2", "chat", "translate", "vllm"]
Hint = Literal["title", "alt_text"]
IMPORTED = "source-"  # tables of captions that a source ships: captions/source-<column>/


class CaptionConfig(Config):
    """One captioner: a model that describes pictures, or translates the captions of another table."""

    family: Family = "blip2"  # chat: any image-text-to-text model of transformers; vllm: the same models through vLLM; translate: text to text
    model: str = Field("shapes:captioner", min_length=1)  # a folder, hub name, s3://bucket/prefix, or shapes:NAME
    input: Slug | None = None  # translate: the table it reads, a captioner named before it or source-<column>
    prompt: str = ""  # florence2: the task's token; translate: an instruction, for models that chat
    hints: tuple[Hint, ...] = ()  # what the source says of the picture and a chat model is told; nothing by default
    keep_names: bool = False  # whether names of persons in hints may reach the model and its captions
    language: str = Field("en", min_length=1)  # of the captions, BCP 47
    precision: Precision = "fp32"
    crop_px: int | None = Field(None, ge=16)  # centre square, at most this side; None = the whole picture as it is
    batch_size: int = Field(64, ge=1)  # also the width to which every batch is padded; halved where the device's memory does not hold it
    max_new_tokens: int = Field(24, ge=1)
    min_new_tokens: int = Field(0, ge=0)
    min_characters: int = Field(1, ge=1)  # shorter captions are flagged
    max_characters: int | None = Field(None, ge=1)  # longer ones too
    num_beams: int = Field(1, ge=1)
    repetition_penalty: float = Field(1.0, gt=0, allow_inf_nan=False)
    length_penalty: float = Field(1.0, allow_inf_nan=False)
    compile: bool = True  # on CUDA: static cache, compiled vision tower and decoding step

    @model_validator(mode="after")
    def _translates_something(self) -> "CaptionConfig":
        if self.max_characters is not None and self.max_characters < self.min_characters:
            raise ValueError(f"max_characters is {self.max_characters}: expected at least min_characters, {self.min_characters}")
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(f"min_new_tokens is {self.min_new_tokens}: expected at most max_new_tokens, {self.max_new_tokens}")
        if (self.input is None) == (self.family == "translate"):
            raise ValueError(f"input is {self.input!r} with family {self.family!r}: a translator, and nothing else, reads another captions table")
        if self.hints and self.family not in ("chat", "vllm"):
            raise ValueError(f"hints are {list(self.hints)} with family {self.family!r}: only chat and vllm models take words beside the picture")
        return self


class EncodeConfig(Config):
    """The VAE and the size at which images become latents."""

    vae: Slug = "shapes-kl"
    model: str = "shapes:vae"
    subfolder: str | None = None
    size_px: int = Field(32, ge=8)  # square, centre crop
    precision: Precision = "fp32"
    store_std: bool = True
    batch_size: int = Field(64, ge=1)
