"""Scores of a small, random vision transformer against the same model called by hand."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTForImageClassification

from ccray.config import ScoreFilter
from ccray.data.pictures.scoring import ScoreImages
from ccray.interfaces import Refused
from tests import folders


@pytest.fixture(scope="module")
def watermark(tmp_path_factory: pytest.TempPathFactory) -> str:
    return folders.classifier_folder(tmp_path_factory.mktemp("watermark"), ("clean", "watermarked"), 0)


@pytest.fixture(scope="module")
def nsfw(tmp_path_factory: pytest.TempPathFactory) -> str:
    return folders.classifier_folder(tmp_path_factory.mktemp("nsfw"), ("safe", "unsafe", "art"), 1, problem_type="multi_label_classification")


def encoded(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def batch(images: list[bytes | None]) -> dict[str, np.ndarray]:
    columns = {name: np.empty(len(images), object) for name in ("image", "reason", "detail")}
    columns["image"][:] = images
    return columns | {"row_id": np.arange(len(images))}


def by_hand(folder: str, data: bytes, label: int, sigmoid: bool) -> float:
    picture = np.asarray(
        Image.open(io.BytesIO(data)).convert("RGB").resize((folders.CLASSIFIER_PX, folders.CLASSIFIER_PX), Image.Resampling.BILINEAR), np.float32
    )
    pixels = torch.from_numpy((picture / 255 - 0.5) / 0.5).permute(2, 0, 1)[None]
    with torch.inference_mode():
        logits = ViTForImageClassification.from_pretrained(folder)(pixel_values=pixels).logits[0]
    return float(torch.sigmoid(logits)[label] if sigmoid else torch.softmax(logits, -1)[label])


def filters(watermark: str, nsfw: str) -> tuple[ScoreFilter, ...]:
    return (
        ScoreFilter(name="watermark", model=watermark, label="watermarked", threshold=0.5),
        ScoreFilter(name="nsfw", model=nsfw, label="unsafe", threshold=0.5),
    )


def test_scores_are_the_models_probabilities(watermark: str, nsfw: str) -> None:
    images = [encoded(0), None, encoded(1), encoded(2)]
    scored = ScoreImages(filters(watermark, nsfw), "cpu", 1)(batch(images))
    assert (scored["row_id"] == range(4)).all()
    assert scored["scores"][1] is None
    for row in (0, 2, 3):
        data = images[row]
        assert data is not None
        wanted = {"watermark": by_hand(watermark, data, 1, sigmoid=False), "nsfw": by_hand(nsfw, data, 1, sigmoid=True)}
        assert {entry["name"]: entry["score"] for entry in scored["scores"][row]} == pytest.approx(wanted, abs=1e-4)
    assert len({scored["scores"][row][0]["score"] for row in (0, 2, 3)}) == 3


def test_a_score_does_not_depend_on_its_company(watermark: str, nsfw: str) -> None:
    score = ScoreImages(filters(watermark, nsfw), "cpu", 1)
    alone = score(batch([encoded(5)]))["scores"][0]
    among = score(batch([*[encoded(seed) for seed in range(20)], encoded(5)]))["scores"]
    assert among[20] == among[5] == alone


def test_nothing_passes_unseen(watermark: str, nsfw: str) -> None:
    scored = ScoreImages(filters(watermark, nsfw), "cpu", 1)(batch([b"no picture", encoded(0)]))
    assert (scored["image"][0], scored["reason"][0], scored["scores"][0]) == (None, "undecodable", None)
    assert (scored["reason"][1], len(scored["scores"][1])) == (None, 2)
    assert ScoreImages(filters(watermark, nsfw), "cpu", 1)(batch([None, None]))["scores"].tolist() == [None, None]


def test_a_label_that_the_model_lacks_is_refused(watermark: str) -> None:
    with pytest.raises(Refused, match=r"'blurred'.*clean, watermarked"):
        ScoreImages((ScoreFilter(name="text", model=watermark, label="blurred", threshold=0.5),), "cpu", 1)


def test_only_safetensors_are_loaded(tmp_path: Path) -> None:
    folder = folders.classifier_folder(tmp_path / "pickled", ("a", "b"), 0)
    model = ViTForImageClassification.from_pretrained(folder)
    (tmp_path / "pickled" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pickled" / "pytorch_model.bin")
    with pytest.raises(Refused, match="safetensors"):
        ScoreImages((ScoreFilter(name="text", model=folder, label="a", threshold=0.5),), "cpu", 1)


def test_importing_it_imports_no_torch() -> None:
    program = (
        "import sys, ccray.data.pictures.scoring, ccray.data.pictures.examining\nprint(sorted({'torch', 'transformers', 'ray'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == "[]"
