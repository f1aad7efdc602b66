"""The shapes world: a drawn world in which a picture and its caption can be checked against each other without a network."""

from pathlib import Path

# Folders vae, captioner, text and translator, each for its library's from_pretrained; `python -m ccray.shapes.teachers` remakes them.
WEIGHTS = Path(__file__).parent / "weights"
