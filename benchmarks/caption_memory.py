"""Peak memory of the whole caption stage (driver, decoding tasks, captioners and Ray itself) at ten times the rows.

Drawn pictures of photograph size, so that their pixels weigh something, captioned through the command line; `memory.peak_mib` says what is counted.
"""

import json
import os
import tempfile
from pathlib import Path

from benchmarks.memory import peak_mib
from ccray import config, recipes
from ccray.stages import catalog
from ccray.storage import Root

ROWS = int(os.environ.get("CCRAY_MEMORY_ROWS", "1000"))
TIMES = 10
ROWS_PER_SHARD = 64
SIZE_PX = 256


def main() -> None:
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    with tempfile.TemporaryDirectory() as folder:
        small = peak_of(Path(folder) / "small", ROWS)
        large = peak_of(Path(folder) / "large", ROWS * TIMES)
    print(
        json.dumps(
            {
                "what": f"caption: peak memory at {TIMES} × the rows",
                "ours": f"{large:.0f} MiB at {ROWS * TIMES:,} rows",
                "other": f"{small:.0f} MiB at {ROWS:,} rows",
                "figure": f"{large / small:.3f}",
                "goal": "≤ 1.1",
                "how": f"drawn pictures of {SIZE_PX} px, tiny BLIP-2, {ROWS_PER_SHARD} rows a shard and a block, 2 actors; private memory of driver, workers and Ray's own processes, summed",
            }
        )
    )


def peak_of(folder: Path, rows: int) -> float:
    """Caption `rows` drawn pictures; the peak in MiB."""
    import ray

    words = [f"catalog.shapes.count={rows}", f"catalog.shapes.size_px={SIZE_PX}", f"catalog.rows_per_shard={ROWS_PER_SHARD}"]
    root = Root(str(folder / "root"))
    catalog.run(config.build(recipes.tiny(), words), root)
    ray.shutdown()
    return peak_mib(
        ["caption", "--recipe", "tiny", "--root", root.uri, *words, f"resources.caption.rows_per_block={ROWS_PER_SHARD}"], folder / f"{rows} rows"
    )


if __name__ == "__main__":
    main()
