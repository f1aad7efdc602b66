"""The encode stage on a local cluster: raw latents as the bare VAE gives them, and all that their readers must know of it."""

import io
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ccray import config, schema
from ccray.data.encoding import EncodeImages
from ccray.data.pictures.pixels import LoadPixels, read_images, square_view
from ccray.interfaces import Refused
from ccray.models.autoencoder import Autoencoder
from ccray.sharded.working import to_table
from ccray.stages import encode
from ccray.storage import Root
from tests.conftest import Corridor

pytestmark = pytest.mark.ray
LATENTS = "latents/shapes-kl-32px"


def test_latents_are_those_of_the_bare_vae(corridor: Corridor) -> None:
    root = corridor.root
    manifest = encode.run(corridor.recipe, root)[32]
    assert (manifest.status, manifest.rows, manifest.counts) == ("finished", 96, {"ok": 96})
    table = root.read_table(f"{LATENTS}/shard-00001.parquet")
    assert table.schema.equals(schema.LATENTS)
    assert table.column("key").equals(root.read_table("catalog/shard-00001.parquet").column("key"))
    rows = table.to_pylist()[:8]
    images = read_images(root, 1, np.array([row["key"] for row in rows]))
    pixels = np.stack([np.array(Image.open(io.BytesIO(images[row["key"]])).convert("RGB")) for row in rows])
    vae = Autoencoder(corridor.recipe.encode.model)
    mean, std = vae.encode(pixels)
    shape = (8, *rows[0]["latent_shape"])
    assert shape == mean.shape
    assert np.allclose(np.array([row["latent_mean"] for row in rows], np.float32).reshape(shape), mean, atol=2e-2, rtol=2e-3)
    assert np.allclose(np.array([row["latent_std"] for row in rows], np.float32).reshape(shape), std, atol=1e-3, rtol=2e-3)
    assert {(*row["crop"], *row["original_size"]) for row in rows} == {(0, 0, 32, 32, 32, 32)}


def test_readers_learn_the_vae_from_manifest_and_files(corridor: Corridor) -> None:
    facts = encode.run(corridor.recipe, corridor.root)[32].facts
    vae = Autoencoder(corridor.recipe.encode.model)
    assert facts["scaling_factor"] == vae.scale.scaling_factor
    assert facts["shift_factor"] == vae.scale.shift_factor
    assert (facts["latent_channels"], facts["latent_size"], facts["size_px"]) == (vae.latent_channels, 32 // vae.factor, 32)
    assert len(facts["vae_sha256"]) == 16
    metadata = pq.read_schema(corridor.root.path(f"{LATENTS}/shard-00000.parquet")).metadata
    assert {name.encode(): str(value).encode() for name, value in facts.items() if value is not None}.items() <= metadata.items()


def test_a_latent_does_not_know_its_company(corridor: Corridor) -> None:
    """The same bits alone, in a small batch and in a full one: every batch has the same width."""
    root = corridor.root
    keys = root.read_table("catalog/shard-00000.parquet", columns=["key"]).column("key").to_numpy()[:9]
    recipe = config.build(corridor.recipe, ["encode.batch_size=4"])
    worker = EncodeImages(recipe.encode, threads=1)
    pixels = LoadPixels(root, lambda picture: square_view(picture, 32))

    def latents(chosen: np.ndarray) -> dict[int, dict]:
        answer = worker(pixels({"key": chosen, "shard": np.zeros(len(chosen), np.int32)}))
        return {row["key"]: row for row in to_table(answer, schema.LATENTS).to_pylist()}

    together = latents(keys)
    for start, end in ((0, 1), (3, 5), (5, 9)):
        for key, row in latents(keys[start:end]).items():
            assert row == together[key]


def test_rows_without_a_picture_and_without_std(corridor: Corridor) -> None:
    root = corridor.root
    key = root.read_table("catalog/shard-00000.parquet", columns=["key"]).column("key").to_numpy()[:1]
    batch = {"key": np.append(key, 99), "shard": np.zeros(2, np.int32)}
    recipe = config.build(corridor.recipe, ["encode.store_std=false"])
    rows = to_table(EncodeImages(recipe.encode, threads=1)(LoadPixels(root, lambda p: square_view(p, 32))(batch)), schema.LATENTS).to_pylist()
    assert [row["status"] for row in rows] == ["ok", "bytes_missing"]
    assert [row["latent_mean"] is None for row in rows] == [False, True]
    assert [row["latent_std"] for row in rows] == [None, None]


def test_refusals(corridor: Corridor, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(Path(corridor.root.uri) / "catalog", root / "catalog")
    for words, message in (
        (["encode.model=/no/such"], r"encode\.model is '/no/such'"),
        (["encode.size_px=33"], r"encode\.size_px is 33: expected a multiple of"),
        (["train.phases.large.size_px=33"], r"size_px of a phase \(train\.phases\) is 33: expected a multiple of"),
    ):
        with pytest.raises(Refused, match=message):
            encode.run(config.build(corridor.recipe, words), Root(str(root)))
    assert not (root / "latents").exists()
