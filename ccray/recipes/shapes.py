"""Small models on the drawn world: the whole corridor on two CPU cores, in minutes."""

from ccray.config import (
    ActorResources,
    CaptionConfig,
    CatalogConfig,
    DiTConfig,
    EncodeConfig,
    ObjectiveConfig,
    Recipe,
    Resources,
    TextConfig,
    TrainConfig,
    UNetConfig,
)


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
