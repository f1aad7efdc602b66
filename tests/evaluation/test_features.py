"""Vision towers of tiny random models: the right one is found, loaded whole, and fed as its own processor feeds it."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from ccray.evaluation import features
from ccray.evaluation.features import FeatureExtractor
from ccray.evaluation.metrics import FeatureSums
from ccray.interfaces import Failed

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
pictures = [
    np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8) for number, shape in enumerate([(48, 48, 3), (60, 48, 3), (32, 40, 3)])
]


def clip_folder(folder: Path) -> Path:
    torch.manual_seed(0)
    text = transformers.CLIPTextConfig(vocab_size=50, max_position_embeddings=8, **SMALL)
    vision = transformers.CLIPVisionConfig(image_size=32, patch_size=8, **SMALL)
    model = transformers.CLIPModel(transformers.CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8))
    model.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def blip2_folder(folder: Path) -> Path:
    torch.manual_seed(1)
    config = transformers.Blip2Config(
        vision_config=transformers.Blip2VisionConfig(image_size=32, patch_size=8, **SMALL),
        qformer_config=transformers.Blip2QFormerConfig(vocab_size=50, encoder_hidden_size=16, **SMALL),
        text_config=transformers.OPTConfig(
            vocab_size=50, hidden_size=16, ffn_dim=32, num_hidden_layers=1, num_attention_heads=2, word_embed_proj_dim=16
        ),
        num_query_tokens=2,
    )
    transformers.Blip2ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def test_clip_tower_as_its_own_processor_and_model(tmp_path: Path) -> None:
    """A square picture of the tower's size goes the same way through transformers' own processor and whole model."""
    folder = clip_folder(tmp_path / "clip")
    extractor = FeatureExtractor(str(folder))
    square = features.centre_square(pictures[0], 32)
    inputs = CLIPImageProcessorPil.from_pretrained(folder)(images=[Image.fromarray(square)], return_tensors="pt")
    with torch.no_grad():
        expected = transformers.CLIPModel.from_pretrained(folder).eval().vision_model(**inputs).pooler_output
    np.testing.assert_allclose(extractor([square]), expected.numpy(), atol=1e-5)
    assert (extractor.width, extractor.size_px) == (16, 32)


def test_blip2_tower_without_its_language_model(tmp_path: Path) -> None:
    folder = blip2_folder(tmp_path / "blip2")
    extractor = FeatureExtractor(str(folder))
    whole = transformers.Blip2ForConditionalGeneration.from_pretrained(folder).eval()
    pixels = features.centre_square(pictures[1], 32) / np.float32(255)
    inputs = torch.tensor((pixels - np.float32(features.OPENAI_MEAN)) / np.float32(features.OPENAI_STD)).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        expected = whole.vision_model(pixel_values=inputs).last_hidden_state.mean(dim=1)
    np.testing.assert_allclose(extractor([pictures[1]]), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", ["vit", "dinov2"])
def test_plain_towers(tmp_path: Path, kind: str) -> None:
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    model = transformers.ViTModel(transformers.ViTConfig(**small)) if kind == "vit" else transformers.Dinov2Model(transformers.Dinov2Config(**small))
    model.save_pretrained(tmp_path)
    assert FeatureExtractor(str(tmp_path))(pictures).shape == (3, 16)


def test_sums_over_batches(tmp_path: Path) -> None:
    extractor = FeatureExtractor(str(clip_folder(tmp_path)))
    sums, whole = extractor.sums(pictures, batch_size=2), FeatureSums.of(extractor(pictures))
    assert sums.count == 3
    np.testing.assert_allclose(sums.covariance, whole.covariance, atol=1e-6)


def test_failures_name_the_folder(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="cannot be loaded"):
        FeatureExtractor(str(tmp_path / "nothing-here"))
    transformers.CLIPTextModel(transformers.CLIPTextConfig(vocab_size=50, **SMALL)).save_pretrained(tmp_path / "text")
    with pytest.raises(Failed, match="no vision tower"):
        FeatureExtractor(str(tmp_path / "text"))


def test_centre_square() -> None:
    picture = np.zeros((10, 30, 3), np.uint8)
    picture[:, 10:20] = 200
    assert (features.centre_square(picture, 20) == 200).all()
    assert features.centre_square(picture, 10).shape == (10, 10, 3)
