"""The recipes: functions that return one complete `Recipe` each.

| recipe              | denoiser                | text             | VAE           | objective               | command                                        |
|---------------------|-------------------------|------------------|---------------|-------------------------|------------------------------------------------|
| tiny                | UNet, a few M           | word-level CLIP  | shapes KL     | flow                    | make demo                                      |
| tiny-dit            | PixArt-class DiT        | word-level CLIP  | shapes KL     | flow                    | ccray run --recipe tiny-dit                    |
| commoncanvas-s-c    | SD2 UNet, 866 M         | OpenCLIP-H, 1024 | SD2           | epsilon                 | ray job submit ... --recipe commoncanvas-s-c   |
| commoncanvas-s-nc   | the same                | the same         | the same      | epsilon                 | the same, BY-NC and BY-NC-SA admitted          |
| commoncanvas-l-nc   | SDXL UNet, cross 1024   | the same         | SDXL fp16-fix | epsilon                 |                                                |
| commonart-beta      | PixArt-Sigma XL/2, 0.6 B| calm2-7b, 4096   | SDXL fp16-fix | epsilon + learned sigma |                                                |

Published recipes say where each setting comes from: `ORIGINS`, printed by `ccray show --origins`.
"""

from collections.abc import Callable
from typing import Any, Literal

from ccray.config import (
    ActorResources,
    CaptionConfig,
    CatalogConfig,
    DiTConfig,
    EncodeConfig,
    EvaluateConfig,
    ObjectiveConfig,
    PublishConfig,
    Recipe,
    Resources,
    ServeResources,
    TextConfig,
    TrainConfig,
    TrainResources,
    UNetConfig,
    flatten,
)
from ccray.interfaces import Refused

Origin = Literal["paper", "released-config", "model-card", "inferred", "ours"]

CAPTION_NODE = {"ccray-role": "caption"}
TRAIN_NODE = {"ccray-role": "train"}
SERVE_NODE = {"ccray-role": "serve"}
CPU_NODE = {"ccray-role": "cpu"}

BLIP2 = "blip2-opt-2-7b"
FLORENCE, PHI3_JA = "florence2-large", "phi3-medium-ja"  # CommonArt's dense English captions, and their translation


def _blip2() -> CaptionConfig:
    """The captioner of CommonCanvas (section 4.2 of its paper)."""
    return CaptionConfig(model="Salesforce/blip2-opt-2.7b", precision="fp16", crop_px=512, batch_size=64, max_new_tokens=32)


def tiny() -> Recipe:
    """A UNet of a few million parameters on 32 px pictures: the whole corridor on two CPU cores, in minutes."""
    return Recipe(
        name="tiny",
        catalog=CatalogConfig(),
        caption={"shapes-blip2": CaptionConfig()},
        encode=EncodeConfig(),
        text=TextConfig(),
        denoiser=UNetConfig(
            sample_size=8,
            block_out_channels=(64, 128),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=96,
            attention_head_dim=4,
            norm_num_groups=16,
        ),
        objective=ObjectiveConfig(kind="flow"),
        train=TrainConfig(steps=900, schedule="cosine", checkpoint_every=150, sample_every=300),
        resources=Resources(
            caption=ActorResources(min_actors=2, max_actors=2),
            encode=ActorResources(min_actors=2, max_actors=2),
            evaluate=ActorResources(min_actors=2, max_actors=2, rows_per_block=32),
        ),
    )


def tiny_dit() -> Recipe:
    """A PixArt-class transformer of about 2 M parameters in place of the UNet."""
    base = tiny()
    denoiser = DiTConfig(
        sample_size=8,
        num_layers=8,
        num_attention_heads=4,
        attention_head_dim=32,
        cross_attention_dim=128,
        caption_channels=base.text.width,
    )
    return base.model_copy(update={"name": "tiny-dit", "denoiser": denoiser})


