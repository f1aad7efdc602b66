"""Peak memory of the whole catalog stage (driver, workers, decoders and Ray itself) at ten times the rows.

A folder of JPEGs of photograph size, all different, catalogued through the command line; the private memory (RssAnon) of the driver and of every
process below it is added up several times a second. Pages of Ray's object store are shared and bounded by its own setting, and are not counted.
"""

import io
import json
import os
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.memory import peak_mib

ROWS = int(os.environ.get("CCRAY_MEMORY_ROWS", "600"))
TIMES = 10
ROWS_PER_SHARD = 64  # so that the smaller run, too, has more shards than Ray has processes to seal them: it is rows that are compared, not processes
SIZE_PX = (640, 480)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        small = peak_of(Path(folder) / "small", ROWS)
        large = peak_of(Path(folder) / "large", ROWS * TIMES)
    print(
        json.dumps(
            {
                "what": f"catalog: peak memory at {TIMES} × the rows",
                "ours": f"{large:.0f} MiB at {ROWS * TIMES:,} rows",
                "other": f"{small:.0f} MiB at {ROWS:,} rows",
                "figure": f"{large / small:.3f}",
                "goal": "≤ 1.1",
                "how": f"folder of {SIZE_PX[0]}x{SIZE_PX[1]} JPEGs, {ROWS_PER_SHARD} rows a shard, near-duplicate search on, 2 actors; private memory of driver, workers, decoders and Ray's own processes, summed",
            }
        )
    )


def peak_of(folder: Path, rows: int) -> float:
    """Catalogue `rows` new pictures; the peak in MiB."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    for number in range(rows):
        (pictures / f"{number:06d}.jpg").write_bytes(picture(number))
    words = ["catalog", "--recipe", "tiny", "--root", str(folder / "root"), "--source", f"folder:{pictures}", "--license", "CC0-1.0"]
    words += ["resources.catalog.min_actors=2", f"catalog.rows_per_shard={ROWS_PER_SHARD}"]
    return peak_mib(words, folder / f"{rows} rows")


def picture(number: int) -> bytes:
    """A smooth random picture as a JPEG: a coarse grid of colours, enlarged."""
    coarse = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize(SIZE_PX, Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    return stream.getvalue()


if __name__ == "__main__":
    main()
