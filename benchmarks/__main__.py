"""Run the benchmarks one after another and print a Markdown table; `--save` also keeps it under benchmarks/results/.

python -m benchmarks [NAME ...] [--save [LABEL]]
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path

FOLDER = Path(__file__).parent
# Name -> the program and its arguments. `caption_full_size` needs a CUDA device and is run by itself.
PROGRAMS: dict[str, tuple[str, ...]] = {
    "caption_pipeline": ("caption_pipeline",),
    "caption_pipeline_drawings": ("caption_pipeline", "--case", "drawings"),
    "caption_memory": ("caption_memory",),
    "training_ladder": ("training_ladder",),
    "ema_cost": ("ema_cost",),
    "training_memory": ("training_memory",),
    "served_request": ("served_request",),
    "fetch_images": ("fetch_images",),
    "catalog_memory": ("catalog_memory",),
    "duplicates": ("duplicates",),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *PROGRAMS], metavar="NAME", help=f"any of {', '.join(PROGRAMS)}; all by default")
    parser.add_argument("--save", nargs="?", const="", metavar="LABEL", help="keep the table as benchmarks/results/<date>[-LABEL].md")
    arguments = parser.parse_args()
    at_hand = [name for name in PROGRAMS if name != "fetch_images" or "CCRAY_PEER" in os.environ]  # it needs its peer
    rows = [measure(name) for name in arguments.names or at_hand]
    text = table(rows)
    print(text)
    if arguments.save is not None:
        label = f"-{arguments.save}" if arguments.save else ""
        place = FOLDER / "results" / f"{date.today().isoformat()}{label}.md"
        place.parent.mkdir(exist_ok=True)
        place.write_text(text)
    return 0


def measure(name: str) -> dict[str, str]:
    """One program in a process of its own; its last line of standard output."""
    print(f"measuring {name} ...", file=sys.stderr, flush=True)
    program, *words = PROGRAMS[name]
    answer = subprocess.run([sys.executable, "-m", f"benchmarks.{program}", *words], stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, str] = json.loads(answer.stdout.splitlines()[-1])
    return result


def table(rows: list[dict[str, str]]) -> str:
    """A dated Markdown table with the machine and the versions."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "ray", "diffusers", "transformers", "pyarrow"))
    lines = [
        f"# Benchmarks of {date.today().isoformat()}",
        "",
        f"Machine: {os.cpu_count()} cores, {_processor()}, no GPU. Python {platform.python_version()}, {versions}.",
        "",
        "| what | our side | the other side | figure | goal | how |",
        "|---|---|---|---|---|---|",
    ]
    lines += [f"| {row['what']} | {row['ours']} | {row['other']} | {row['figure']} | {row['goal']} | {row['how']} |" for row in rows]
    return "\n".join(lines) + "\n"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"


if __name__ == "__main__":
    sys.exit(main())
