"""The captioner: a BLIP-2 of half a million weights that writes the one sentence of the grammar for a picture.

Same classes and same calls as the BLIP-2 that captions real photographs: vision transformer, Q-Former, OPT. Where that one
joins two frozen giants by training only the Q-Former, this one learns as a whole, from nothing.
Generate with `max_new_tokens` of at least 20: the longest caption has 19 words, then the end.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from ccray.shapes.teachers.learning import Plan, learn
from ccray.shapes.teachers.lessons import exam_scenes, lesson_scenes, pixel_tensor
from ccray.shapes.teachers.words import word_tokenizer
from ccray.shapes.world import Pixels, Scene, caption, draw

PLAN = Plan(name="captioner", lessons=24_000, steps=3_000, batch_size=64, peak_learning_rate=1.5e-3, seed=12)
QUERIES = 8
# Queries, <bos>, 19 words, <eos>; the rest is room for a prompt.
LONGEST = 48
MAX_NEW_TOKENS = 24
IGNORED = -100


def new_processor() -> Blip2Processor:
    """Pictures at 32 px to [-1, 1], by the image processor that needs no torchvision; text as <bos> and words."""
    images = BlipImageProcessorPil(size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return Blip2Processor(images, word_tokenizer("<bos> $A", LONGEST), num_query_tokens=QUERIES)


def new_captioner(tokenizer: PreTrainedTokenizerFast) -> Blip2ForConditionalGeneration:
    """The untrained network, for a processor's tokenizer (which knows <image>)."""
    ends = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    vision = Blip2VisionConfig(hidden_size=80, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4, image_size=32, patch_size=4)
    qformer = Blip2QFormerConfig(
        vocab_size=len(tokenizer),
        hidden_size=80,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LONGEST,
        cross_attention_frequency=1,
        encoder_hidden_size=80,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id,
    )
    language = OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=80,
        word_embed_proj_dim=80,
        ffn_dim=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LONGEST,
        dropout=0.0,
        **ends,
    )
    image_token = tokenizer.get_vocab()["<image>"]
    config = Blip2Config(
        vision_config=vision,
        qformer_config=qformer,
        text_config=language,
        num_query_tokens=QUERIES,
        image_token_index=image_token,
        image_text_hidden_size=80,
    )
    return Blip2ForConditionalGeneration(config)


def sentences(scenes: list[Scene], tokenizer: PreTrainedTokenizerFast) -> tuple[Tensor, Tensor]:
    """Token ids, `<image>` x QUERIES, <bos>, words, <eos>, <pad>, and labels that ignore all but words and <eos>: N L int64 each."""
    texts = tokenizer([caption(scene) + tokenizer.eos_token for scene in scenes], padding=True, return_tensors="pt").input_ids
    pictures = torch.full((len(scenes), QUERIES), tokenizer.get_vocab()["<image>"])
    labels = texts.masked_fill((texts == tokenizer.pad_token_id) | (texts == tokenizer.bos_token_id), IGNORED)
    return torch.cat([pictures, texts], dim=1), torch.cat([torch.full_like(pictures, IGNORED), labels], dim=1)


def train_captioner(folder: Path, plan: Plan = PLAN) -> None:
    """Train from the plan's seed and save the network and its processor to `folder`."""
    torch.manual_seed(plan.seed)
    processor = new_processor()
    captioner = new_captioner(processor.tokenizer)
    scenes = lesson_scenes(plan.lessons)
    images = pixel_tensor(scenes)
    ids, labels = sentences(scenes, processor.tokenizer)

    def loss_of(batch: Tensor) -> Tensor:
        return captioner(pixel_values=images[batch], input_ids=ids[batch], labels=labels[batch]).loss

    learn(plan, list(captioner.parameters()), loss_of)
    captioner.save_pretrained(folder)
    processor.save_pretrained(folder)


@torch.no_grad()
def telephone(folder: Path, pictures: Sequence[Pixels], batch_size: int = 256) -> list[str]:
    """Captions of `pictures` (H W 3 uint8 each) by the saved captioner, greedily, through nothing but transformers' own calls."""
    processor = Blip2Processor.from_pretrained(folder)
    captioner = Blip2ForConditionalGeneration.from_pretrained(folder).eval()
    texts: list[str] = []
    for start in range(0, len(pictures), batch_size):
        inputs = processor(images=list(pictures[start : start + batch_size]), return_tensors="pt")
        tokens = captioner.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        texts += processor.batch_decode(tokens, skip_special_tokens=True)
    return texts


def measure_captioner(folder: Path, exams: int) -> dict[str, float]:
    """Share of `exams` held-out pictures whose caption is right to the letter, and pictures captioned a second on this machine."""
    scenes = exam_scenes(exams)
    pictures = [draw(scene) for scene in scenes]
    began = time.monotonic()
    texts = telephone(folder, pictures)
    seconds = time.monotonic() - began
    right = sum(text == caption(scene) for text, scene in zip(texts, scenes, strict=True))
    return {"exact_match": right / exams, "pictures_per_second": exams / seconds}