def _gpu_resources(train_gpus: int, captioners: dict[str, dict[str, str]] | None = None) -> Resources:
    """Pools of the cluster files: CPU nodes read, decode and write, spot GPUs caption and encode, on-demand GPUs train; `captioners` that need
    other nodes, by name.

    A pool of models starts with a few actors, so that their nodes are on their way while the first pictures are decoded, and grows to its
    largest as long as blocks wait; it may shrink to one, for a job must end on whatever spot machines are left.
    """
    models: dict[str, Any] = {"gpus": 1, "label_selector": CAPTION_NODE, "task_label_selector": CPU_NODE}
    return Resources(
        catalog=ActorResources(max_actors=64, label_selector=CPU_NODE, task_label_selector=CPU_NODE),
        caption=ActorResources(min_actors=1, initial_actors=4, max_actors=64, **models),
        captioners={name: ActorResources(max_actors=8, **models | {"label_selector": node}) for name, node in (captioners or {}).items()},
        encode=ActorResources(min_actors=1, initial_actors=4, max_actors=64, **models),
        train=TrainResources(workers=train_gpus, cpus=8, gpus=1, label_selector=TRAIN_NODE),
        evaluate=ActorResources(min_actors=1, initial_actors=2, max_actors=16, rows_per_block=64, **models),
        serve=ServeResources(host="0.0.0.0", max_replicas=4, gpus=1, label_selector=SERVE_NODE),
    )


def commoncanvas_s_c() -> Recipe:
    """CommonCanvas-S-C: an SD2 UNet on BY and BY-SA images, captions by BLIP-2 OPT-2.7B (paper sections 4 to 6).

    The 256 px phase of 550,000 steps; the 512 px phase continues with `encode.size_px=512 denoiser.sample_size=64
    train.start_from=... train.name=phase-512 train.steps=850000`.
    """
    return Recipe(
        name="commoncanvas-s-c",
        catalog=CatalogConfig(source="table:catalog.parquet", policy="commercial", rows_per_shard=8192, min_size_px=256),
        caption={BLIP2: _blip2()},
        encode=EncodeConfig(vae="sd2-kl", model="stabilityai/stable-diffusion-2-base", subfolder="vae", size_px=256, precision="fp32", batch_size=32),
        text=TextConfig(
            encoder="openclip-h",
            model="stabilityai/stable-diffusion-2-base",
            subfolder="text_encoder",
            tokenizer_subfolder="tokenizer",
            max_tokens=77,
            width=1024,
            precision="bf16",
        ),
        denoiser=UNetConfig(
            sample_size=32,
            block_out_channels=(320, 640, 1280, 1280),
            layers_per_block=2,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=1024,
            attention_head_dim=(5, 10, 20, 20),
            use_linear_projection=True,
        ),
        objective=ObjectiveConfig(kind="epsilon"),
        train=TrainConfig(
            seed=17,
            steps=550_000,
            global_batch_size=2048,
            micro_batch_size=16,
            learning_rate=1e-4,
            warmup_steps=10_000,
            clip_norm=None,
            ema_decay=0.9999,
            ema_steps=20_000,
            precision="bf16",
            checkpoint_every=10_000,
            sample_every=10_000,
            log_every=100,
            sample_prompts=(
                "a photo of a dog on a beach",
                "a red bicycle leaning against a brick wall",
                "a bowl of fruit, oil painting",
                "a castle on a hill at sunset",
            ),
        ),
        evaluate=EvaluateConfig(prompts="coco-30k.jsonl", steps=50, guidance=3.0, features="openai/clip-vit-base-patch32", reference_images=30_000),
        publish=PublishConfig(model_license="CC-BY-SA-4.0", default_steps=25, default_guidance=7.5),
        allow_unknown_components=True,  # BLIP-2 on OPT: MIT by its card, around a language model for research only
        resources=_gpu_resources(train_gpus=128),
    )


def commoncanvas_s_nc() -> Recipe:
    """CommonCanvas-S-NC: the same model, BY-NC and BY-NC-SA images admitted."""
    base = commoncanvas_s_c()
    return base.model_copy(
        update={
            "name": "commoncanvas-s-nc",
            "catalog": base.catalog.model_copy(update={"policy": "noncommercial"}),
            "publish": base.publish.model_copy(update={"model_license": "CC-BY-NC-SA-4.0"}),
        }
    )


def commoncanvas_l_nc() -> Recipe:
    """CommonCanvas-L-NC: the SDXL UNet with one text encoder (cross-attention 1024) and no micro-conditioning (paper section 6.3).

    2.39 B parameters: the 2.57 B of the published SDXL UNet, less its wider cross-attention and its micro-conditioning. What the hub
    holds as CommonCanvas-XL is another model: a full SDXL with two text encoders.
    """
    base = commoncanvas_s_nc()
    return base.model_copy(
        update={
            "name": "commoncanvas-l-nc",
            "encode": EncodeConfig(vae="sdxl-kl", model="madebyollin/sdxl-vae-fp16-fix", size_px=256, batch_size=32),
            "denoiser": UNetConfig(
                sample_size=32,
                block_out_channels=(320, 640, 1280),
                layers_per_block=2,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                cross_attention_dim=1024,
                attention_head_dim=(5, 10, 20),
                transformer_layers_per_block=(1, 2, 10),
                use_linear_projection=True,
            ),
        }
    )


