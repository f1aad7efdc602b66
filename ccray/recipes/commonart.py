"""CommonArt beta (jxiv 936), its model card and the files beside it."""

from ccray.config import (
    CaptionConfig,
    CatalogConfig,
    DiTConfig,
    EncodeConfig,
    EvaluateConfig,
    ObjectiveConfig,
    PublishConfig,
    Recipe,
    TextConfig,
    TrainConfig,
)
from ccray.recipes.origins import SHARED, Origin
from ccray.recipes.pools import SERVE_NODE, gpu_resources

FLORENCE, PHI3_JA = "florence2-large", "phi3-medium-ja"  # CommonArt's dense English captions, and their translation
COMMONART_IMAGES = 25_000_000  # "about 25 M", the paper's abstract


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
        resources=gpu_resources(train_gpus=32, captioners={PHI3_JA: SERVE_NODE}),  # 14 B parameters: 28 GB
    )


COMMONART_ORIGINS: dict[str, Origin] = SHARED | {
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
