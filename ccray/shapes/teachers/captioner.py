"""The captioner: a BLIP-2 of half a million weights that writes the one sentence of the grammar for a picture.

Same classes and same calls as the BLIP-2 that captions real photographs: vision transformer, Q-Former, OPT. Where that one
joins two frozen giants by training only the Q-Former, this one learns as a whole, from nothing.
Generate with `max_new_tokens` of at least 20: the longest caption has 19 words, then the end.
"""

import time
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

from ccray.shapes.teachers.lessons import batches, lesson_scenes, pixel_tensor, warm_cosine
from ccray.shapes.teachers.words import word_tokenizer
from ccray.shapes.world import Scene, caption

LESSONS = 24_000
STEPS = 6_000
BATCH_SIZE = 64
PEAK_LEARNING_RATE = 1.5e-3
SEED = 12
QUERIES = 8
# Queries, <bos>, 19 words, <eos>; the rest is room for a prompt.
LONGEST = 48
IGNORED = -100


def new_processor() -> Blip2Processor:
    """Pictures at 32 px to [-1, 1], by the image processor that needs no torchvision; text as <bos> and words."""
    images = BlipImageProcessorPil(size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return Blip2Processor(images, word_tokenizer("<bos> $A", LONGEST), num_query_tokens=QUERIES)


def new_captioner(tokenizer: PreTrainedTokenizerFast) -> Blip2ForConditionalGeneration:
    """The untrained network, for a processor's tokenizer (which knows <image>)."""
    ends = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    vision = Blip2VisionConfig(
        hidden_size=80, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4, image_size=32, patch_size=4
    )
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
    image_token = tokenizer.convert_tokens_to_ids("<image>")
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
    pictures = torch.full((len(scenes), QUERIES), tokenizer.convert_tokens_to_ids("<image>"))
    labels = texts.masked_fill((texts == tokenizer.pad_token_id) | (texts == tokenizer.bos_token_id), IGNORED)
    return torch.cat([pictures, texts], dim=1), torch.cat([torch.full_like(pictures, IGNORED), labels], dim=1)


def train_captioner(folder: Path) -> None:
    """Train from SEED and save the network and its processor to `folder`."""
    torch.manual_seed(SEED)
    processor = new_processor()
    captioner = new_captioner(processor.tokenizer)
    scenes = lesson_scenes(LESSONS)
    images = pixel_tensor(scenes)
    ids, labels = sentences(scenes, processor.tokenizer)
    optimizer = torch.optim.AdamW(captioner.parameters(), lr=PEAK_LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_cosine(step, STEPS, 200))
    began = time.monotonic()
    for step, batch in enumerate(batches(LESSONS, BATCH_SIZE, STEPS, SEED)):
        loss = captioner(pixel_values=images[batch], input_ids=ids[batch], labels=labels[batch]).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(captioner.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            print(f"captioner step {step} of {STEPS}: loss {loss.item():.4f}, {time.monotonic() - began:.0f} s", flush=True)
    captioner.save_pretrained(folder)
    processor.save_pretrained(folder)
