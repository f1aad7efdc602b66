"""Images that were taken down: outside every fingerprint, applied by every reader."""

import json

from ccray.storage import Root


def taken_down(root: Root) -> frozenset[int]:
    """Keys of images that were taken down: every line of `takedowns/*.jsonl` is an object with a `key` of 16 hex digits. Every reader applies them."""
    lines = [line for name in root.files("takedowns") if name.endswith(".jsonl") for line in root.read(name).splitlines()]
    return frozenset(int.from_bytes(bytes.fromhex(json.loads(line)["key"]), "big", signed=True) for line in lines if line.strip())
