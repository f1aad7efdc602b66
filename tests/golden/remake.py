"""Write `tiny_loss.txt` anew: `python -m tests.golden.remake`. Only when the losses are meant to change; say why in the commit."""

import tempfile
from pathlib import Path

from tests.golden.runs import FP64, KEPT, losses

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        found = losses(Path(folder), *FP64)
    KEPT.write_text("".join(f"{family} {step} {loss!r}\n" for family, values in found.items() for step, loss in enumerate(values, 1)))
