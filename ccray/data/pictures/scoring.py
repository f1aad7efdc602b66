"""Model-backed filters: how likely each picture is watermarked, lettered or unsafe. Scores only; the index applies the thresholds.

torch and transformers are imported when the first worker is built, so that a catalog without filters does without them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ccray.config import ScoreFilter
from ccray.data.pictures.images import Limits, Picture, Pixels, Unusable, decode
from ccray.data.pictures.pixels import as_objects, whole_view
from ccray.interfaces import Batch, Refused
from ccray.schema import Reject
from ccray.storage import model_path

BATCH = 16  # pictures scored at once; a batch is padded to this, because a row's bits change with the width of its batch
UNBOUNDED = Limits(max_pixels=1 << 40, max_bytes=1 << 40)  # the catalog's own bounds have passed what comes here


@dataclass(frozen=True)
class _Classifier:
    """One filter's model, its image processor and the class that counts."""

    name: str
    model: Any
    processor: Any
    class_index: int
    independent: bool  # each class has a probability of its own (a sigmoid), instead of a share of one


class ScoreImages:
    """Rows with `image` (null for failed rows) -> the same rows with `scores`: a list of {name, score} each, null where there is no image."""

    def __init__(self, filters: tuple[ScoreFilter, ...], device: str, threads: int) -> None:
        """Load every filter's classifier; `threads` is the number of torch threads.

        Raises:
            Refused: when one cannot be loaded, or has no class of the name that the filter asks for.
        """
        import torch
        from transformers.utils.logging import disable_progress_bar

        from ccray.models.device import usable

        torch.set_num_threads(threads)
        disable_progress_bar()
        self._classifiers = [_load(filter_, usable(device)) for filter_ in filters]

    def __call__(self, batch: Batch) -> Batch:
        """A row whose picture does not decode here loses it, with a `reason` and a `detail`: nothing passes a filter unseen."""
        pictures = [None if data is None else decode(data, UNBOUNDED) for data in batch["image"]]
        good = [row for row, picture in enumerate(pictures) if isinstance(picture, Picture)]
        found = self._scores([whole_view(picture.pixels)[0] for picture in pictures if isinstance(picture, Picture)])
        scores: list[list[dict[str, Any]] | None] = [None] * len(pictures)
        for row, entry in zip(good, found, strict=True):
            scores[row] = entry
        return _without_unseen(batch, pictures) | {"scores": as_objects(scores)}

    def _scores(self, pictures: Sequence[Pixels]) -> list[list[dict[str, Any]]]:
        found: list[list[dict[str, Any]]] = [[] for _ in pictures]
        for classifier in self._classifiers:
            for start in range(0, len(pictures), BATCH):
                for place, score in enumerate(_probabilities(classifier, pictures[start : start + BATCH])):
                    found[start + place].append({"name": classifier.name, "score": score})
        return found


def _without_unseen(batch: Batch, pictures: Sequence[Picture | Unusable | None]) -> Batch:
    failed = {row: picture for row, picture in enumerate(pictures) if isinstance(picture, Unusable)}
    if not failed:
        return batch
    columns = {name: batch[name].copy() for name in ("image", "reason", "detail")}
    for row, unusable in failed.items():
        columns["image"][row] = None
        columns["reason"][row] = Reject.UNDECODABLE
        columns["detail"][row] = f"could not be scored: {unusable.detail}"
    return batch | columns


def _load(filter_: ScoreFilter, device: str) -> _Classifier:
    """safetensors and the processor's Pillow form only; no code of the model's own is run."""
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    from ccray.models.loading import loading

    place = model_path(filter_.model)
    with loading(f"the model {filter_.model} of the filter {filter_.name}"):
        processor = AutoImageProcessor.from_pretrained(place, trust_remote_code=False, backend="pil")
        model = AutoModelForImageClassification.from_pretrained(place, use_safetensors=True, trust_remote_code=False)
    labels = {int(index): str(label) for index, label in model.config.id2label.items()}
    indices = [index for index, label in labels.items() if label == filter_.label]
    if not indices:
        known = ", ".join(sorted(labels.values())[:50])
        raise Refused(f"the filter {filter_.name} asks for label {filter_.label!r}, but {filter_.model} has: {known}")
    independent = len(labels) == 1 or model.config.problem_type == "multi_label_classification"
    model.requires_grad_(False).eval().to(device)
    return _Classifier(filter_.name, model, processor, indices[0], independent)


def _probabilities(classifier: _Classifier, pictures: Sequence[Pixels]) -> list[float]:
    """Of the class that counts, one for each of at most `BATCH` pictures."""
    import torch

    padded = [*pictures, *[pictures[-1]] * (BATCH - len(pictures))]
    inputs = classifier.processor(images=[Image.fromarray(np.asarray(pixels)) for pixels in padded], return_tensors="pt")
    with torch.inference_mode():
        logits = classifier.model(pixel_values=inputs["pixel_values"].to(classifier.model.device, classifier.model.dtype)).logits.float()
    shares = torch.sigmoid(logits) if classifier.independent else torch.softmax(logits, dim=-1)
    return [float(value) for value in shares[: len(pictures), classifier.class_index]]
