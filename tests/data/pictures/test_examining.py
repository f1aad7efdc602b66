"""Examining files of strangers: what is stored, what a hostile file can do, and that neither process suffers from it."""

import contextlib
import io
import json
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ccray.config import CatalogConfig
from ccray.data.pictures.examining import Examiner, _environment
from ccray.data.pictures.images import Limits, Unusable
from ccray.data.pictures.sandbox import ANSWER, REQUEST, SPARE, Examined, Settings, examine
from ccray.interfaces import Failed
from ccray.schema import Reject

CONFIG = CatalogConfig(max_pixels=20_000_000, max_bytes=20_000_000)
CHILD_RSS_BYTES = 400 * 2**20  # of 20 million pixels, whatever a file claims
LANCZOS = Image.Resampling.LANCZOS


@pytest.fixture(scope="module")
def examiner() -> Iterator[Examiner]:
    with Examiner(CONFIG) as examiner:
        yield examiner


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def smooth(width: int = 600, height: int = 400, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (10, 15, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def peak_rss_bytes(pid: int | str) -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found.group(1)) * 1024


def child_of(examiner: Examiner) -> int:
    assert isinstance(examiner.examine(encoded(smooth())), Examined)
    assert examiner._child is not None
    return examiner._child.process.pid


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(((one.astype(float) - other) ** 2).mean(), 1e-9)))


def test_originals_are_kept_byte_for_byte(examiner: Examiner) -> None:
    for kind in ("JPEG", "PNG", "TIFF"):
        data = encoded(smooth(), kind)
        examined = examiner.examine(data)
        assert isinstance(examined, Examined)
        assert examined.image is data
        assert (examined.format, examined.width, examined.height) == (kind, 600, 400)
        assert examined == examine(data, Limits(), None)


def turned(image: Image.Image, **options: object) -> bytes:
    exif = Image.Exif()
    exif[274] = 6
    return encoded(image.transpose(Image.Transpose.ROTATE_90), exif=exif.tobytes(), **options)


@pytest.mark.parametrize("side_px", [512, 200, 77])
def test_reduced_pictures_are_upright_and_bounded(side_px: int) -> None:
    for data in (turned(smooth(1601, 1067), quality=95), encoded(smooth(1601, 1067), "PNG")):
        examined = examine(data, Limits(), side_px)
        assert isinstance(examined, Examined)
        assert (examined.width, examined.height) == (1601, 1067)
        stored = Image.open(io.BytesIO(examined.image))
        assert stored.size == (side_px, round(1067 * side_px / 1601))
        assert (stored.format, "exif" in stored.info, "icc_profile" in stored.info) == ("JPEG", False, False)
        exact = smooth(1601, 1067).resize(stored.size, LANCZOS)
        assert psnr(np.asarray(stored.convert("L")), np.asarray(exact.convert("L"))) > 35  # 4:2:0 costs such loud colours more
        assert examine(data, Limits(), side_px) == examined


def test_reducing_while_decoding_costs_no_quality(shared_data: Path) -> None:
    """At the smallest factor at which a JPEG is decoded at a half, against a full decode: what JPEG 95 itself loses is as much."""
    losses = []
    for file in sorted((shared_data / "coco_cc_photos" / "images" / "free").glob("*.jpg"))[:12]:
        photo = Image.open(file).convert("RGB")
        photo = photo.resize((photo.width * 2, photo.height * 2), LANCZOS)
        data = encoded(photo, quality=95)
        side = int(max(photo.size) / 2 / SPARE)
        examined = examine(data, Limits(), side)
        assert isinstance(examined, Examined)
        stored = Image.open(io.BytesIO(examined.image))
        exact = Image.open(io.BytesIO(data)).resize(stored.size, LANCZOS)
        plain = np.asarray(Image.open(io.BytesIO(encoded(exact, quality=95))))
        losses.append(psnr(plain, np.asarray(exact)) - psnr(np.asarray(stored), np.asarray(exact)))
    assert max(losses) < 3, losses


def test_what_is_small_enough_stays_as_received() -> None:
    data = encoded(smooth(300, 200), "PNG")
    examined = examine(data, Limits(), 300)
    assert isinstance(examined, Examined)
    assert examined.image is data
    for other in (encoded(smooth(300, 200), "TIFF"), turned(smooth(300, 200))):
        examined = examine(other, Limits(), 300)
        assert isinstance(examined, Examined)
        assert Image.open(io.BytesIO(examined.image)).format == "JPEG"
        assert Image.open(io.BytesIO(examined.image)).size == (300, 200)
        assert (examined.width, examined.height) == (300, 200)


