"""Typed, frozen configuration of one whole run: what a thing is, and (in `Resources` alone) where it runs.

Every stage has its section; a stage's fingerprint is made of its sections and its inputs' fingerprints, never of `Resources`.
`build` reads a recipe's overrides (a YAML file, then `key.sub=value` words) and refuses unknown keys and wrong types in one sentence.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from ccray.interfaces import Refused
from ccray.licenses import Policy
from ccray.overrides import overridden, sentence

Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+$", max_length=100)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Precision = Literal["fp32", "bf16", "fp16", "fp64"]


class Config(BaseModel):
    """Frozen, keyword-only, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


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


def _spoken(value: Any) -> Any:
    """YAML reads the words yes and no as true and false."""
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value


Commercial = Annotated[Literal["yes", "no", "unknown"], BeforeValidator(_spoken)]


class Terms(Config):
    """What a person declares of a pretrained component, over what its card or our own table says."""

    license: str | None = None
    training_data: str | None = None
    commercial: Commercial | None = None


class ComponentsConfig(Config):
    """Declared terms of the pretrained components."""

    captioner: dict[Slug, Terms] = {}  # by the captioner's name
    vae: Terms = Terms()
    text_encoder: Terms = Terms()
    start_from: Terms = Terms()
    filters: Terms = Terms()


class TextConfig(Config):
    """The frozen text encoder, run beside training."""

    encoder: Slug = "shapes-clip"
    model: str = "shapes:text"
    subfolder: str | None = None
    tokenizer_subfolder: str | None = None
    max_tokens: int = Field(24, ge=1)
    width: int = Field(96, ge=1)  # of a token's feature
    layer: int = -1  # hidden state taken; -1 = the last, after the final norm
    precision: Precision = "fp32"


class UNetConfig(Config):
    """A diffusers UNet2DConditionModel."""

    kind: Literal["unet"] = "unet"
    sample_size: int
    in_channels: int = 4
    out_channels: int = 4
    block_out_channels: tuple[int, ...]
    layers_per_block: int = 2
    down_block_types: tuple[str, ...]
    up_block_types: tuple[str, ...]
    cross_attention_dim: int
    attention_head_dim: int | tuple[int, ...]  # diffusers' name for the number of heads
    transformer_layers_per_block: int | tuple[int, ...] = 1
    use_linear_projection: bool = False
    norm_num_groups: int = 32


class DiTConfig(Config):
    """A diffusers PixArtTransformer2DModel."""

    kind: Literal["pixart"] = "pixart"
    sample_size: int
    in_channels: int = 4
    out_channels: int = 4
    num_layers: int
    num_attention_heads: int
    attention_head_dim: int
    cross_attention_dim: int
    caption_channels: int
    patch_size: int = 2
    interpolation_scale: float = 1.0
    use_additional_conditions: bool = False


Denoiser = Annotated[UNetConfig | DiTConfig, Field(discriminator="kind")]


class ObjectiveConfig(Config):
    """What the denoiser learns to predict, and at which noise levels."""

    kind: Literal["epsilon", "v", "flow"] = "flow"
    learned_sigma: bool = False  # out_channels = 2 x in_channels, with the variational bound of Improved DDPM
    beta_schedule: Literal["linear", "scaled_linear"] = "scaled_linear"  # epsilon and v
    beta_start: float = 0.00085
    beta_end: float = 0.012
    num_train_timesteps: int = 1000
    timestep_density: Literal["uniform", "logit_normal"] = "uniform"
    logit_mean: float = 0.0
    logit_std: float = 1.0
    flow_shift: float = 1.0


