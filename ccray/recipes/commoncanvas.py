"""CommonCanvas as published (arXiv 2310.16825): 256 px, then 512 px, in one run.

Steps, batch, optimizer, average and sharding are those of the SD2 configurations that its authors say they copied. One thing differs: their second
phase warms its learning rate up anew, here the run goes on with its optimizer as it is.
"""

from ccray.config import (
    CaptionConfig,
    CatalogConfig,
    EncodeConfig,
    EvaluateConfig,
    ObjectiveConfig,
    PhaseConfig,
    PublishConfig,
    Recipe,
    TextConfig,
    TrainConfig,
    UNetConfig,
)
from ccray.recipes.origins import SHARED, Origin
from ccray.recipes.pools import gpu_resources

BLIP2 = "blip2-opt-2-7b"
COMMERCIAL_IMAGES, NONCOMMERCIAL_IMAGES = 26_232_417, 67_015_331  # table 4 of the paper

# What was published of the finished models: human preference over Stable Diffusion 2 (paper section 6.3, figure 12). Its other results are plots.
SCORES: dict[str, str] = {
    "commoncanvas-s-c": "preferred to Stable Diffusion 2 in 37 % of pairs (paper section 6.3)",
    "commoncanvas-s-nc": "preferred to Stable Diffusion 2 in 38 % of pairs (paper section 6.3)",
    "commoncanvas-l-nc": "no statistically significant difference to Stable Diffusion 2 in pairs (paper section 6.3)",
}


def _blip2() -> CaptionConfig:
    """The captioner of CommonCanvas (section 4.2 of its paper)."""
    return CaptionConfig(model="Salesforce/blip2-opt-2.7b", precision="fp16", crop_px=512, batch_size=64, max_new_tokens=32)


def commoncanvas_s_c() -> Recipe:
    """CommonCanvas-S-C: an SD2 UNet on BY and BY-SA images, captions by BLIP-2 OPT-2.7B (paper sections 4 to 6).

    550,000 steps of 256 px, then 850,000 of 512 px, the last 50,000 of them averaged: the paper's "final 3.5 %". Each of its means of going
    faster is one setting that can be turned off: `train.latents`, `train.fused_attention`, `train.low_precision_norms`, `train.micro_batch_size`,
    `resources.train.sharding`, `train.ema_steps`; of ours, `train.channels_last`, `train.compile`, `train.fused_optimizer`, `resources.text`.
    """
    return Recipe(
        name="commoncanvas-s-c",
        catalog=CatalogConfig(source="table:catalog.parquet", policy="commercial", rows_per_shard=8192, min_size_px=512),
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
            sample_size=64,
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
            ema_steps=0,
            phases={"512px": PhaseConfig(size_px=512, steps=850_000, ema_steps=50_000)},
            precision="bf16",
            low_precision_norms=True,
            channels_last=True,
            compile=True,
            deterministic=False,  # faster kernels; a resumed run is the same within rounding
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
        resources=gpu_resources(train_gpus=128, sharding="grad-op"),
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
                sample_size=64,
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


COMMONCANVAS_ORIGINS: dict[str, Origin] = SHARED | {
    "catalog.policy": "paper",
    "catalog.min_size_px": "inferred",  # the smallest folder of the released images is least_dim_range=512-768
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
    "train.ema_steps": "released-config",  # "the final 3.5 %" of the paper: ema_start 800,000 of the 512 px phase's 850,000
    "train.phases": "released-config",
    "train.betas": "inferred",  # torch's own, for the released files name none
    "train.adam_eps": "inferred",
    "train.clip_norm": "inferred",  # the released files clip nothing
    "train.latents": "paper",
    "train.fused_attention": "paper",
    "train.low_precision_norms": "paper",
    "train.checkpoint_every": "released-config",
    "evaluate.prompts": "paper",
    "evaluate.reference_images": "paper",
    "publish.model_license": "model-card",
    "publish.default_steps": "model-card",
    "resources.train.workers": "paper",
    "resources.train.sharding": "released-config",
}
COMMONCANVAS_L_ORIGINS: dict[str, Origin] = {
    "denoiser.cross_attention_dim": "paper",
    "encode.model": "released-config",
    "encode.subfolder": "ours",
}