def test_the_hash_is_of_the_upright_picture() -> None:
    upright, on_its_side = examine(encoded(smooth()), Limits(), None), examine(turned(smooth()), Limits(), None)
    assert isinstance(upright, Examined)
    assert isinstance(on_its_side, Examined)
    assert upright.phash is not None
    assert on_its_side.phash is not None
    assert (upright.phash ^ on_its_side.phash).bit_count() <= 2


def test_the_settings_reach_the_process() -> None:
    with Examiner(CatalogConfig(store="max_side_px:100", min_size_px=50, max_aspect=3)) as examiner:
        examined = examiner.examine(encoded(smooth()))
        assert isinstance(examined, Examined)
        assert Image.open(io.BytesIO(examined.image)).size == (100, 67)
        outcomes = [examiner.examine(encoded(smooth(*size))) for size in ((100, 49), (301, 100))]
    assert [outcome.reason for outcome in outcomes if isinstance(outcome, Unusable)] == ["too_small", "bad_aspect"]


def slow() -> bytes:
    """A PNG of 19 million pixels in a few kilobytes."""
    return encoded(Image.new("RGB", (4750, 4000)), "PNG")


def test_who_is_late_is_ended_and_replaced() -> None:
    config = CONFIG.model_copy(update={"max_decode_seconds": 0.02})
    with Examiner(config) as examiner:
        late = examiner.examine(slow())
        assert late == Unusable(Reject.UNDECODABLE, "took more than 0.02 s")
    with Examiner(CONFIG) as examiner:
        before = child_of(examiner)
        os.kill(before, signal.SIGSTOP)
        examiner._config = config  # the process hangs; nobody waits longer than that
        start = time.monotonic()
        outcome = examiner.examine(b"x" * 15_000_000)  # more than a pipe holds
        assert time.monotonic() - start < 5
        assert outcome == Unusable(Reject.UNDECODABLE, "took more than 0.02 s")
        examiner._config = CONFIG
        assert child_of(examiner) != before


def kill(pid: int, number: signal.Signals) -> None:
    """A stopped process takes what ends it when it goes on."""
    os.kill(pid, number)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_decoder_that_dies_costs_one_picture(number: signal.Signals) -> None:
    with Examiner(CONFIG) as examiner:
        pid = child_of(examiner)
        os.kill(pid, signal.SIGSTOP)  # so that it dies with a question before it
        timer = threading.Timer(0.2, kill, (pid, number))
        timer.start()
        outcome = examiner.examine(encoded(smooth()))
        timer.join()
        assert outcome == Unusable(Reject.UNDECODABLE, f"the decoder died of {number.name}")
        assert isinstance(examiner.examine(encoded(smooth())), Examined)


def test_a_process_that_died_idle_costs_nothing() -> None:
    with Examiner(CONFIG) as examiner:
        pid = child_of(examiner)
        os.kill(pid, signal.SIGKILL)
        assert examiner._child is not None
        examiner._child.process.wait()
        assert child_of(examiner) != pid


