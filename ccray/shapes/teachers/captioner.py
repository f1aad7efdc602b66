"""The captioner: a BLIP-2 of half a million weights that writes the one sentence of the grammar for a picture.

Same classes and same calls as the BLIP-2 that captions real photographs: vision transformer, Q-Former, OPT. Where that one
joins two frozen giants by training only the Q-Former, this one learns as a whole, from nothing.
Generate with `max_new_tokens` of at least 20: the longest caption has 19 words, then the end.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
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
from ccray.shapes.teachers.lessons import exam_scenes, lesson_scenes, pixel_tensor, repainted
from ccray.shapes.teachers.slots import IGNORED, SLOT_SIZES, scene_slots, slot_loss, without_colour_slots
from ccray.shapes.teachers.words import BOS, EOS, PAD, UNK, word_tokenizer
from ccray.shapes.world import COLOURS, Pixels, caption, draw

PLAN = Plan(name="captioner", lessons=48_000, steps=3_000, batch_size=64, peak_learning_rate=1.5e-3, seed=12)
WIDTH = 80
PATCHES = 64
QUERIES = 8
# Queries, <bos>, 19 words, <eos>; the rest is room for a prompt.
LONGEST = 48
MAX_NEW_TOKENS = 24
# transformers starts the vision tower at 1e-10 and the rest at 0.02; a tower 80 wide that starts from nothing needs about 1 / sqrt(width).
INITIAL_STD = 0.08


def new_processor() -> Blip2Processor:
    """Pictures at 32 px to [-1, 1], by the image processor that needs no torchvision; text as <bos> and words."""
    images = BlipImageProcessorPil(size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return Blip2Processor(images, word_tokenizer("<bos> $A", LONGEST), num_query_tokens=QUERIES)


def new_captioner(tokenizer: PreTrainedTokenizerFast) -> Blip2ForConditionalGeneration:
    """The untrained network, for a processor's tokenizer (which knows <image>)."""
    ends = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    vision = Blip2VisionConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=32,
        patch_size=4,
        initializer_range=INITIAL_STD,
    )
    qformer = Blip2QFormerConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LONGEST,
        cross_attention_frequency=1,
        encoder_hidden_size=WIDTH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=INITIAL_STD,
        pad_token_id=tokenizer.pad_token_id,
    )
    language = OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        word_embed_proj_dim=WIDTH,
        ffn_dim=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LONGEST,
        dropout=0.0,
        init_std=INITIAL_STD,
        **ends,
    )
    image_token = tokenizer.get_vocab()["<image>"]
    config = Blip2Config(
        vision_config=vision,
        qformer_config=qformer,
        text_config=language,
        num_query_tokens=QUERIES,
        image_token_index=image_token,
        image_text_hidden_size=WIDTH,
    )
    captioner = Blip2ForConditionalGeneration(config)
    _wake(captioner)
    return captioner


@torch.no_grad()
def _wake(captioner: Blip2ForConditionalGeneration) -> None:
    """Set apart what transformers starts at zero, because it expects to load it: positions of patches, and queries."""
    captioner.vision_model.embeddings.position_embedding.normal_(std=0.5)
    captioner.query_tokens.normal_(std=0.5)


def without_colours(sentence: str) -> str:
    """The sentence of a repainted scene: <unk> for every colour of a thing."""
    return " ".join(UNK if word in COLOURS else word for word in sentence.split())


def token_rows(texts: list[str], tokenizer: PreTrainedTokenizerFast) -> tuple[Tensor, Tensor]:
    """Token ids, `<image>` x QUERIES, <bos>, words, <eos>, <pad>, and labels that ignore all but known words and <eos>: N L int64 each."""
    ids = tokenizer([text + EOS for text in texts], padding=True, return_tensors="pt").input_ids
    images = torch.full((len(texts), QUERIES), tokenizer.get_vocab()["<image>"])
    silent = torch.tensor(tokenizer.convert_tokens_to_ids([PAD, BOS, UNK]))
    labels = ids.masked_fill(torch.isin(ids, silent), IGNORED)
    return torch.cat([images, ids], dim=1), torch.cat([torch.full_like(images, IGNORED), labels], dim=1)


def _lessons(plan: Plan, tokenizer: PreTrainedTokenizerFast) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pictures, token ids, labels and slots, half of them repainted.

    From named colours alone it is cheaper to learn which combinations never occur than to look at the shape: captions of held-out
    pictures then name some combination that training did show. Colours without a name teach shape apart from colour.
    """
    scenes = lesson_scenes(plan.lessons // 2)
    texts = [caption(scene) for scene in scenes]
    slots = np.stack([scene_slots(scene) for scene in scenes])
    images = pixel_tensor([*scenes, *repainted(scenes, plan.seed)])
    ids, labels = token_rows([*texts, *map(without_colours, texts)], tokenizer)
    return images, ids, labels, torch.from_numpy(np.concatenate([slots, without_colour_slots(slots)]))


def train_captioner(folder: Path, plan: Plan = PLAN) -> None:
    """Train from the plan's seed and save the network and its processor to `folder`.

    Heads on the vision tower's patches name the slots of the scene: left to the caption's loss alone, the tower takes thousands of
    steps to notice where anything is.
    """
    torch.manual_seed(plan.seed)
    processor = new_processor()
    captioner = new_captioner(processor.tokenizer)
    images, ids, labels, slots = _lessons(plan, processor.tokenizer)
    heads = nn.Linear(PATCHES * WIDTH, sum(SLOT_SIZES))

    def loss_of(batch: Tensor) -> Tensor:
        output = captioner(pixel_values=images[batch], input_ids=ids[batch], labels=labels[batch])
        patches = output.vision_outputs.last_hidden_state[:, 1:].flatten(1)
        return output.loss + slot_loss(heads, patches, slots[batch])

    learn(plan, [*captioner.parameters(), *heads.parameters()], loss_of)
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
