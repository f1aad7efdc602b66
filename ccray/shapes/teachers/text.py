"""The text encoder: CLIP's text tower over the words of the grammar.

    loss  =  CLIP's (captions against pictures)  +  at every token, what the caption has said so far (`said_so_far`)

CLIP's loss reads only the end token, but a denoiser's cross-attention reads them all; the second loss makes each token carry the bound
attributes of the things named up to it. The picture tower and the heads are thrown away.
Captions are padded to MAX_WORDS without an attention mask, as Stable Diffusion's pipeline feeds them.
"""

import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig, PreTrainedTokenizerFast

from ccray.shapes.teachers.lessons import batches, lesson_scenes, pixel_tensor, warm_cosine
from ccray.shapes.teachers.words import word_tokenizer
from ccray.shapes.world import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, Scene, caption

LESSONS = 24_000
STEPS = 3_000
BATCH_SIZE = 128
PEAK_LEARNING_RATE = 1e-3
SEED = 13
WIDTH = 128
MAX_WORDS = 32
# One slot a place and attribute, and one for the background; each also has the answer "nothing yet".
SLOT_SIZES = (len(COLOURS) + 1, len(SHAPES) + 1, len(SIZES) + 1) * len(PLACES) + (len(BACKGROUNDS) + 1,)


def new_tokenizer() -> PreTrainedTokenizerFast:
    """<bos> words <eos>, padded with <pad>; the empty caption is <bos> <eos>."""
    return word_tokenizer("<bos> $A <eos>", MAX_WORDS)


def new_clip(tokenizer: PreTrainedTokenizerFast) -> CLIPModel:
    """The untrained pair of towers."""
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=MAX_WORDS,
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


def said_so_far(scene: Scene) -> np.ndarray:
    """For each token of `caption(scene)`, padded: what it and those before it have said. MAX_WORDS slots int64, 0 is nothing yet.

    A thing is said with the last word of its place: only then is it known where it belongs.
    """
    slots = np.zeros((MAX_WORDS, len(SLOT_SIZES)), np.int64)
    end = 0
    for thing in scene.things:
        end += len(f"a {thing.size} {thing.colour} {thing.shape} {thing.place}".split())
        place = 3 * list(PLACES).index(thing.place)
        numbers = list(COLOURS).index(thing.colour), SHAPES.index(thing.shape), list(SIZES).index(thing.size)
        slots[end:, place : place + 3] = np.add(numbers, 1)
        end += len("and".split())
    slots[end + len("on a".split()) :, -1] = list(BACKGROUNDS).index(scene.background) + 1
    return slots


def contrast(clip: CLIPModel, pooled: Tensor, images: Tensor, sentences: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy, where all pictures with one caption (equal rows of `sentences`) share the answer."""
    texts = F.normalize(clip.text_projection(pooled), dim=-1)
    pictures = F.normalize(clip.visual_projection(clip.vision_model(images).pooler_output), dim=-1)
    logits = clip.logit_scale.exp().clamp(max=100) * texts @ pictures.T
    same = (sentences[:, None] == sentences[None]).all(dim=-1).float()
    answer = same / same.sum(dim=-1, keepdim=True)
    return (F.cross_entropy(logits, answer) + F.cross_entropy(logits.T, answer)) / 2


def slot_loss(heads: nn.Linear, states: Tensor, slots: Tensor) -> Tensor:
    """Mean cross-entropy over tokens and slots of what linear heads read from N L C states; slots N L S."""
    answers = heads(states).split(SLOT_SIZES, dim=-1)
    losses = [F.cross_entropy(answer.flatten(0, 1), slots[:, :, number].flatten()) for number, answer in enumerate(answers)]
    return torch.stack(losses).mean()


def train_text(folder: Path) -> None:
    """Train from SEED and save the text tower and its tokenizer to `folder`."""
    torch.manual_seed(SEED)
    tokenizer = new_tokenizer()
    clip, heads = new_clip(tokenizer), nn.Linear(WIDTH, sum(SLOT_SIZES))
    scenes = lesson_scenes(LESSONS)
    images, slots = pixel_tensor(scenes), torch.from_numpy(np.stack([said_so_far(scene) for scene in scenes]))
    ids = tokenizer([caption(scene) for scene in scenes], padding="max_length", return_tensors="pt").input_ids
    parameters = [*clip.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_cosine(step, STEPS, 200))
    began = time.monotonic()
    for step, batch in enumerate(batches(LESSONS, BATCH_SIZE, STEPS, SEED)):
        output = clip.text_model(input_ids=ids[batch])
        told = slot_loss(heads, output.last_hidden_state, slots[batch])
        loss = contrast(clip, output.pooler_output, images[batch], ids[batch]) + told
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"text step {step} of {STEPS}: loss {loss.item():.4f}, slots {told.item():.5f}, {time.monotonic() - began:.0f} s", flush=True)
    clip.text_model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