def test_a_process_that_does_not_start_is_a_failure_not_a_verdict(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no such library >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with Examiner(CONFIG) as examiner, pytest.raises(Failed, match="did not start: no such library"):
        examiner.examine(encoded(smooth()))


def test_threads_take_turns(examiner: Examiner) -> None:
    pictures = [encoded(smooth(seed=seed)) for seed in range(8)]
    wanted = [examiner.examine(data) for data in pictures]
    found: dict[int, object] = {}
    threads = [threading.Thread(target=lambda n=n: found.update({n: examiner.examine(pictures[n])})) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[n] for n in range(8)] == wanted


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_process_holds_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with Examiner(CONFIG) as examiner, open("/dev/null", "rb") as handle:
        os.set_inheritable(handle.fileno(), True)
        pid = child_of(examiner)
        assert b"secret" not in Path(f"/proc/{pid}/environ").read_bytes()
        targets = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
        assert all(target.startswith(("pipe:", "/dev/null", "/tmp", "/var/tmp")) for target in targets), targets
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert re.search(r"Max core file size\s+0\s", limits)
        assert re.search(r"Max file size\s+0\s", limits)
        assert re.search(r"Max address space\s+\d+\s", limits)
        libraries = Path(f"/proc/{pid}/maps").read_text()
        assert not re.search("libarrow|pydantic|torch", libraries)


@pytest.mark.parametrize("thread", [False, True])
def test_the_process_dies_with_its_parent(thread: bool) -> None:
    """Killed outright, from the main thread or from another one that has ended."""
    program = f"""
import os, signal, threading
from ccray.config import CatalogConfig
from ccray.data.pictures.examining import Examiner, _environment
examiner = Examiner(CatalogConfig())
def start():
    examiner.examine(b"x")
if {thread}:
    worker = threading.Thread(target=start); worker.start(); worker.join()
    pid = examiner._child.process.pid
    examiner.examine(b"x")
    assert examiner._child.process.pid == pid
else:
    start()
print(examiner._child.process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid = int(done.stdout)
    until = time.monotonic() + 10
    while time.monotonic() < until and running(pid):
        threading.Event().wait(0.02)
    assert not running(pid)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep no RLIMIT_AS")
def test_memory_is_bounded() -> None:
    """With room for less than this picture the process refuses it, and goes on."""
    settings = Settings(Limits(), None, [], 30.0, 0)
    program = "from ccray.data.pictures import sandbox\nsandbox.BASE_BYTES, sandbox.BYTES_PER_PIXEL = -80 * 2**20, 0\nsandbox.main()"
    large, small = encoded(Image.new("RGB", (9000, 9000)), "PNG"), encoded(smooth())
    questions = b"".join(REQUEST.pack(len(data)) + data for data in (large, small))
    done = subprocess.run([sys.executable, "-c", program, settings.text()], input=questions, capture_output=True, check=True, env=_environment())
    first = ANSWER.unpack_from(done.stdout, 1)[0]
    answers = [done.stdout[1 + ANSWER.size :][:first], done.stdout[1 + 2 * ANSWER.size + first :]]
    refused, taken = (json.loads(answer) for answer in answers)
    assert refused == {"reason": "undecodable", "detail": "needs more memory than a decoder is given"}
    assert (taken["format"], taken["width"]) == ("JPEG", 600)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, *extra: bytes, rows: bytes = b"\0" * 5000) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff_of_directories(count: int, loop: bool) -> bytes:
    """A chain of directories, each flagged as a reduced copy of the page before, whose last one leads back to the first."""
    size = 2 + 12 * 4 + 4
    directory = struct.pack("<HHHIIHHIIHHIIHHII", 4, 254, 4, 1, 1, 256, 4, 1, 64, 257, 4, 1, 64, 273, 4, 1, 8)
    links = [8 + size * (place + 1) for place in range(count)]
    links[-1] = 8 if loop else 0
    return b"II*\0\x08\0\0\0" + b"".join(directory + struct.pack("<I", link) for link in links)


def gif(width: int, height: int) -> bytes:
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", width, height, 0x80, 0, 0)
        + b"\0" * 6
        + b","
        + struct.pack("<HHHHB", 0, 0, width, height, 0)
        + b"\x02\x02L\x01\0;"
    )


def patched(data: bytes, place: int, value: bytes) -> bytes:
    return data[:place] + value + data[place + len(value) :]


def frame_header(data: bytes, width: int, height: int) -> bytes:
    """A JPEG whose frame header says another size."""
    place = data.index(b"\xff\xc0") + 5
    return patched(data, place, struct.pack(">HH", height, width))


def jpeg2000_bomb() -> bytes:
    data = encoded(smooth(64, 64), "JPEG2000", no_jp2=True)
    return patched(data, data.index(b"\xff\x51") + 6, struct.pack(">II", 60000, 60000))


def webp_bomb() -> bytes:
    data = encoded(smooth(64, 64), "WEBP", lossless=True)
    return patched(data, data.index(b"VP8L") + 9, b"\xff\xff\xff\x0f")


Make = Callable[[], bytes]
BIG_TEXT = zlib.compress(b"a" * 80_000_000)
HOSTILE: dict[str, tuple[Make, set[str]]] = {
    "PNG of 60000x60000": (lambda: png(60000, 60000), {"too_many_pixels"}),
    "PNG of 2^31-1": (lambda: png(2**31 - 1, 2**31 - 1), {"too_many_pixels"}),
    "PNG of a tall line": (lambda: png(1, 2**31 - 1), {"too_many_pixels"}),
    "PNG whose data unpack to much more": (lambda: png(64, 64, rows=b"\0" * 100_000_000), {"accepted", "undecodable"}),
    "PNG with 80 MB of text": (lambda: png(64, 64, chunk(b"zTXt", b"a\0\0" + BIG_TEXT), rows=b"\0" * 64 * 193), {"accepted", "undecodable"}),
    "PNG with an 80 MB profile": (lambda: png(64, 64, chunk(b"iCCP", b"a\0\0" + BIG_TEXT), rows=b"\0" * 64 * 193), {"accepted", "undecodable"}),
    "PNG with 3000 texts": (lambda: png(64, 64, *[chunk(b"zTXt", b"a\0\0" + zlib.compress(b"a" * 1_000_000))] * 3000), {"undecodable"}),
    "GIF of 65535x65535": (lambda: gif(65535, 65535), {"too_many_pixels"}),
    "WebP of 16384x16384": (webp_bomb, {"too_many_pixels"}),
    "JPEG 2000 of 60000x60000": (jpeg2000_bomb, {"too_many_pixels"}),
    "JPEG of 65500x65500": (lambda: frame_header(encoded(smooth(64, 64)), 65500, 65500), {"too_many_pixels"}),
    "JPEG of 65500x1": (lambda: encoded(Image.new("RGB", (65500, 1))), {"too_small"}),
    "JPEG larger than its data": (lambda: frame_header(encoded(smooth(64, 64)), 4000, 4000), {"accepted", "truncated", "undecodable"}),
    "JPEG with a billion scans": (lambda: encoded(smooth(900, 900), progressive=True)[:-2] * 3, {"accepted", "truncated", "undecodable"}),
    "TIFF directories in a loop": (lambda: tiff_of_directories(40, loop=True), {"accepted", "undecodable", "animated"}),
    "TIFF of 100000 directories": (lambda: tiff_of_directories(100_000, loop=False), {"animated", "undecodable"}),
    "TIFF of 100000 directories in a loop": (lambda: tiff_of_directories(100_000, loop=True), {"animated", "undecodable"}),
    "SVG": (lambda: b'<svg xmlns="http://www.w3.org/2000/svg" width="99999" height="99999"/>', {"undecodable"}),
    "PDF": (lambda: encoded(smooth(), "PDF"), {"undecodable"}),
    "EPS": (lambda: encoded(smooth(), "EPS"), {"undecodable"}),
    "WMF": (
        lambda: b"\xd7\xcd\xc6\x9a\0\0" + struct.pack("<hhhhHIH", 0, 0, 999, 999, 96, 0, 0) + b"\x01\0\x09\0\0\x03" + b"\0" * 60,
        {"undecodable"},
    ),
    "PSD of 30000x30000": (lambda: b"8BPS\0\x01" + b"\0" * 6 + struct.pack(">HIIHH", 3, 30000, 30000, 8, 3) + b"\0" * 40, {"too_many_pixels"}),
    "PSD without pixels": (lambda: b"8BPS\0\x01" + b"\0" * 6 + struct.pack(">HIIHH", 3, 300, 300, 8, 3) + b"\0" * 14, {"truncated", "undecodable"}),
    "HTML": (lambda: b"<!doctype html><html><body>404</body></html>", {"undecodable"}),
    "nothing": (lambda: b"", {"undecodable"}),
    "one byte": (lambda: b"\xff", {"undecodable"}),
    "20 MB of zeros": (lambda: b"\0" * 20_000_000, {"undecodable"}),
    "too many bytes": (lambda: b"\0" * 20_000_001, {"too_many_bytes"}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_end_as_a_reason(examiner: Examiner, name: str) -> None:
    make, allowed = HOSTILE[name]
    start = time.monotonic()
    outcome = examiner.examine(make())
    assert time.monotonic() - start < 20
    assert outcome_of(outcome) in allowed, outcome
    if sys.platform == "linux":
        assert peak_rss_bytes(child_of(examiner)) < CHILD_RSS_BYTES


def outcome_of(outcome: Examined | Unusable) -> str:
    return "accepted" if isinstance(outcome, Examined) else Reject(outcome.reason).value


def cut(data: bytes, draw: np.random.Generator) -> bytes:
    return data[: int(draw.integers(0, len(data)))]


def flipped(data: bytes, draw: np.random.Generator) -> bytes:
    damaged = bytearray(data)
    for place in draw.integers(0, len(data), int(draw.integers(1, 12))):
        damaged[place] ^= 1 << int(draw.integers(0, 8))
    return bytes(damaged)


def spliced(data: bytes, draw: np.random.Generator) -> bytes:
    """The beginning of one file and the end of another picture's, or of its own."""
    one, other = draw.integers(0, len(data), 2)
    return data[:one] + data[other:]


def lying(data: bytes, draw: np.random.Generator) -> bytes:
    """Some of the first 200 bytes, where headers stand, set to extremes."""
    damaged = bytearray(data)
    for place in draw.integers(4, min(200, len(data)), 4):
        damaged[place] = int(draw.choice([0, 1, 127, 128, 255]))
    return bytes(damaged)


def repeated(data: bytes, draw: np.random.Generator) -> bytes:
    start, end = sorted(draw.integers(0, len(data), 2))
    return data[:end] + data[start:end] * int(draw.integers(1, 4)) + data[end:]


def rewritten_chunk(data: bytes, draw: np.random.Generator) -> bytes:
    """Four letters in a row renamed, which is how chunks and boxes are named; elsewhere, noise."""
    names = [found.start() for found in re.finditer(rb"[A-Za-z]{4}", data[:400])]
    place = int(draw.choice(names)) if names else int(draw.integers(0, len(data)))
    return patched(data, place - 4 if draw.integers(2) and place >= 4 else place, draw.bytes(4))


MUTATIONS = (cut, flipped, spliced, lying, repeated, rewritten_chunk)
KINDS = ("JPEG", "JPEG", "JPEG", "PNG", "WEBP", "GIF", "TIFF", "AVIF", "JPEG2000", "progressive", "CMYK", "MPO", "BMP")


def small_photos(folder: Path, side_px: int) -> list[bytes]:
    """Real photos, reduced, in every format that strangers send."""
    photos = []
    for place, file in enumerate(sorted((folder / "coco_cc_photos" / "images").glob("*/*.jpg"))[::4]):
        image = Image.open(file).convert("RGB")
        image.thumbnail((side_px, side_px))
        kind = KINDS[place % len(KINDS)]
        if kind == "progressive":
            photos.append(encoded(image, progressive=True))
        elif kind == "CMYK":
            photos.append(encoded(image.convert("CMYK")))
        else:
            photos.append(encoded(image, kind))
    return photos


def test_two_thousand_damaged_photos(examiner: Examiner, shared_data: Path) -> None:
    draw = np.random.default_rng(20)
    photos = small_photos(shared_data, 320)
    pid, before = child_of(examiner), peak_rss_bytes("self") if sys.platform == "linux" else 0
    counts: dict[str, int] = {}
    for number in range(2000):
        data = photos[number % len(photos)]
        for _ in range(int(draw.integers(1, 3))):
            data = MUTATIONS[int(draw.integers(len(MUTATIONS)))](data, draw) or b"\0"
        word = outcome_of(examiner.examine(data))
        counts[word] = counts.get(word, 0) + 1
    assert sum(counts.values()) == 2000
    assert counts["accepted"] > 100, counts
    assert counts["undecodable"] > 100, counts
    assert counts["truncated"] > 100, counts
    assert child_of(examiner) == pid  # no file ended the process
    if sys.platform == "linux":
        assert peak_rss_bytes(pid) < CHILD_RSS_BYTES
        assert peak_rss_bytes("self") - before < 100 * 2**20


def test_pillows_own_broken_pictures(examiner: Examiner, shared_data: Path) -> None:
    """Through the process as without it."""
    folder = shared_data / "broken_images"
    limits = Limits(CONFIG.min_size_px, CONFIG.max_pixels, CONFIG.max_bytes)
    for line in (folder / "outcomes.jsonl").read_text().splitlines():
        data = (folder / json.loads(line)["file"]).read_bytes()
        outcome = examiner.examine(data)
        assert outcome == examine(data, limits, None), line
    if sys.platform == "linux":
        assert peak_rss_bytes(child_of(examiner)) < CHILD_RSS_BYTES
