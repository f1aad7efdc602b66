"""Peak private memory of a command and all processes below it."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

EVERY_SECONDS = 0.25


def peak_mib(words: Sequence[str], log: Path) -> float:
    """Run `python -m ccray WORDS`; the largest sum of private memory (RssAnon) seen, in MiB, of the driver and every process below it.

    Pages of Ray's object store are shared and bounded by its own setting, and are not counted.
    """
    began = time.monotonic()
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "ccray", *words], stdout=stream, stderr=stream, env=os.environ | {"RAY_AUTH_MODE": "disabled"}
        )
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, private_mib(process.pid))
            time.sleep(EVERY_SECONDS)
    assert process.returncode == 0, log.read_text()[-3000:]
    print(f"{log.name}: {peak:.0f} MiB, {time.monotonic() - began:.0f} s", file=sys.stderr)
    return peak


def private_mib(pid: int) -> float:
    """RssAnon of a process and all below it."""
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    total = 0
    for process in processes:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))
    return total / 1024
