"""Stored latents are online ones within the rounding to half precision, whatever the batch and the other sizes; a file of them explains itself."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ccray import schema
from ccray.config import EncodeConfig
from ccray.data import encoding
from ccray.data.encoding import EncodeImages, facts_of, file_schema, latents_of, prefixes, vae_facts
from ccray.data.pictures.images import Limits, Picture, Pixels, centre_square, decode
from ccray.data.pictures.pixels import PIXELS, LoadPixels, square_view, with_views
from ccray.interfaces import Batch, Failed, Refused
from ccray.models.autoencoder import Autoencoder
from ccray.storage import Root, seal, shard_name
from tests.models import vaes

SIZES = (64, 96)


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(vaes.published_folder(tmp_path_factory.mktemp("sd2"), "sd2"))


@pytest.fixture(scope="module")
def photos(shared_data: Path) -> list[bytes]:
    """Real photographs, upright and lying ones."""
    return [path.read_bytes() for path in sorted((shared_data / "coco_cc_photos/images/free").glob("*.jpg"))[:8]]


def a_root(folder: Path, files: Sequence[bytes]) -> Root:
    """One shard of images."""
    root = Root(str(folder))
    rows = [{"row_id": number, "shard": 0, "key": number, "image": data} for number, data in enumerate(files)]
    root.write_table(f"images/{shard_name(0)}", pa.Table.from_pylist(rows, schema=schema.IMAGES))
    return root


def settings(vae: str, **given: object) -> EncodeConfig:
    return EncodeConfig.model_validate({"vae": "sd2", "model": vae, "size_px": SIZES[0], "batch_size": 8} | given)


def loaded(root: Root, count: int, sizes: Sequence[int] = SIZES) -> Batch:
    views = {prefix: partial(square_view, size_px=size) for size, prefix in prefixes(sizes).items()}
    return LoadPixels(root, views)({"key": np.arange(count), "shard": np.zeros(count, np.int32)})


def part(batch: Batch, rows: slice) -> Batch:
    return {name: values[rows] for name, values in batch.items()}


def picture_of(data: bytes) -> Picture:
    picture = decode(data, Limits())
    assert isinstance(picture, Picture)
    return picture


def test_stored_latents_are_online_ones_whatever_the_batch(vae: str, photos: list[bytes], tmp_path: Path) -> None:
    count, names = len(photos), prefixes(SIZES)
    assert count == 8
    batch = loaded(a_root(tmp_path, photos), count)
    online = Autoencoder(vae)
    squares = {size: np.stack([centre_square(picture_of(data).pixels, size)[0] for data in photos]) for size in SIZES}
    truth = {(size, width): _online(online, squares[size], width) for size in SIZES for width in (1, 3, 8)}
    for width in (1, 3, 8):
        stored = EncodeImages(settings(vae, batch_size=width), threads=1, prefixes=[*names.values()])(batch)
        for size, prefix in names.items():
            for other in (1, 3, 8):
                for column, exact in zip(("latent_mean", "latent_std"), truth[size, other], strict=True):
                    halves = np.stack([*stored[prefix + column]]).astype(np.float64)
                    rounding = np.spacing(np.abs(exact).astype(np.float16)).astype(np.float64)
                    assert halves.shape == (count, 4 * (size // 8) ** 2)
                    # half a unit of float16 for rounding; 1e-5 for kernels that sum in another order at another width
                    assert (np.abs(halves - exact) <= rounding / 2 + 1e-5 * np.abs(exact).max()).all()


def _online(vae: Autoencoder, squares: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    parts = [vae.encode(squares[start : start + width]) for start in range(0, len(squares), width)]
    mean, std = (np.concatenate(halves).reshape(len(squares), -1).astype(np.float64) for halves in zip(*parts, strict=True))
    return mean, std


def test_a_latent_has_the_same_bits_in_any_company_and_beside_any_size(vae: str, photos: list[bytes], tmp_path: Path) -> None:
    root, count = a_root(tmp_path, photos), len(photos)
    batch, names = loaded(root, count), prefixes(SIZES)
    together = EncodeImages(settings(vae, batch_size=4), threads=1, prefixes=[*names.values()])
    whole = together(batch)
    for rows in (slice(0, 1), slice(1, 4), slice(2, 8)):
        answer = together(part(batch, rows))
        for name in answer:
            assert [np.array_equal(a, b) for a, b in zip(answer[name], whole[name][rows], strict=True)] == [True] * len(answer["key"])
    for size, prefix in names.items():
        alone = EncodeImages(settings(vae, batch_size=4, size_px=size), threads=1)(loaded(root, count, [size]))
        for name in set(schema.LATENTS.names) - {"key", "shard"}:
            assert all(np.array_equal(a, b) for a, b in zip(alone[name], whole[prefix + name], strict=True)), (size, name)


def test_crop_and_original_size_are_those_of_the_upright_picture(vae: str, photos: list[bytes], tmp_path: Path) -> None:
    answer = EncodeImages(settings(vae), threads=1, prefixes=[*prefixes(SIZES).values()])(loaded(a_root(tmp_path, photos), len(photos)))
    for row, data in enumerate(photos):
        picture = picture_of(data)
        side = min(picture.width, picture.height)
        box = [(picture.width - side) // 2, (picture.height - side) // 2, side, side]
        assert answer["crop"][row] == answer["96px_crop"][row] == box
        assert answer["original_size"][row] == answer["96px_original_size"][row] == [picture.width, picture.height]


def test_a_small_picture_is_enlarged_and_its_crop_says_so() -> None:
    small: Pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    square, crop = square_view(small, 64)
    assert (square.shape, crop) == ((64, 64, 3), (5, 0, 20, 20))


def test_every_row_has_an_answer_at_every_size(vae: str, photos: list[bytes], tmp_path: Path) -> None:
    root = a_root(tmp_path, [photos[0], b"no picture"])
    worker = EncodeImages(settings(vae, store_std=False), threads=1, prefixes=["", "96px_"])
    batch = loaded(root, 3)  # the third is not there
    assert set(batch) == set(with_views(["", "96px_"]).names)
    answer = worker(batch)
    assert [*answer] == latents_of(["", "96px_"]).names
    for prefix in ("", "96px_"):
        assert [status.partition(":")[0] for status in answer[f"{prefix}status"]] == ["ok", "undecodable", "bytes_missing"]
        assert [value is None for value in answer[f"{prefix}latent_mean"]] == [False, True, True]
        assert [*answer[f"{prefix}latent_std"]] == [None] * 3
    gone = worker.given_up(batch, "worker_died")
    assert [*gone["status"]] == [*gone["96px_status"]] == ["worker_died"] * 3
    lost = LoadPixels(root, {"": square_view, "96px_": square_view}).given_up({"key": np.arange(2), "shard": np.zeros(2, np.int32)}, "worker_died")
    assert (set(lost), [*lost["status"]]) == (set(batch), ["worker_died"] * 2)
    assert sorted(with_views([""]).names) == sorted(PIXELS.names)


def test_latents_that_half_precision_does_not_hold_get_a_status(tmp_path: Path) -> None:
    model = str(vaes.overflowing_folder(tmp_path / "vae"))
    squares = np.stack([np.full((64, 64, 3), 127, np.uint8), np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)])
    batch = {name: np.empty(2, object) for name in PIXELS.names}
    batch |= {"key": np.arange(2), "shard": np.zeros(2, np.int32), "height": np.full(2, 64), "width": np.full(2, 64)}
    batch["pixels"][:], batch["status"][:] = [square.tobytes() for square in squares], "ok"
    halves = EncodeImages(settings(model, precision="fp16", batch_size=1), threads=1)(batch)
    assert [*halves["status"]] == ["ok", "latents are not finite in float16"]
    assert [values is None for values in halves["latent_mean"]] == [False, True]
    assert [*EncodeImages(settings(model, batch_size=1), threads=1)(batch)["status"]] == ["ok", "ok"]


@pytest.mark.parametrize(("kind", "scale"), [("sd2", 0.18215), ("sdxl", 0.13025), ("fp16-fix", 0.13025)])
def test_facts_of_the_published_kinds(kind: str, scale: float, tmp_path: Path) -> None:
    config = settings(str(vaes.published_folder(tmp_path, kind)))
    facts = facts_of(config, (256, 512))
    assert {size: one["latent_size"] for size, one in facts.items()} == {256: 32, 512: 64}
    assert {(one["scaling_factor"], one["shift_factor"], one["latent_channels"]) for one in facts.values()} == {(scale, 0.0, 4)}
    assert vae_facts(config) == facts_of(config, (64,))[64]


def test_a_size_that_the_vae_does_not_divide_is_refused(vae: str) -> None:
    with pytest.raises(Refused, match=r"^encode\.size_px is 65: expected a multiple of 8, the pixels a latent of"):
        vae_facts(settings(vae, size_px=65))
    with pytest.raises(Refused, match=r"^size_px of a phase \(train\.phases\) is 100: expected a multiple of 8"):
        facts_of(settings(vae), (64, 100))


def test_a_damaged_shard_of_images_is_named(photos: list[bytes], tmp_path: Path) -> None:
    root = a_root(tmp_path, photos)
    path = Path(root.path(f"images/{shard_name(0)}"))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Failed, match=r"images/shard-00000\.parquet cannot be read \(.*put back a whole copy"):
        loaded(root, 2)
    path.unlink()
    with pytest.raises(Failed, match=r"images/shard-00000\.parquet cannot be read \(it is missing\)"):
        loaded(root, 2)


@pytest.fixture
def latents_file(vae: str, photos: list[bytes], tmp_path: Path) -> Path:
    """A sealed shard as the stage writes it, with one row that has no latent."""
    from ccray.stages import encode

    root, config = a_root(tmp_path, [*photos, b"no picture"]), settings(vae)
    answer = EncodeImages(config, threads=1)(loaded(root, len(photos) + 1, SIZES[:1]))
    table = pa.Table.from_arrays([pa.array([*answer[field.name]], field.type) for field in schema.LATENTS], schema=schema.LATENTS)
    seal(root, "latents/x", 0, table, file_schema(vae_facts(config)), "key", encode.ROW_GROUP_ROWS)
    return Path(root.path(f"latents/x/{shard_name(0)}"))


def test_a_file_explains_itself_to_plain_pyarrow(latents_file: Path, photos: list[bytes], vae: str) -> None:
    table = pq.read_table(latents_file)
    assert table.schema.equals(schema.LATENTS)
    says = {name.decode(): text.decode() for name, text in table.schema.metadata.items()}
    assert says.items() >= {"vae": "sd2", "model": vae, "scaling_factor": "0.18215", "shift_factor": "0.0", "size_px": "64"}.items()
    assert "final = (raw - shift_factor) * scaling_factor" in says["latents"] == encoding.MEANING
    row = table.slice(2, 1).to_pylist()[0]
    mean = np.array(row["latent_mean"], np.float16).reshape(row["latent_shape"])
    exact = Autoencoder(vae).encode(centre_square(picture_of(photos[2]).pixels, 64)[0][None])[0][0]
    np.testing.assert_allclose(mean, exact, atol=2e-3, rtol=1e-3)


def test_numbers_lie_in_a_file_as_they_are(latents_file: Path) -> None:
    group = pq.ParquetFile(latents_file).metadata.row_group(0)
    columns = {group.column(number).path_in_schema: group.column(number) for number in range(group.num_columns)}
    for name in ("latent_mean", "latent_std"):
        column = columns[f"{name}.list.element"]
        assert (column.compression, column.has_dictionary_page, column.is_stats_set) == ("UNCOMPRESSED", False, False)
    assert (columns["status"].compression, columns["key"].is_stats_set) == ("ZSTD", True)


def test_a_file_explains_itself_to_duckdb(latents_file: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    types = {name: kind for name, kind, *_ in duckdb.sql(f"describe from '{latents_file}'").fetchall()}
    assert types["latent_mean"] == types["latent_std"] == "FLOAT[]"
    assert (types["latent_shape"], types["crop"], types["key"]) == ("INTEGER[]", "INTEGER[]", "BIGINT")
    rows = duckdb.sql(f"select latent_mean from '{latents_file}' where status = 'ok' order by key").fetchall()
    truth = [one for one in pq.read_table(latents_file)["latent_mean"].to_pylist() if one is not None]
    assert [list(row[0]) for row in rows] == [[float(number) for number in one] for one in truth]
    assert duckdb.sql(f"select latent_mean from '{latents_file}' where status != 'ok'").fetchall() == [(None,)]
    says = dict(duckdb.sql(f"select decode(key), decode(value) from parquet_kv_metadata('{latents_file}')").fetchall())
    assert (says["scaling_factor"], says["latents"]) == ("0.18215", encoding.MEANING)


def test_a_file_explains_itself_to_datasets(latents_file: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_parquet(str(latents_file), cache_dir=str(tmp_path / "cache"))
    assert table.features["latent_mean"].feature.dtype == "float16"
    first = table.with_format("numpy")[0]
    truth = pq.read_table(latents_file).slice(0, 1)["latent_mean"].to_pylist()[0]
    assert first["latent_mean"].reshape(first["latent_shape"]).ravel().tolist() == truth
