"""The process in which strangers' files are decoded, and what it does with one file.

Decoders are native code; here a file can at worst end this process, which owns nothing: no sockets, no credentials in its environment, no files
it may write, and a bounded memory. `Examiner` starts it as `python -m ccray.data.pictures.sandbox SETTINGS`, sends one picture after the other and
ends it when it is late. It imports Pillow and numpy alone, so that a new one is there at once.

On its pipes: a request is 8 bytes of length (big-endian) and the file; an answer is two such lengths, a JSON object and the bytes to store.
"""

import ctypes
import io
import json
import os
import resource
import signal
import struct
import sys
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, BinaryIO

from PIL import AvifImagePlugin, Image

from ccray.data.fetching.opt_outs import in_file
from ccray.data.pictures.hashing import SIDE_PX, phash, thumbnail
from ccray.data.pictures.images import Decoded, Enough, Limits, Unusable, decode_image
from ccray.rejects import Reject

if TYPE_CHECKING:
    from ccray.config import OptOut

REQUEST = struct.Struct(">Q")
ANSWER = struct.Struct(">QQ")
READY = b"\x06"  # the first byte of the process

AS_RECEIVED = {"JPEG", "PNG", "WEBP"}  # formats whose bytes are stored as they are when they need no reduction
JPEG_QUALITY = 95
# A JPEG is decoded at a half or less only when that leaves this many pixels for each one of the reduced picture: 42 dB from a full decode.
SPARE = 1.5
REDUCING_GAP = (
    1.0  # whole pixels are averaged first, to less than twice the size, then Lanczos: as close to Lanczos alone as an area filter, in half the time
)
HASH_ENOUGH_PX = 6 * SIDE_PX  # shorter side that suffices for the hash: at most 2 bits from a full decode
# The largest way from a file to pixels holds five copies of four bytes a pixel (decoder, picture, profile, alpha, over white).
BYTES_PER_PIXEL = 20
BASE_BYTES = 512 * 2**20  # the interpreter, its libraries and small tables
IN_FILES: "set[OptOut]" = {"content-credentials", "iptc"}
LATE_SECONDS = 2.0  # after its time, the process ends itself, should nobody else
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Settings:
    """What a process is told at its start."""

    limits: Limits
    max_side_px: int | None  # None: the bytes are stored as received
    opt_outs: list["OptOut"]  # signals inside a file that are honoured
    max_seconds: float
    parent_pid: int  # the process dies with it; 0: it reads the end of its input instead

    @staticmethod
    def parse(text: str) -> "Settings":
        values = json.loads(text)
        return Settings(**{**values, "limits": Limits(**values["limits"])})

    def text(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Examined:
    """A picture that was decoded and judged."""

    format: str  # as received, Pillow's name
    width: int  # pixels as received, after EXIF orientation
    height: int
    phash: int | None  # signed int64; None for a flat picture
    image: bytes  # what is stored: the bytes as received, or reduced
    opt_out: str | None = None


def examine(data: bytes, limits: Limits, max_side_px: int | None) -> Examined | Unusable:
    """Decode a file within `limits`, hash it, and make what is stored.

    Stored are the bytes as received, when there is no `max_side_px`, or when both sides are within it and the file is an upright JPEG, PNG or WebP.
    Anything else becomes a JPEG (quality 95, 4:2:0, no metadata): upright, sRGB, its longer side at most `max_side_px`, never enlarged.
    The same file gives the same bytes with the same version of Pillow.
    """
    enough = Enough(0 if max_side_px is None else round(SPARE * max_side_px), HASH_ENOUGH_PX)
    decoded = decode_image(data, limits, enough)
    if isinstance(decoded, Unusable):
        return decoded
    grey = decoded.upright(thumbnail(decoded.image, decoded.box))
    image = data if max_side_px is None or _fits(decoded, max_side_px) else _reduced(decoded, max_side_px)
    return Examined(decoded.format, decoded.width, decoded.height, phash(grey), image)


def _fits(decoded: Decoded, max_side_px: int) -> bool:
    return max(decoded.width, decoded.height) <= max_side_px and decoded.turn is None and decoded.format in AS_RECEIVED


def _reduced(decoded: Decoded, max_side_px: int) -> bytes:
    """The picture as JPEG. 4:2:0 because a quarter of the bytes buys colour detail that no VAE of this field keeps."""
    scale = min(1.0, max_side_px / max(decoded.width, decoded.height))
    width, height = max(1, round(decoded.width * scale)), max(1, round(decoded.height * scale))
    size = (height, width) if decoded.lies else (width, height)
    image = decoded.image
    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS, box=decoded.box, reducing_gap=REDUCING_GAP)
    image = decoded.upright(image)
    image.info = {}
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling="4:2:0")
    return buffer.getvalue()


