import io
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from ccray.config import CaptionConfig
from ccray.data.captioning.preparing import view_of
from ccray.data.pictures.images import Limits, Picture, decode
from ccray.data.pictures.pixels import OK, LoadPixels, SmallView, bounded_square_view, pixels_of
from ccray.interfaces import Refused, Subject
from ccray.models.captioners.build import captioner_of
from ccray.storage import Root, shard_name
from tests import folders


def photos(shared_data: Path, count: int) -> list[np.ndarray]:
    return [np.array(Image.open(path).convert("RGB")) for path in sorted((shared_data / "coco_cc_photos").rglob("*.jpg"))[:count]]


def test_the_view_gives_exactly_what_the_captioner_would_make(shared_data: Path) -> None:
    for crop_px in (None, 20, 200):
        config = CaptionConfig(crop_px=crop_px)
        view, captioner = view_of(config), captioner_of(config)
        for photo in photos(shared_data, 6):
            pixels, crop = view(photo)
            assert pixels.shape == (32, 32, 3)
            expected = photo if crop_px is None else bounded_square_view(photo, crop_px)[0]
            processed = captioner.processor.image_processor(expected, return_tensors="pt").pixel_values
            from_view = captioner.pixel_values(captioner._host([Subject(pixels)])["pixels"])
            assert bool((processed == from_view).all())
            height, width = photo.shape[:2]
            assert crop == ((0, 0, width, height) if crop_px is None else bounded_square_view(photo, crop_px)[1])


def test_a_task_that_unpickles_the_view_needs_neither_torch_nor_transformers(tmp_path: Path) -> None:
    (tmp_path / "view").write_bytes(pickle.dumps(view_of(CaptionConfig(crop_px=48))))
    program = f"""
import pickle, sys
import numpy as np
import ccray.data.pictures.pixels
view = pickle.loads(open({str(tmp_path / "view")!r}, "rb").read())
pixels, crop = view(np.full((100, 60, 3), 7, np.uint8))
print(pixels.shape, crop, sorted({{"torch", "transformers", "ray", "diffusers"}} & set(sys.modules)))
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "(32, 32, 3) (0, 20, 60, 60) []"


def test_florence2_is_squashed(tmp_path: Path) -> None:
    view = view_of(CaptionConfig(family="florence2", model=str(folders.florence2_folder(tmp_path))))
    pixels, crop = view(np.zeros((50, 90, 3), np.uint8))
    assert pixels.shape == (32, 32, 3)
    assert crop == (0, 0, 90, 50)


def settings(place: Path, **size: int) -> str:
    """A folder with the picture settings of a chat model and nothing else, as published by the Qwen-VL family."""
    text = {"image_processor_type": "Qwen2VLImageProcessor", "size": size, "patch_size": 14, "merge_size": 2, "temporal_patch_size": 2}
    (place / "preprocessor_config.json").write_text(json.dumps(text))
    return str(place)


def test_a_chat_model_gets_no_more_pixels_than_it_would_keep(tmp_path: Path) -> None:
    place = settings(tmp_path, shortest_edge=3136, longest_edge=200_000)
    for family in ("chat", "vllm"):
        view = view_of(CaptionConfig(family=family, model=place))
        pixels, crop = view(np.zeros((600, 1200, 3), np.uint8))
        assert pixels.shape[0] * pixels.shape[1] <= 200_000
        assert pixels.shape[1] / pixels.shape[0] == pytest.approx(2, rel=0.02)
        assert crop == (0, 0, 1200, 600)
        small, _ = view(np.zeros((300, 400, 3), np.uint8))
        assert small.shape == (300, 400, 3)
        square, crop = view_of(CaptionConfig(family=family, model=place, crop_px=64))(np.zeros((600, 1200, 3), np.uint8))
        assert square.shape == (64, 64, 3)
        assert crop == (300, 0, 600, 600)


def test_a_model_that_states_no_area_gets_the_whole_picture(tmp_path: Path) -> None:
    view = view_of(CaptionConfig(family="chat", model=str(folders.florence2_folder(tmp_path))))
    pixels, _ = view(np.zeros((1500, 4096, 3), np.uint8))
    assert pixels.shape == (750, 2048, 3)


def test_settings_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot be loaded"):
        view_of(CaptionConfig(model=str(tmp_path)))


def test_a_processor_that_does_more_than_squash_is_refused(tmp_path: Path) -> None:
    text = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 224}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(text))
    with pytest.raises(Refused, match=r"shortest_edge.*expected one that resizes to a height and a width"):
        view_of(CaptionConfig(model=str(tmp_path)))


def large_jpeg(shared_data: Path, size: tuple[int, int], turned: bool = False) -> bytes:
    """A mosaic of real photos, so that it has the detail of a large one."""
    width, height = size
    tiles = photos(shared_data, 12)
    canvas = Image.new("RGB", size)
    for number, (left, top) in enumerate((left, top) for top in range(0, height, 480) for left in range(0, width, 640)):
        canvas.paste(Image.fromarray(tiles[number % 12]).resize((640, 480)), (left, top))
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    buffer = io.BytesIO()
    canvas.save(buffer, "JPEG", quality=90, exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize(("turned", "size"), [(False, (2001, 1503)), (True, (2003, 1500))])
def test_a_large_jpeg_decoded_for_a_small_picture_is_nearly_the_same(shared_data: Path, turned: bool, size: tuple[int, int]) -> None:
    data = large_jpeg(shared_data, size, turned)
    full, reduced = decode(data, Limits()), decode(data, Limits(), at_least_px=300)
    assert isinstance(full, Picture)
    assert isinstance(reduced, Picture)
    assert full.received == reduced.received == (full.width, full.height) == (size[::-1] if turned else size)
    assert (reduced.width, reduced.height) == (round(full.width / 4), round(full.height / 4))
    small = [np.asarray(Image.fromarray(one.pixels).resize((150, 150), Image.Resampling.BICUBIC), np.int16) for one in (full, reduced)]
    assert np.abs(small[0] - small[1]).mean() < 2
    assert np.array_equal(decode(data, Limits(), at_least_px=300).pixels, reduced.pixels)


def test_a_jpeg_less_than_twice_as_large_is_decoded_whole(shared_data: Path) -> None:
    data = large_jpeg(shared_data, (700, 500))
    assert np.array_equal(decode(data, Limits(), at_least_px=251).pixels, decode(data, Limits()).pixels)


def test_the_stage_reports_the_full_pictures_measures(shared_data: Path, tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    data = large_jpeg(shared_data, (2001, 1503))
    table = pa.Table.from_pylist([{"key": 5, "image": data}]).cast(pa.schema([("key", pa.int64()), ("image", pa.binary())]))
    root.write_table(f"images/{shard_name(0)}", table)
    view = view_of(CaptionConfig(crop_px=100))
    assert isinstance(view, SmallView)
    assert view.at_least_px == 200
    answer = LoadPixels(root, view)({"key": np.array([5]), "shard": np.array([0])})
    assert answer["status"][0] == OK
    assert list(answer["original_size"][0]) == [2001, 1503]
    assert list(answer["crop"][0]) == [249, 0, 1503, 1503]
    assert pixels_of(answer, 0).shape == (32, 32, 3)
