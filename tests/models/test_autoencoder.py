from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.image_processor import VaeImageProcessor

from ccray.interfaces import Refused
from ccray.models.autoencoder import Autoencoder, LatentScale, final_to_raw, raw_to_final, sample_raw
from tests import folders


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.vae_folder(tmp_path_factory.mktemp("vae"))


def pixels(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("scale", [LatentScale(0.18215), LatentScale(0.3611, 0.1159)])
def test_final_to_raw_is_the_inverse_of_raw_to_final(scale: LatentScale) -> None:
    raw = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(final_to_raw(raw_to_final(raw, scale), scale), raw)
    np.testing.assert_allclose(raw_to_final(raw.numpy(), scale), (raw.numpy() - scale.shift_factor) * scale.scaling_factor)


def test_sample_raw_is_mean_plus_std_noise() -> None:
    mean, std, noise = torch.randn(3, 5)
    assert torch.equal(sample_raw(mean, std, noise), mean + std * noise)
    assert sample_raw(mean, None, noise) is mean


def test_encode_gives_the_posterior_of_stock_diffusers(folder: Path) -> None:
    images = pixels(3)
    mean, std = Autoencoder(str(folder)).encode(images)
    assert mean.shape == std.shape == (3, 4, 8, 8)
    assert mean.dtype == std.dtype == np.float32
    stock = AutoencoderKL.from_pretrained(folder)
    prepared = VaeImageProcessor(vae_scale_factor=4).preprocess(images.astype(np.float32) / 255)
    with torch.no_grad():
        posterior = stock.encode(prepared).latent_dist
    np.testing.assert_allclose(mean, posterior.mean.numpy(), atol=2e-6)
    np.testing.assert_allclose(std, posterior.std.numpy(), atol=2e-6)


def test_decode_gives_the_pictures_of_stock_diffusers(folder: Path) -> None:
    autoencoder = Autoencoder(str(folder))
    final = torch.randn(2, 4, 8, 8)
    stock = AutoencoderKL.from_pretrained(folder)
    with torch.no_grad():
        images = VaeImageProcessor().postprocess(stock.decode(final / stock.config.scaling_factor).sample, output_type="pil")
    np.testing.assert_array_equal(autoencoder.decode(final), np.stack([np.asarray(image) for image in images]))


def test_its_facts_and_a_shift(tmp_path: Path, folder: Path) -> None:
    autoencoder = Autoencoder(str(folder))
    assert (autoencoder.factor, autoencoder.latent_channels, autoencoder.scale) == (4, 4, LatentScale(0.18215, 0.0))
    folders.vae(scaling_factor=0.36, shift_factor=0.12).save_pretrained(tmp_path / "vae")
    assert Autoencoder(str(tmp_path), subfolder="vae").scale == LatentScale(0.36, 0.12)


def test_a_row_does_not_depend_on_its_company(folder: Path) -> None:
    autoencoder, images = Autoencoder(str(folder)), pixels(4)
    other = images.copy()
    other[1:] = 255 - other[1:]
    np.testing.assert_array_equal(autoencoder.encode(images)[0][0], autoencoder.encode(other)[0][0])


def test_nothing_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot be loaded"):
        Autoencoder(str(tmp_path))
