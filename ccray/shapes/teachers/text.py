"""The text encoder: CLIP's text tower over the words of the grammar.

    loss  =  CLIP's (captions against pictures)  +  at every token, what the caption has said so far (`slots.py`)

CLIP's loss reads only the end token, but a denoiser's cross-attention reads them all; the second loss makes each token carry the bound
attributes of the things named up to it. The picture tower and the heads are thrown away.
Captions are padded to MAX_TOKENS without an attention mask, as Stable Diffusion's pipeline feeds them.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoTokenizer, CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, PreTrainedTokenizerFast

from ccray.shapes.teachers.learning import Plan, learn
from ccray.shapes.teachers.lessons import exam_scenes, lesson_scenes, pixel_tensor
from ccray.shapes.teachers.slots import SLOT_SIZES, scene_slots, slot_loss, slots_said_so_far
from ccray.shapes.teachers.words import word_tokenizer
from ccray.shapes.world import Scene, caption

PLAN = Plan(name="text", lessons=24_000, steps=1_500, batch_size=128, peak_learning_rate=1e-3, seed=13)
WIDTH = 96
# The longest caption has 19 words; <bos> and <eos> make 21.
MAX_TOKENS = 24


def new_tokenizer() -> PreTrainedTokenizerFast:
    """<bos> words <eos>, padded with <pad>; the empty caption is <bos> <eos>."""
    return word_tokenizer("<bos> $A <eos>", MAX_TOKENS)


def new_clip(tokenizer: PreTrainedTokenizerFast) -> CLIPModel:
    """The untrained pair of towers."""
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        projection_dim=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=32,
        patch_size=4,
    )
    return CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=WIDTH))


def contrast(clip: CLIPModel, pooled: Tensor, images: Tensor, sentences: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy, where all pictures with one caption (equal rows of `sentences`) share the answer."""
    texts = F.normalize(clip.text_projection(pooled), dim=-1)
    pictures = F.normalize(clip.visual_projection(clip.vision_model(images).pooler_output), dim=-1)
    logits = clip.logit_scale.exp().clamp(max=100) * texts @ pictures.T
    same = (sentences[:, None] == sentences[None]).all(dim=-1).float()
    answer = same / same.sum(dim=-1, keepdim=True)
    return (F.cross_entropy(logits, answer) + F.cross_entropy(logits.T, answer)) / 2


def train_text(folder: Path, plan: Plan = PLAN) -> None:
    """Train from the plan's seed and save the text tower and its tokenizer to `folder`."""
    torch.manual_seed(plan.seed)
    tokenizer = new_tokenizer()
    clip, heads = new_clip(tokenizer), nn.Linear(WIDTH, sum(SLOT_SIZES))
    scenes = lesson_scenes(plan.lessons)
    images, slots = pixel_tensor(scenes), torch.from_numpy(np.stack([slots_said_so_far(scene, MAX_TOKENS) for scene in scenes]))
    ids = tokenizer([caption(scene) for scene in scenes], padding="max_length", return_tensors="pt").input_ids

    def loss_of(batch: Tensor) -> Tensor:
        output = clip.text_model(input_ids=ids[batch])
        contrasted = contrast(clip, output.pooler_output, images[batch], ids[batch])
        return contrasted + slot_loss(heads, output.last_hidden_state, slots[batch])

    learn(plan, [*clip.parameters(), *heads.parameters()], loss_of)
    clip.text_model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _one_hot(slots: Tensor) -> Tensor:
    """N S slots to N sum(SLOT_SIZES) float32."""
    return torch.cat([F.one_hot(slots[:, number], size).float() for number, size in enumerate(SLOT_SIZES)], dim=1)


@torch.no_grad()
def _end_states(folder: Path, scenes: list[Scene]) -> Tensor:
    """The saved encoder's state at the end token, with a constant appended: N WIDTH + 1."""
    tokenizer, encoder = AutoTokenizer.from_pretrained(folder), CLIPTextModel.from_pretrained(folder).eval()
    ids = tokenizer([caption(scene) for scene in scenes], padding="max_length", return_tensors="pt").input_ids
    states = encoder(input_ids=ids).pooler_output
    return torch.cat([states, torch.ones(len(scenes), 1)], dim=1)


def measure_text(folder: Path, exams: int) -> dict[str, float]:
    """Share of `exams` held-out captions of which a linear probe on the end token tells every attribute of every thing.

    The probe is a least-squares fit on 4,000 training captions, so it asks what a linear key or value of a cross-attention can see.
    """
    lessons, scenes = lesson_scenes(4_000), exam_scenes(exams)
    known = _one_hot(torch.from_numpy(np.stack([scene_slots(scene) for scene in lessons])))
    probe = torch.linalg.lstsq(_end_states(folder, lessons), known).solution
    answers = (_end_states(folder, scenes) @ probe).split(SLOT_SIZES, dim=1)
    told = torch.stack([answer.argmax(dim=1) for answer in answers], dim=1)
    right = told == torch.from_numpy(np.stack([scene_slots(scene) for scene in scenes]))
    return {"probe_slots": float(right.float().mean()), "probe_all": float(right.all(dim=1).float().mean())}