def memory_bytes(limits: Limits) -> int:
    """Address space that a decoding process is given."""
    return BASE_BYTES + BYTES_PER_PIXEL * limits.max_pixels + 4 * limits.max_bytes


def confine(settings: Settings) -> None:
    """Give up what a decoder does not need. Limits that a system does not know are left out."""
    bounds = {"RLIMIT_AS": memory_bytes(settings.limits), "RLIMIT_CORE": 0, "RLIMIT_FSIZE": 0}
    for name, most in bounds.items():
        try:
            resource.setrlimit(getattr(resource, name), (most, most))
        except (AttributeError, ValueError, OSError):  # macOS has no RLIMIT_AS that it keeps
            continue
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    if sys.platform == "linux" and settings.parent_pid:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != settings.parent_pid:  # it died before the request
            os._exit(0)


def serve(requests: BinaryIO, answers: BinaryIO, settings: Settings) -> None:
    """Answer until the input ends. An alarm ends the process should it be late and its parent gone."""
    answers.write(READY)
    answers.flush()
    while len(header := requests.read(REQUEST.size)) == REQUEST.size:
        signal.setitimer(signal.ITIMER_REAL, settings.max_seconds + LATE_SECONDS)
        data = requests.read(REQUEST.unpack(header)[0])
        answer, image = _answer(data, settings)
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(ANSWER.pack(len(answer), len(image)) + answer)
        answers.write(image)
        answers.flush()


def _answer(data: bytes, settings: Settings) -> tuple[bytes, bytes]:
    try:
        examined = _permitted(examine(data, settings.limits, settings.max_side_px), data, settings.opt_outs)
    except MemoryError:
        examined = Unusable(Reject.UNDECODABLE, "needs more memory than a decoder is given")
    if isinstance(examined, Unusable):
        return json.dumps({"reason": examined.reason, "detail": examined.detail}).encode(), b""
    stored = b"" if examined.image is data else examined.image
    seen = {"format": examined.format, "width": examined.width, "height": examined.height, "phash": examined.phash, "opt_out": examined.opt_out}
    return json.dumps(seen).encode(), stored


def _permitted(examined: Examined | Unusable, data: bytes, honoured: list["OptOut"]) -> Examined | Unusable:
    """What the file itself says of training: a reason where it is honoured, on record where it is not."""
    if isinstance(examined, Unusable):
        return examined
    refusal = in_file(data, honoured)
    if refusal is not None:
        return Unusable(Reject.OPTED_OUT, refusal)
    return replace(examined, opt_out=in_file(data, IN_FILES - set(honoured)))


def main() -> None:
    """Say that it is there, then answer until the input ends. What a decoder prints goes nowhere."""
    settings = Settings.parse(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, and the parent's end this process
    answers = os.fdopen(os.dup(1), "wb")
    Image.init()
    confine(settings)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)  # decoders print
    os.dup2(silence, 2)
    serve(sys.stdin.buffer, answers, settings)


if __name__ == "__main__":
    main()