def commonart_beta() -> Recipe:
    """CommonArt beta: PixArt-Sigma XL/2 on the last hidden state of calm2-7b, CC0 and CC-BY images (jxiv 936, its model card)."""
    return Recipe(
        name="commonart-beta",
        catalog=CatalogConfig(source="table:catalog.parquet", policy="permissive", rows_per_shard=8192, min_size_px=256),
        caption={
            FLORENCE: CaptionConfig(
                family="florence2",
                model="florence-community/Florence-2-large",
                prompt="<MORE_DETAILED_CAPTION>",
                precision="bf16",
                batch_size=64,
                max_new_tokens=256,
            ),
            PHI3_JA: CaptionConfig(
                family="translate",
                model="microsoft/Phi-3-medium-4k-instruct",
                input=FLORENCE,
                language="ja",
                precision="bf16",
                batch_size=32,
                max_new_tokens=512,
            ),
        },
        encode=EncodeConfig(vae="sdxl-kl", model="madebyollin/sdxl-vae-fp16-fix", size_px=512, batch_size=16),
        text=TextConfig(encoder="calm2-7b", model="cyberagent/calm2-7b", max_tokens=512, width=4096, precision="bf16"),
        denoiser=DiTConfig(
            sample_size=64,
            out_channels=8,
            num_layers=28,
            num_attention_heads=16,
            attention_head_dim=72,
            cross_attention_dim=1152,
            caption_channels=4096,
            interpolation_scale=1.0,
        ),
        objective=ObjectiveConfig(kind="epsilon", learned_sigma=True, beta_schedule="linear", beta_start=1e-4, beta_end=0.02),
        train=TrainConfig(
            steps=1_596_000,
            global_batch_size=320,
            learning_rate=2e-5,
            weight_decay=0.0,
            betas=(0.9, 0.999),
            warmup_steps=1000,
            clip_norm=0.01,
            ema_decay=0.9999,
            precision="bf16",
            gradient_checkpointing=True,
            checkpoint_every=10_000,
            sample_every=10_000,
            log_every=100,
            sample_prompts=("夕焼けの海を歩く猫", "a cat walking by the sea at sunset", "浮世絵風の富士山", "a bowl of ramen on a wooden table"),
        ),
        evaluate=EvaluateConfig(
            prompts="stair-captions.jsonl", steps=20, guidance=4.5, features="openai/clip-vit-base-patch32", reference_images=30_000
        ),
        publish=PublishConfig(model_license="Apache-2.0", default_steps=20, default_guidance=4.5),
        resources=_gpu_resources(train_gpus=32, captioners={PHI3_JA: SERVE_NODE}),  # 14 B parameters: 28 GB
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "tiny": tiny,
    "tiny-dit": tiny_dit,
    "commoncanvas-s-c": commoncanvas_s_c,
    "commoncanvas-s-nc": commoncanvas_s_nc,
    "commoncanvas-l-nc": commoncanvas_l_nc,
    "commonart-beta": commonart_beta,
}

