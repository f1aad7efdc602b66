"""Builders of tiny model folders with random weights, exactly as stock diffusers and transformers write them: no hub, no ccray.

The tokenizer is byte-level with no merges, so any script survives it. All folders speak of 32 px pictures and 8 x 8 x 4 latents.
"""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SchedulerMixin,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    CLIPTextConfig,
    CLIPTextModel,
    LlamaConfig,
    LlamaModel,
    OPTConfig,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

CARD = "---\nlicense: apache-2.0\n---\n\nRandom weights, made by a test.\n"
SIZE_PX = 32
TEXT_WIDTH = 32
QUERIES = 4
PAD, BOS, UNK, EOS = "<pad>", "<bos>", "<unk>", "<eos>"


def carded(path: Path) -> Path:
    """The folder, with a card that states a licence: without one it could not be used under a commercial policy."""
    (Path(path) / "README.md").write_text(CARD)
    return Path(path)


def byte_tokenizer(template: str = f"{BOS} $A {EOS}", max_length: int = 77) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of 260 tokens; `template` says where the special tokens go."""
    vocabulary = {token: number for number, token in enumerate((PAD, BOS, UNK, EOS, *sorted(pre_tokenizers.ByteLevel.alphabet())))}
    backend = Tokenizer(models.BPE(vocabulary, merges=[], unk_token=UNK))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    used = [(token, vocabulary[token]) for token in template.split() if token in vocabulary]
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=used)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=max_length, pad_token=PAD, bos_token=BOS, unk_token=UNK, eos_token=EOS, padding_side="right"
    )


def clip_text(seed: int = 0, max_length: int = 77) -> CLIPTextModel:
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=260,
        hidden_size=TEXT_WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=max_length,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=3,
    )
    return CLIPTextModel(config).eval()


def t5_text(seed: int = 0) -> T5EncoderModel:
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=260, d_model=TEXT_WIDTH, d_kv=8, d_ff=64, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu", pad_token_id=0, eos_token_id=3
    )
    return T5EncoderModel(config).eval()


def llama_text(seed: int = 0) -> LlamaModel:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=260,
        hidden_size=TEXT_WIDTH,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=3,
    )
    return LlamaModel(config).eval()


def vae(seed: int = 0, scaling_factor: float = 0.18215, shift_factor: float | None = None) -> AutoencoderKL:
    """4 pixels a latent, 4 channels."""
    torch.manual_seed(seed)
    return AutoencoderKL(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=SIZE_PX,
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
    ).eval()


def unet(seed: int = 0) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    ).eval()


def pixart(seed: int = 0, out_channels: int = 8) -> PixArtTransformer2DModel:
    torch.manual_seed(seed)
    return PixArtTransformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=out_channels,
        num_layers=2,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        caption_channels=TEXT_WIDTH,
        patch_size=2,
        interpolation_scale=1.0,
        use_additional_conditions=False,
    ).eval()


def stable_diffusion_folder(path: Path, scheduler: SchedulerMixin | None = None, seed: int = 0) -> Path:
    """A folder of the StableDiffusionPipeline class: CLIP text, UNet; DDIM with SD's betas unless another scheduler is given."""
    scheduler = scheduler or DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )
    pipeline = StableDiffusionPipeline(
        vae=vae(seed + 1),
        text_encoder=clip_text(seed + 2),
        tokenizer=byte_tokenizer(),
        unet=unet(seed + 3),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(path)
    return carded(path)


def pixart_folder(path: Path, scheduler: SchedulerMixin | None = None, seed: int = 0, out_channels: int = 8) -> Path:
    """A folder of the PixArtSigmaPipeline class: T5 text, transformer with learned sigma; DPM-Solver++ unless another scheduler is given."""
    scheduler = scheduler or DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear")
    pipeline = PixArtSigmaPipeline(
        tokenizer=byte_tokenizer(f"$A {EOS}", max_length=512),
        text_encoder=t5_text(seed + 2),
        vae=vae(seed + 1, scaling_factor=0.13025),
        transformer=pixart(seed + 3, out_channels),
        scheduler=scheduler,
    )
    pipeline.save_pretrained(path)
    return carded(path)


def vae_folder(path: Path, seed: int = 0) -> Path:
    vae(seed).save_pretrained(path)
    return carded(path)


def text_folder(path: Path, kind: str = "clip", seed: int = 0, max_length: int = 77) -> Path:
    """A text encoder ("clip", "t5", "llama") and its tokenizer in one folder."""
    model = clip_text(seed, max_length) if kind == "clip" else {"t5": t5_text, "llama": llama_text}[kind](seed)
    model.save_pretrained(path)
    template = {"clip": f"{BOS} $A {EOS}", "t5": f"$A {EOS}", "llama": f"{BOS} $A"}[kind]
    byte_tokenizer(template, max_length).save_pretrained(path)
    return carded(path)


def blip2_folder(path: Path, seed: int = 0) -> Path:
    """A Blip2ForConditionalGeneration on 32 px pictures with an OPT decoder, and its processor."""
    processor = Blip2Processor(
        BlipImageProcessorPil(size={"height": SIZE_PX, "width": SIZE_PX}, image_mean=[0.5] * 3, image_std=[0.5] * 3),
        byte_tokenizer(f"{BOS} $A", max_length=64),
        num_query_tokens=QUERIES,
    )
    tokens = len(processor.tokenizer)
    torch.manual_seed(seed)
    config = Blip2Config(
        vision_config=Blip2VisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=SIZE_PX, patch_size=8
        ),
        qformer_config=Blip2QFormerConfig(
            vocab_size=tokens,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
            cross_attention_frequency=1,
            encoder_hidden_size=32,
            initializer_range=0.3,
            pad_token_id=0,
        ),
        text_config=OPTConfig(
            vocab_size=tokens,
            hidden_size=32,
            word_embed_proj_dim=32,
            ffn_dim=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=128,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=3,
            init_std=0.3,
        ),
        num_query_tokens=QUERIES,
        image_token_index=processor.tokenizer.convert_tokens_to_ids("<image>"),
        image_text_hidden_size=32,
    )
    model = Blip2ForConditionalGeneration(config)
    for name, parameter in model.named_parameters():  # the usual small start would caption every picture alike
        if parameter.ndim > 1 and not name.startswith("language_model"):
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return carded(path)


