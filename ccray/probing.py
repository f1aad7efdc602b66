"""Is the store under a root what we rely on? Asked before a stage starts, with one small file, which is removed again.

Relied on: what was written is read back, whole and at once, also after it was overwritten; a new file is listed; and of several creators of one file
only the first succeeds (leases stand on this). Some S3 look-alikes take `If-None-Match` and overwrite all the same.
"""

import uuid

from botocore.exceptions import BotoCoreError, ClientError

from ccray.interfaces import Refused
from ccray.storage import Root


def check(root: Root) -> None:
    """Raises:
    Refused: when the store cannot be written, or lies.
    """
    name = f".probe-{uuid.uuid4().hex}"
    try:
        lie = _lie(root, name)
        root.delete(name)
    except (OSError, ClientError, BotoCoreError) as error:
        raise Refused(f"--root {root.uri} cannot be used: {' '.join(str(error).split())[:300]}") from None
    if lie is not None:
        raise Refused(f"--root {root.uri} cannot be used: {lie}; expected a local disk, or a store that keeps to the S3 API as AWS documents it")


def _lie(root: Root, name: str) -> str | None:
    if not root.create(name, b"first"):
        return "it says that a new file was there before"
    if root.create(name, b"second"):
        return "it lets a second writer create a file that exists (If-None-Match is not enforced), so that two runs could hold one lease"
    if root.read(name) != b"first":
        return "it refused a second creator, but changed the file"
    root.write(name, b"third")
    if root.read(name) != b"third":
        return "it does not give back what was last written"
    if name not in root.names(""):
        return "a new file is not in its listing"
    return None