class TrainConfig(Config):
    """The run: order, length, optimizer, average, cadence."""

    name: Slug = "main"
    policy: Policy | None = None  # may be stricter than the catalog's
    # Caption tables and how often each is drawn; a row that some tables lack goes by the weights of the others. {} = the recipe's captioners, equally.
    captions: dict[Slug, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = {}
    caption_statuses: tuple[str, ...] = Field(("ok",), min_length=1)  # captions that are trained on; flagged ones are not, unless named here
    start_from: str | None = None  # a diffusers folder or hub name of a supported family
    seed: int = 0
    steps: int = Field(1000, ge=1)
    global_batch_size: int = Field(64, ge=1)
    micro_batch_size: int | None = Field(None, ge=1)  # rows at once on a rank; None = the rank's whole slice
    learning_rate: float = Field(1e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    adam_eps: float = 1e-8
    weight_decay: float = 0.01
    warmup_steps: int = Field(100, ge=0)
    schedule: Literal["constant", "cosine"] = "constant"
    clip_norm: float | None = Field(1.0, gt=0)
    caption_dropout: Fraction = 0.1
    ema_decay: Fraction = 0.99
    ema_start_step: int = Field(0, ge=0)
    precision: Precision = "fp32"  # of the forward pass; stored weights stay fp32 (fp64 under fp64)
    gradient_checkpointing: bool = False
    compile: bool = False
    window_shards: int = Field(8, ge=1)  # shards shuffled together
    checkpoint_every: int = Field(200, ge=1)  # steps
    keep_checkpoints: int = Field(2, ge=1)
    sample_every: int = Field(200, ge=1)
    log_every: int = Field(10, ge=1)
    sample_prompts: tuple[str, ...] = ()


class EvaluateConfig(Config):
    """Prompts, how they are drawn, and what the pictures are compared with."""

    prompts: str | None = None  # JSONL or TSV: id, prompt, language, category; None = the recipe's own (held-out scenes of the shapes world)
    count: int = Field(256, ge=1)  # of the shapes world's own prompts
    seed: int = 0
    steps: int = Field(20, ge=1)
    guidance: float = Field(3.0, ge=0)
    batch_size: int = Field(32, ge=1)
    features: str = "shapes:captioner"  # folder or hub name whose vision tower gives the features of the distances
    reference_images: int = Field(1024, ge=2)


PublishPart = Literal["model", "dataset"]


class PublishConfig(Config):
    """The published folders: the model, the dataset, and what their cards say."""

    parts: tuple[PublishPart, ...] = Field(("model", "dataset"), min_length=1)  # a dataset alone needs neither latents nor a trained model
    model_license: str = "Apache-2.0"
    description: str = ""  # of the model
    default_steps: int = Field(20, ge=1)
    default_guidance: float = Field(3.0, ge=0)
    dataset_description: str = ""
    provider: str = ""  # who answers for both: a person or an organisation
    contact: str = ""  # where people ask for a takedown: a mail address or URL
    homepage: str = ""  # URL of the dataset's page
    images: bool = False  # the dataset carries the images' bytes
    rows_per_file: int | None = Field(None, ge=1)  # of the dataset, in whole shards; None = 100,000, with images 10,000
    page_rows: int = Field(4000, ge=1)  # images in one file of the attribution page
    # Images up to which the attribution page is also written as plain HTML, for readers without JavaScript.
    plain_pages_up_to: int = Field(50_000, ge=0)


class ServeConfig(Config):
    """Bounds of the endpoint."""

    width: int = Field(4, ge=1)  # pictures drawn together: the fixed batch width
    max_images: int = Field(10, ge=1)
    max_steps: int = Field(100, ge=1)
    max_prompt_characters: int = Field(32_000, ge=1)
    max_waiting: int = Field(64, ge=1)  # pictures that one engine queues before it answers 503
    precision: Precision = "fp32"


class ActorResources(Config):
    """One pool of model actors and the CPU tasks beside it."""

    min_actors: int = Field(1, ge=1)
    max_actors: int = Field(1, ge=1)
    initial_actors: int | None = Field(None, ge=1)  # that the pool starts with; None = min_actors
    cpus: float = Field(1, ge=0)
    gpus: float = Field(0, ge=0)
    threads: int | None = Field(None, ge=1)  # torch threads of one actor; None = the machine's cores over max_actors
    label_selector: dict[str, str] = {}
    task_label_selector: dict[str, str] = {}  # of the CPU tasks beside the actors; Ray Data would have an autoscaler start any node for them
    rows_per_block: int = Field(256, ge=1)  # at most this many rows of one actor are redone after a kill
    dollars_per_hour: float | None = Field(None, ge=0, allow_inf_nan=False)  # of one actor, for the estimate that a run prints


class TrainResources(Config):
    workers: int = Field(1, ge=1)
    cpus: float = Field(1, gt=0)
    gpus: float = Field(0, ge=0)
    threads: int | None = Field(None, ge=1)
    label_selector: dict[str, str] = {}
    max_failures: int = 3


class ServeResources(Config):
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    min_replicas: int = Field(1, ge=0)
    max_replicas: int = Field(1, ge=1)
    cpus: float = Field(1, ge=0)
    gpus: float = Field(0, ge=0)
    threads: int | None = Field(None, ge=1)
    label_selector: dict[str, str] = {}


class Resources(Config):
    """Where the stages run; no part of any fingerprint."""

    catalog: ActorResources = ActorResources(max_actors=2)
    filters: ActorResources = ActorResources()  # the models of `catalog.filters`
    caption: ActorResources = ActorResources()
    captioners: dict[Slug, ActorResources] = {}  # of single ones, by name, where they need other machines than `caption`
    encode: ActorResources = ActorResources()
    train: TrainResources = TrainResources()
    evaluate: ActorResources = ActorResources(rows_per_block=32)
    serve: ServeResources = ServeResources()


class Recipe(Config):
    """One complete configuration of the corridor."""

    name: Slug
    catalog: CatalogConfig
    caption: dict[Slug, CaptionConfig]  # by name, in the order in which they run; each writes captions/<name>/
    encode: EncodeConfig
    text: TextConfig
    denoiser: Denoiser
    objective: ObjectiveConfig
    train: TrainConfig
    evaluate: EvaluateConfig = EvaluateConfig()
    publish: PublishConfig = PublishConfig()
    serve: ServeConfig = ServeConfig()
    components: ComponentsConfig = ComponentsConfig()
    allow_unknown_components: bool = False  # policy `commercial` and components of which nobody says whether commercial use is allowed
    resources: Resources = Resources()

    @model_validator(mode="after")
    def _captions_are_there(self) -> "Recipe":
        before: list[str] = []
        for name, one in self.caption.items():
            if name.startswith(IMPORTED):
                raise ValueError(f"caption.{name}: names that begin with {IMPORTED!r} belong to captions that a source ships")
            if one.input and not one.input.startswith(IMPORTED) and one.input not in before:
                raise ValueError(
                    f"caption.{name}.input is {one.input!r}: expected a captioner named before it ({', '.join(before) or 'none'}) or {IMPORTED}COLUMN"
                )
            before.append(name)
        strangers = [name for name in self.resources.captioners if name not in before]
        if strangers:
            raise ValueError(f"resources.captioners.{strangers[0]} is of no captioner: expected one of {', '.join(before) or 'none'}")
        unknown = [name for name in self.train.captions if name not in before and not name.startswith(IMPORTED)]
        if unknown or not (before or self.train.captions):
            raise ValueError(f"train.captions names {unknown}: expected some of {', '.join(before) or 'no captioner'}, or {IMPORTED}COLUMN")
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> "Recipe":
        if self.train.start_from is not None:  # the folder brings denoiser, text encoder and objective
            return self
        width = self.denoiser.cross_attention_dim if self.denoiser.kind == "unet" else self.denoiser.caption_channels
        if width != self.text.width:
            raise ValueError(f"the denoiser takes text features {width} wide, but text.width is {self.text.width}")
        outputs = self.denoiser.in_channels * (2 if self.objective.learned_sigma else 1)
        if self.denoiser.out_channels != outputs:
            raise ValueError(f"denoiser.out_channels is {self.denoiser.out_channels}, but the objective needs {outputs}")
        return self


# The sections of the recipe that make up each stage's identity.
STAGE_SECTIONS: dict[str, tuple[str, ...]] = {
    "catalog": ("catalog",),
    "caption": ("caption",),
    "encode": ("encode",),
    "train": ("text", "denoiser", "objective", "train"),
    "evaluate": ("evaluate",),
    "publish": ("publish",),
}
STAGES = (*STAGE_SECTIONS, "serve")

AnyConfig = TypeVar("AnyConfig", bound=Config)


def trained_captions(recipe: Recipe) -> dict[str, float]:
    """Caption tables that training draws from -> how often, relative to each other."""
    return dict(recipe.train.captions) or dict.fromkeys(recipe.caption, 1.0)


def stage_config(recipe: Recipe, stage: str) -> dict[str, Any]:
    """The part of a recipe that decides what a stage writes, as plain JSON values; of the captioners see `storage.caption_stage`."""
    sections = {section: getattr(recipe, section).model_dump(mode="json") for section in STAGE_SECTIONS[stage]}
    if "train" in sections:
        sections["train"]["captions"] = trained_captions(recipe)  # as they are now, whatever captioners come later
    return sections


def fingerprint(config: dict[str, Any], inputs: dict[str, str]) -> str:
    """16 hex digits that name a stage's configuration together with its inputs' fingerprints."""
    canonical = json.dumps({"config": config, "inputs": inputs}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `section.key: value`."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


# Sections that hold one of these for each captioner.
NAMED: dict[str, type[Config]] = {"caption": CaptionConfig, "components.captioner": Terms, "resources.captioners": ActorResources}


def build(recipe: Recipe, overrides: Sequence[str] = (), file_text: str | None = None) -> Recipe:
    """`recipe` with a YAML file's settings, then `key.sub=value` words, laid over it.

    Raises:
        Refused: on an unknown key or a value that does not fit, naming key, value and what was expected.
    """
    values = overridden(recipe.model_dump(), overrides, file_text, NAMED)
    for name in recipe.caption.keys() - values["caption"].keys():  # what was taken away needs no machines
        values["resources"]["captioners"].pop(name, None)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise Refused(sentence(error)) from None