def settings(path: Path, kind: str = "unet", text: str = "clip") -> list[str]:
    """Override words that turn recipe `tiny` (kind "unet") or `tiny-dit` ("pixart") into an even smaller one on folders made here."""
    vae_folder(path / "vae", seed=1)
    text_folder(path / "text", text, seed=2, max_length=24)
    words = [f"encode.model={path / 'vae'}", f"text.model={path / 'text'}", "text.max_tokens=24", f"text.width={TEXT_WIDTH}"]
    if kind == "unet":
        return [*words, f"denoiser.cross_attention_dim={TEXT_WIDTH}", "denoiser.block_out_channels=[16, 32]", "denoiser.norm_num_groups=8"]
    sizes = {"num_layers": 2, "attention_head_dim": 8, "cross_attention_dim": 32, "caption_channels": TEXT_WIDTH}
    return [*words, *(f"denoiser.{key}={value}" for key, value in sizes.items())]


def shake(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Small random numbers on every weight, biases too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return module


CLASSIFIER_PX = 32


def classifier_folder(path: Path, labels: tuple[str, ...], seed: int = 0, **settings: object) -> str:
    """A ViTForImageClassification with its processor, as a filter of the catalog takes it."""
    torch.manual_seed(seed)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=CLASSIFIER_PX,
        patch_size=8,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        initializer_range=0.5,
        **settings,
    )
    ViTForImageClassification(config).save_pretrained(path)
    ViTImageProcessorPil(size={"height": CLASSIFIER_PX, "width": CLASSIFIER_PX}).save_pretrained(path)
    return str(carded(path))


def blip2_t5_folder(path: Path, seed: int = 0) -> Path:
    """As `blip2_folder`, with a FLAN-T5 decoder and encoder behind the queries."""
    from transformers import T5Config as Config

    folder = blip2_folder(path, seed)
    config = Blip2Config.from_pretrained(folder)
    tokens = config.text_config.vocab_size
    processor = Blip2Processor.from_pretrained(folder)
    processor.tokenizer = byte_tokenizer(f"$A {EOS}", max_length=64)
    processor.tokenizer.add_tokens([processor.image_token], special_tokens=True)
    text = Config(
        vocab_size=tokens,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=3,
        decoder_start_token_id=0,
    )
    torch.manual_seed(seed)
    model = Blip2ForConditionalGeneration(
        Blip2Config(
            vision_config=config.vision_config,
            qformer_config=config.qformer_config,
            text_config=text,
            num_query_tokens=QUERIES,
            image_token_index=config.image_token_index,
            image_text_hidden_size=32,
        )
    )
    for parameter in model.parameters():  # the usual small start would caption every picture alike
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.4)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return carded(path)


def florence2_folder(path: Path, seed: int = 0) -> Path:
    """A Florence2ForConditionalGeneration on 32 px pictures: DaViT eyes, a BART mouth, and the decoding habits of the published one."""
    from transformers import BartConfig, Florence2Config, Florence2ForConditionalGeneration, Florence2Processor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.florence2.configuration_florence2 import Florence2VisionConfig

    special = ("<s>", PAD, "</s>", "<unk>", "<image>")
    vocabulary = {token: number for number, token in enumerate((*special, *sorted(pre_tokenizers.ByteLevel.alphabet())))}
    backend = Tokenizer(models.BPE(vocabulary, merges=[], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        pad_token=PAD,
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )
    side = SIZE_PX // 8  # of the grid that the eyes see
    pictures = CLIPImageProcessorPil(
        size={"height": SIZE_PX, "width": SIZE_PX},
        do_center_crop=False,
        crop_size={"height": SIZE_PX, "width": SIZE_PX},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
        image_seq_length=side * side + 1,
    )
    torch.manual_seed(seed)
    config = Florence2Config(
        vision_config=Florence2VisionConfig(
            depths=(1, 1),
            patch_size=(7, 3),
            patch_stride=(4, 2),
            patch_padding=(3, 1),
            patch_prenorm=(False, True),
            embed_dim=(16, 32),
            num_heads=(2, 4),
            num_groups=(2, 4),
            window_size=4,
            projection_dim=32,
        ),
        text_config=BartConfig(
            vocab_size=len(vocabulary),
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            max_position_embeddings=128,
            bos_token_id=0,
            pad_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=2,
        ),
        image_token_id=vocabulary["<image>"],
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
    )
    model = Florence2ForConditionalGeneration(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.4)
    habits = {"num_beams": 3, "early_stopping": True, "no_repeat_ngram_size": 3, "forced_bos_token_id": 0, "forced_eos_token_id": 2}
    model.generation_config.update(bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2, **habits)
    model.save_pretrained(path)
    Florence2Processor(pictures, tokenizer, post_processor_config={"pure_text": {}}).save_pretrained(path)
    return carded(path)
