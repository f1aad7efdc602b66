"""`python -m ccray.shapes.teachers [--only vae|captioner|text|translator] [--out DIR] [--measure]`: make the teachers, measure them, write their cards."""

import argparse
import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

from ccray.shapes import WEIGHTS
from ccray.shapes.teachers import captioner, text, translator, vae
from ccray.shapes.teachers.card import write_card
from ccray.shapes.teachers.learning import Plan

EXAMS = 1_000


@dataclasses.dataclass(frozen=True)
class Teacher:
    """One line of the table below."""

    what: str
    plan: Plan
    train: Callable[[Path, Plan], None]
    measure: Callable[[Path, int], dict[str, float]]
    learns_from: str = "pictures drawn"


TEACHERS = {
    "vae": Teacher("A diffusers `AutoencoderKL`: 32 px RGB to 8 x 8 latents of 4 channels.", vae.PLAN, vae.train_vae, vae.measure_vae),
    "captioner": Teacher(
        "A transformers `Blip2ForConditionalGeneration` with its `Blip2Processor`: a picture to the one sentence of the grammar.",
        captioner.PLAN,
        captioner.train_captioner,
        captioner.measure_captioner,
    ),
    "text": Teacher(
        "A transformers `CLIPTextModel` and its word-level tokenizer: 24 tokens, 96 wide.", text.PLAN, text.train_text, text.measure_text
    ),
    "translator": Teacher(
        "A transformers `MarianMTModel` and its tokenizer of words: the world's English captions to its Japanese ones.",
        translator.PLAN,
        translator.train_translator,
        translator.measure_translator,
        "pairs of captions written",
    ),
}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m ccray.shapes.teachers", description="Make the shapes world's pretrained parts.")
    parser.add_argument("--only", choices=TEACHERS, help="one of them (default: all)")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="where their folders go (default: the shipped ones)")
    parser.add_argument("--measure", action="store_true", help="measure what is there, train nothing")
    return parser.parse_args()


def main() -> None:
    """Train, save, measure, print and write down."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    chosen = arguments()
    for name in [chosen.only] if chosen.only else TEACHERS:
        teacher, folder = TEACHERS[name], chosen.out / name
        if not chosen.measure:
            teacher.train(folder, teacher.plan)
        figures = teacher.measure(folder, EXAMS)
        write_card(folder, name, teacher.what, teacher.learns_from, teacher.plan.lessons, EXAMS, figures)
        print(name, *(f"{figure} {value:.4g}" for figure, value in figures.items()), sep="  ", flush=True)


if __name__ == "__main__":
    main()
