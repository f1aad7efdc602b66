"""References to models: folders, hub names, and the teachers shipped with the package."""

import hashlib
from pathlib import Path

import ccray
from ccray.interfaces import Refused

BUILT_IN = "shapes:"  # model references into the package itself
BUILT_IN_FOLDER = Path(ccray.__file__).parent / "shapes" / "weights"


def model_path(reference: str) -> str:
    """A model reference as transformers and diffusers take it; `shapes:NAME` is a teacher shipped with the package."""
    if reference.startswith(BUILT_IN):
        return str(BUILT_IN_FOLDER / reference.removeprefix(BUILT_IN))
    return reference


def require_model(setting: str, reference: str) -> None:
    """Raises:
    Refused: when a model that is meant to be on this disk is not; a hub name is not looked up.
    """
    place = Path(model_path(reference)).expanduser()
    on_disk = reference.startswith((BUILT_IN, "/", ".", "~"))
    if on_disk and not place.is_dir():
        raise Refused(f"{setting} is {reference!r}, but there is no folder {place}: expected a model folder, a hub name or {BUILT_IN}NAME")


def weights_digest(folder: str) -> str | None:
    """sha256 of a model folder's safetensors files, 16 hex digits; None for a hub name that is not on this disk."""
    files = sorted(Path(folder).glob("*.safetensors")) if Path(folder).is_dir() else []
    if not files:
        return None
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
