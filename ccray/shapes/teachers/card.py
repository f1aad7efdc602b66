"""The card beside each teacher's weights: what it is, its licence, how it was made and what was measured."""

import datetime
from pathlib import Path

import diffusers
import torch
import transformers

_CARD = """---
license: cc0-1.0
---

# The shapes world's {name}

{what}

Made by `python -m ccray.shapes.teachers --only {name}` on {date}, with torch {torch}, diffusers {diffusers} and transformers {transformers}.
The seeds are fixed; another version or another number of threads gives other last digits, not another teacher.

Trained on {learns_from} by `ccray/shapes/world.py`, and on nothing else: {lessons:,} training scenes, of seeds that no catalog uses.
Pictures, captions and these weights are CC0 1.0.

| measured on {exams:,} held-out scenes | |
|---|---|
{rows}
"""


def write_card(folder: Path, name: str, what: str, learns_from: str, lessons: int, exams: int, figures: dict[str, float]) -> None:
    """Write README.md into `folder`."""
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    rows = [f"| {figure} | {value:.4g} |" for figure, value in figures.items()]
    text = _CARD.format(
        name=name,
        what=what,
        learns_from=learns_from,
        date=datetime.date.today().isoformat(),
        torch=torch.__version__.split("+")[0],
        diffusers=diffusers.__version__,
        transformers=transformers.__version__,
        lessons=lessons,
        exams=exams,
        rows="\n".join([*rows, f"| bytes of weights | {size:,} |"]),
    )
    (folder / "README.md").write_text(text)
