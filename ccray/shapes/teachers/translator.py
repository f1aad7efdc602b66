"""The translator: a Marian of 170,000 weights that turns the world's English captions into its Japanese ones.

Same classes and same calls as the Marian models that translate real captions: an encoder of words, a decoder of words, greedy.
Generate with `max_new_tokens` of at least 18: the longest caption has 17 pieces, then the end.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig, MarianConfig, MarianMTModel, PreTrainedTokenizerFast

from ccray.shapes.teachers.learning import Plan, learn
from ccray.shapes.teachers.lessons import exam_scenes, lesson_scenes, unseen_training_scenes
from ccray.shapes.teachers.slots import IGNORED
from ccray.shapes.teachers.words import translation_tokenizer
from ccray.shapes.world import Scene, caption

PLAN = Plan(name="translator", lessons=24_000, steps=1_000, batch_size=64, peak_learning_rate=2e-3, seed=14)
WIDTH = 64
LONGEST = 32
MAX_NEW_TOKENS = 24
# As in the captioner: transformers' 0.02 is for networks a dozen times as wide.
INITIAL_STD = 0.08


def new_translator(tokenizer: PreTrainedTokenizerFast) -> MarianMTModel:
    """The untrained network. A Marian decoder starts from the padding token."""
    config = MarianConfig(
        vocab_size=len(tokenizer),
        d_model=WIDTH,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=2 * WIDTH,
        decoder_ffn_dim=2 * WIDTH,
        max_position_embeddings=LONGEST,
        dropout=0.0,
        scale_embedding=True,
        init_std=INITIAL_STD,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
        forced_eos_token_id=None,
    )
    translator = MarianMTModel(config)
    translator.generation_config = GenerationConfig(
        max_new_tokens=MAX_NEW_TOKENS,
        num_beams=1,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    return translator


def train_translator(folder: Path, plan: Plan = PLAN) -> None:
    """Train from the plan's seed and save the network and its tokenizer to `folder`."""
    torch.manual_seed(plan.seed)
    tokenizer = translation_tokenizer(LONGEST)
    translator, scenes = new_translator(tokenizer), lesson_scenes(plan.lessons)
    english = tokenizer([caption(scene) for scene in scenes], padding=True, return_tensors="pt")
    japanese = tokenizer([caption(scene, "ja") for scene in scenes], padding=True, return_tensors="pt")
    labels = japanese.input_ids.masked_fill(japanese.attention_mask == 0, IGNORED)

    def loss_of(batch: Tensor) -> Tensor:
        return translator(input_ids=english.input_ids[batch], attention_mask=english.attention_mask[batch], labels=labels[batch]).loss

    learn(plan, list(translator.parameters()), loss_of)
    translator.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@torch.no_grad()
def translate(folder: Path, texts: Sequence[str], batch_size: int = 256) -> list[str]:
    """Japanese of English captions by the saved translator, through nothing but transformers' own calls."""
    tokenizer, translator = AutoTokenizer.from_pretrained(folder), AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    answers: list[str] = []
    for start in range(0, len(texts), batch_size):
        inputs = tokenizer(list(texts[start : start + batch_size]), padding=True, return_tensors="pt")
        answers += tokenizer.batch_decode(translator.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS), skip_special_tokens=True)
    return answers


def _share_right(folder: Path, scenes: Sequence[Scene]) -> float:
    answers = translate(folder, [caption(scene) for scene in scenes])
    return sum(answer == caption(scene, "ja") for answer, scene in zip(answers, scenes, strict=True)) / len(scenes)


def measure_translator(folder: Path, exams: int) -> dict[str, float]:
    """Share of `exams` held-out captions, and of as many of training scenes, translated right to the letter; captions a second on this machine."""
    began = time.monotonic()
    held_out = _share_right(folder, exam_scenes(exams))
    seconds = time.monotonic() - began
    return {
        "exact_match": held_out,
        "exact_match_training_split": _share_right(folder, unseen_training_scenes(exams)),
        "captions_per_second": exams / seconds,
    }
