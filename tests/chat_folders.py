"""Builders of tiny chat models that look at pictures, random weights, laid out as on the hub: safetensors, processor settings, chat template."""

import gzip
import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GenerationConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen3Config,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SiglipVisionConfig,
)

from tests.folders import BOS, EOS, PAD, byte_tokenizer, carded

QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN_TEMPLATE = (
    f"{BOS}{{% for message in messages %}}{{{{ message.role }}}}: {{% for part in message.content %}}{{% if part.type == 'image' %}}IMAGE"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
QWEN_TOKENS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


def qwen_tokenizer(shared_data: Path) -> PreTrainedTokenizerFast:
    """Qwen3's own tokenizer, of which a copy lies with the shared data."""
    folder = shared_data / "weights/tokenizers"
    settings = json.loads((folder / "qwen3_tokenizer_config.json").read_text())
    backend = Tokenizer.from_str(gzip.decompress((folder / "qwen3_tokenizer.json.gz").read_bytes()).decode())
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=settings["eos_token"], pad_token=settings["pad_token"])


def _with(tokens: tuple[str, ...]) -> PreTrainedTokenizerFast:
    tokenizer = byte_tokenizer("$A", max_length=4096)
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
    return tokenizer


def _save(
    path: Path,
    model: Any,
    tokenizer: Any,
    settings: dict[str, Any],
    template: str | None,
    end: str,
    embedding_std: float = 0.3,
    **names: dict[str, Any],
) -> Path:
    for name, parameter in model.named_parameters():  # the usual small start would caption every picture alike
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=embedding_std if "embed_tokens" in name or "lm_head" in name else 0.2)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.convert_tokens_to_ids(end), pad_token_id=tokenizer.pad_token_id, do_sample=True, temperature=0.7, top_p=0.8, top_k=20
    )
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    for name, values in {"preprocessor_config": settings, **names}.items():
        (Path(path) / f"{name}.json").write_text(json.dumps(values))
    if template is not None:
        (Path(path) / "chat_template.jinja").write_text(template)
    return carded(path)


def _qwen_parts(tokenizer: Any) -> dict[str, Any]:
    ids = dict(zip(QWEN_TOKENS, tokenizer.convert_tokens_to_ids(list(QWEN_TOKENS)), strict=True))
    return {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }


def _qwen_settings(processor: str, patch_px: int) -> dict[str, Any]:
    return {
        "size": {"shortest_edge": 32 * 32, "longest_edge": 96 * 96},
        "patch_size": patch_px,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "processor_class": processor,
    }


def qwen3_vl_folder(path: Path, tokenizer: Any = None, template: str | None = QWEN_TEMPLATE, seed: int = 0) -> Path:
    """Qwen3-VL: pictures of any size, of up to 96 x 96 px, 32 px a token; features of the tower's layers enter the decoder's."""
    tokenizer = tokenizer or _with(QWEN_TOKENS)
    torch.manual_seed(seed)
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 16, "out_hidden_size": 32}
    config = Qwen3VLConfig(
        text_config={**TEXT, "vocab_size": len(tokenizer), "rope_parameters": rope, "max_position_embeddings": 512},
        vision_config={**vision, "num_position_embeddings": 64, "deepstack_visual_indexes": [0]},
        **_qwen_parts(tokenizer),
    )
    model = Qwen3VLForConditionalGeneration(config)
    videos = {"video_processor_type": "Qwen3VLVideoProcessor"}
    settings = _qwen_settings("Qwen3VLProcessor", 16)
    return _save(path, model, tokenizer, settings, template, "<|im_end|>", video_preprocessor_config=videos)


