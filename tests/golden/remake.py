"""Write `tiny_loss.txt` anew: `python -m tests.golden.remake`. Only when the losses are meant to change; say why in the commit."""

import tempfile
from pathlib import Path

from tests.golden.runs import FP64, KEPT, RUNS, losses

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        found = {name: losses(Path(folder) / name, name, *FP64) for name in RUNS}
    KEPT.write_text("".join(f"{name} {step} {loss!r}\n" for name, values in found.items() for step, loss in enumerate(values, 1)))
