"""A web site of drawn pictures, slow on purpose, that writes down what it was asked for: `python -m tests.soak.site PORT LOG SECONDS`."""

import contextlib
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from ccray.shapes.world import draw, png_bytes, train_scene

SIZE_PX = 64


def picture(number: int) -> bytes:
    """The PNG of one number; every tenth is the picture before it."""
    return png_bytes(draw(train_scene(11, number - 1 if number % 10 == 0 else number), SIZE_PX))


class Site(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    log = Path()
    seconds = 0.0

    def do_GET(self) -> None:
        number = int("".join(filter(str.isdigit, self.path)) or 0)
        missing = self.path.endswith(".txt") or number % 17 == 3
        if not self.path.endswith(".txt"):
            with self.log.open("a") as file:
                file.write(f"{number}\n")
            time.sleep(self.seconds)  # a slow server is the point
        body = b"" if missing else picture(number)
        self.send_response(404 if missing else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):  # killed, and so hung up
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


if __name__ == "__main__":
    Site.log, Site.seconds = Path(sys.argv[2]), float(sys.argv[3])
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Site).serve_forever()