def qwen2_5_vl_folder(path: Path, template: str | None = QWEN_TEMPLATE, seed: int = 0) -> Path:
    """Qwen2.5-VL: as above at 28 px a token, a tower with windowed attention."""
    tokenizer = _with(QWEN_TOKENS)
    torch.manual_seed(seed)
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 14, "out_hidden_size": 32}
    text = {name: value for name, value in TEXT.items() if name != "head_dim"}
    config = Qwen2_5_VLConfig(
        text_config={
            **text,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 512,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
        },
        vision_config={**vision, "window_size": 56, "fullatt_block_indexes": [1]},
        **_qwen_parts(tokenizer),
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    return _save(path, model, tokenizer, _qwen_settings("Qwen2_5_VLProcessor", 14), template, "<|im_end|>")


def idefics3_folder(path: Path, seed: int = 0) -> Path:
    """Idefics3, as SmolVLM: pictures are split into tiles of 32 px, 4 tokens each, and a small one of the whole."""
    rows = tuple(f"<row_{row + 1}_col_{column + 1}>" for row in range(6) for column in range(6))
    tokenizer = _with(("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *rows))
    torch.manual_seed(seed)
    text = {**TEXT, "model_type": "llama", "vocab_size": len(tokenizer), "pad_token_id": 0, "max_position_embeddings": 512}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32, "patch_size": 8}
    config = Idefics3Config(
        vision_config=vision,
        text_config=text,
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=0,
    )
    settings = {
        "image_processor_type": "Idefics3ImageProcessor",
        "size": {"longest_edge": 96},
        "max_image_size": {"longest_edge": 32},
        "do_image_splitting": True,
        "processor_class": "Idefics3Processor",
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    return _save(
        path,
        Idefics3ForConditionalGeneration(config),
        tokenizer,
        settings,
        PLAIN_TEMPLATE.replace("IMAGE", "<image>"),
        "<end_of_utterance>",
        processor_config={"processor_class": "Idefics3Processor", "image_seq_len": 4},
    )


def llava_folder(path: Path, seed: int = 0) -> Path:
    """LLaVA 1.5: every picture a square of 32 px, 16 tokens."""
    tokenizer = _with(("<image>",))
    torch.manual_seed(seed)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8),
        text_config=LlamaConfig(**TEXT, vocab_size=len(tokenizer), pad_token_id=0, max_position_embeddings=512),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
        vision_feature_layer=-1,
    )
    settings = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 32},
        "crop_size": {"height": 32, "width": 32},
        "processor_class": "LlavaProcessor",
    }
    own = {"processor_class": "LlavaProcessor", "patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    template = PLAIN_TEMPLATE.replace("IMAGE", "<image>")
    return _save(path, LlavaForConditionalGeneration(config), tokenizer, settings, template, EOS, processor_config=own)


def gemma3_folder(path: Path, seed: int = 0) -> Path:
    """Gemma 3: 32 px, 4 tokens; tokens of a picture see one another both ways, other layers a sliding window."""
    tokenizer = _with(("<start_of_image>", "<image_soft_token>", "<end_of_image>", "<end_of_turn>"))
    named = {"boi_token": "<start_of_image>", "image_token": "<image_soft_token>", "eoi_token": "<end_of_image>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS, extra_special_tokens=named
    )
    torch.manual_seed(seed)
    vision = SiglipVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8)
    config = Gemma3Config(
        vision_config=vision,
        text_config=Gemma3TextConfig(
            **TEXT,
            vocab_size=len(tokenizer),
            pad_token_id=0,
            sliding_window=16,
            layer_types=["sliding_attention", "full_attention"],
            max_position_embeddings=512,
        ),
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
        image_token_index=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
    )
    settings = {"image_processor_type": "Gemma3ImageProcessor", "size": {"height": 32, "width": 32}, "processor_class": "Gemma3Processor"}
    own = {"processor_class": "Gemma3Processor", "image_seq_length": 4}
    template = PLAIN_TEMPLATE.replace("IMAGE", "<start_of_image>")
    return _save(path, Gemma3ForConditionalGeneration(config), tokenizer, settings, template, "<end_of_turn>", 0.1, processor_config=own)


def words_model(path: Path, pairs: dict[str, str], steps: int, languages: tuple[str, ...] = ()) -> Path:
    """A Marian (M2M100 where there are `languages`) that was taught by heart to turn each key into its value; each value begins with its language."""
    tokenizer = _with(languages) if languages else byte_tokenizer(f"$A {EOS}")
    tokenizer.backend_tokenizer.post_processor = byte_tokenizer(f"$A {EOS}").backend_tokenizer.post_processor
    torch.manual_seed(0)
    sizes = {"d_model": 64, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 128, "dropout": 0.0, "vocab_size": len(tokenizer)}
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 3, "decoder_start_token_id": 0, "forced_eos_token_id": 3}
    model: Any = (
        M2M100ForConditionalGeneration(M2M100Config(**sizes, **heads, **ends, encoder_layerdrop=0.0, decoder_layerdrop=0.0))
        if languages
        else MarianMTModel(MarianConfig(**sizes, **heads, **ends))
    )
    read = tokenizer(list(pairs), padding=True, return_tensors="pt")
    said = tokenizer(list(pairs.values()), padding=True, return_tensors="pt")["input_ids"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(steps):
        model(**read, labels=said.masked_fill(said == 0, -100)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return carded(path)


def causal_folder(path: Path, kind: Any = Qwen3Config, tokenizer: Any = None, template: str | None = QWEN_TEMPLATE, seed: int = 0) -> Path:
    """A chat model without eyes, Qwen2 or Qwen3."""
    tokenizer = tokenizer or _with(QWEN_TOKENS)
    torch.manual_seed(seed)
    text = {**TEXT, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "max_position_embeddings": 512}
    if kind is Qwen2Config:
        del text["head_dim"]
    return _save(path, AutoModelForCausalLM.from_config(kind(**text)), tokenizer, {}, template, "<|im_end|>")