# Longest matching prefix wins. paper: stated in the text. released-config: in files the authors (or, for CommonCanvas, the
# SD2 recipe they say they copy, mosaicml/diffusion SD-2-base-256.yaml) released. model-card: on the hub. inferred: follows
# from those, but nobody says it. ours: neither says it.
_SHARED_ORIGINS: dict[str, Origin] = {
    "name": "ours",
    "catalog": "ours",
    "caption": "ours",
    "encode": "ours",
    "text": "ours",
    "objective": "ours",
    "train": "ours",
    "evaluate": "ours",
    "publish": "ours",
    "serve": "ours",
    "allow_unknown_components": "inferred",  # both used BLIP-2 OPT; neither says a word of its language model's licence
    "resources": "ours",
}
_COMMONCANVAS_ORIGINS: dict[str, Origin] = _SHARED_ORIGINS | {
    "catalog.policy": "paper",
    f"caption.{BLIP2}.model": "paper",
    f"caption.{BLIP2}.prompt": "inferred",
    f"caption.{BLIP2}.crop_px": "paper",
    "encode.vae": "paper",
    "encode.model": "paper",
    "encode.subfolder": "released-config",
    "encode.size_px": "released-config",
    "text.encoder": "paper",
    "text.model": "paper",
    "text.subfolder": "released-config",
    "text.tokenizer_subfolder": "released-config",
    "text.max_tokens": "released-config",
    "text.width": "paper",
    "denoiser": "released-config",
    "objective.kind": "inferred",
    "objective.beta_schedule": "released-config",
    "objective.beta_start": "released-config",
    "objective.beta_end": "released-config",
    "objective.num_train_timesteps": "released-config",
    "objective.timestep_density": "released-config",
    "train.seed": "released-config",
    "train.steps": "released-config",
    "train.global_batch_size": "released-config",
    "train.micro_batch_size": "released-config",
    "train.learning_rate": "released-config",
    "train.weight_decay": "released-config",
    "train.warmup_steps": "released-config",
    "train.schedule": "released-config",
    "train.caption_dropout": "released-config",
    "train.ema_decay": "released-config",
    "train.ema_steps": "inferred",  # "the final 3.5 %", as a step of this phase
    "evaluate.prompts": "paper",
    "evaluate.reference_images": "paper",
    "publish.model_license": "model-card",
    "publish.default_steps": "model-card",
    "resources.train.workers": "paper",
}
_COMMONART_ORIGINS: dict[str, Origin] = _SHARED_ORIGINS | {
    "catalog.policy": "paper",
    # Of its caption sets: Florence-2 for Megalith and Smithsonian, Phi-3-Vision, whose code is not transformers' own, for CommonCatalog; both in dense English.
    f"caption.{FLORENCE}.model": "model-card",
    f"caption.{FLORENCE}.prompt": "model-card",
    f"caption.{PHI3_JA}.model": "model-card",
    f"caption.{PHI3_JA}.input": "inferred",
    f"caption.{PHI3_JA}.language": "model-card",
    "allow_unknown_components": "ours",
    "encode.vae": "released-config",
    "encode.model": "released-config",
    "encode.size_px": "released-config",
    "text.encoder": "released-config",
    "text.model": "released-config",
    "text.max_tokens": "released-config",
    "text.width": "released-config",
    "text.layer": "inferred",
    "text.precision": "released-config",
    "denoiser": "released-config",
    "objective": "inferred",  # the PixArt-Sigma trainer's defaults; its authors' checkpoints are named as that trainer names them
    "train.steps": "released-config",
    "train.global_batch_size": "inferred",
    "train.learning_rate": "inferred",
    "train.weight_decay": "inferred",
    "train.warmup_steps": "inferred",
    "train.clip_norm": "inferred",
    "train.caption_dropout": "inferred",
    "train.gradient_checkpointing": "inferred",
    "evaluate.steps": "released-config",
    "evaluate.guidance": "inferred",
    "publish.model_license": "model-card",
    "publish.default_steps": "released-config",
    "publish.default_guidance": "inferred",
}
_L_ORIGINS: dict[str, Origin] = {
    "denoiser.cross_attention_dim": "paper",
    "encode.model": "released-config",
    "encode.subfolder": "ours",
}
ORIGINS: dict[str, dict[str, Origin]] = {
    "commoncanvas-s-c": _COMMONCANVAS_ORIGINS,
    "commoncanvas-s-nc": _COMMONCANVAS_ORIGINS,
    "commoncanvas-l-nc": _COMMONCANVAS_ORIGINS | _L_ORIGINS,
    "commonart-beta": _COMMONART_ORIGINS,
}


def named(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        Refused: when there is none.
    """
    if name not in RECIPES:
        raise Refused(f"--recipe {name!r} is not a recipe: expected one of {', '.join(RECIPES)}")
    return RECIPES[name]()


def origins(recipe: Recipe) -> dict[str, Origin]:
    """Dotted setting -> where its value comes from; a recipe of ours, or a value changed from the published one, is `ours`."""
    table = ORIGINS.get(recipe.name, {})
    published = flatten(RECIPES[recipe.name]().model_dump(mode="json"))
    settings: dict[str, Any] = flatten(recipe.model_dump(mode="json"))
    return {key: _origin(table, key) if settings[key] == published.get(key) else "ours" for key in settings}


def _origin(table: dict[str, Origin], key: str) -> Origin:
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in table:
            return table[prefix]
    return "ours"
