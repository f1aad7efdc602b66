from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.image_processor import VaeImageProcessor

from ccray.config import Precision
from ccray.interfaces import Refused
from ccray.models.autoencoder import Autoencoder, LatentScale, final_to_raw, raw_to_final, sample_raw
from tests import folders
from tests.models import vaes


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


@pytest.mark.parametrize(("kind", "scale"), [("sd2", LatentScale(0.18215)), ("sdxl", LatentScale(0.13025)), ("fp16-fix", LatentScale(0.13025))])
def test_published_kinds(kind: str, scale: LatentScale, tmp_path: Path) -> None:
    """Their scale as their own configuration has it, and final latents as the stock pipelines make them of raw ones."""
    autoencoder = Autoencoder(str(vaes.published_folder(tmp_path, kind)))
    assert (autoencoder.factor, autoencoder.latent_channels, autoencoder.scale) == (8, 4, scale)
    mean, std = autoencoder.encode(pixels(2))
    assert mean.shape == std.shape == (2, 4, 4, 4)
    stock = AutoencoderKL.from_pretrained(tmp_path)
    noise = np.random.default_rng(1).standard_normal(mean.shape, np.float32)
    final = raw_to_final(sample_raw(mean, std, noise), autoencoder.scale)
    posterior = stock.encode(torch.from_numpy(pixels(2)).permute(0, 3, 1, 2) / 127.5 - 1).latent_dist
    theirs = (
        posterior.mean + posterior.std * torch.from_numpy(noise)
    ) * stock.config.scaling_factor  # as StableDiffusionImg2ImgPipeline.prepare_latents
    np.testing.assert_allclose(final, theirs.detach().numpy(), atol=2e-6)
    np.testing.assert_allclose(final_to_raw(final, autoencoder.scale), sample_raw(mean, std, noise), rtol=1e-6)


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.05), ("fp16", 5e-3)])
def test_lower_precision_answers_in_fp32_near_the_exact_one(precision: Precision, tolerance: float, tmp_path: Path) -> None:
    folder = str(vaes.published_folder(tmp_path, "fp16-fix"))
    exact, low = Autoencoder(folder).encode(pixels(2)), Autoencoder(folder, precision=precision).encode(pixels(2))
    for one, other in zip(exact, low, strict=True):
        assert other.dtype == np.float32
        assert 0 < np.abs(one - other).max() <= tolerance * np.abs(one).max()


def test_a_vae_that_overflows_in_half_precision_says_so_in_its_numbers(tmp_path: Path) -> None:
    folder = str(vaes.overflowing_folder(tmp_path))
    assert np.isfinite(Autoencoder(folder).encode(pixels(1))[0]).all()
    assert not np.isfinite(Autoencoder(folder, precision="fp16").encode(pixels(1))[0]).all()


def test_a_scale_of_each_channel_is_refused(tmp_path: Path) -> None:
    folder = vaes.published_folder(tmp_path, "sdxl", latents_mean=[0.0] * 4, latents_std=[1.0] * 4)
    with pytest.raises(Refused, match="scales each channel by its own latents_mean and latents_std: expected one with scaling_factor"):
        Autoencoder(str(folder))
