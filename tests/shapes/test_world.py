"""The world is the same bits everywhere, its splits do not meet, and its sentences can be read back."""

import hashlib
import io
import itertools
import unicodedata
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image

from ccray.shapes.world import (
    BACKGROUNDS,
    COLOURS,
    JAPANESE,
    LANGUAGES,
    OPPOSITE_PLACES,
    PLACES,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    caption,
    coverage,
    draw,
    held_out_scene,
    is_held_out,
    is_held_out_thing,
    japanese_words,
    parse,
    png_bytes,
    scenes_match,
    train_scene,
    words,
)

DRAWS = 20_000

# sha256 of the pixels; they change only with the world itself, and with them every golden figure of a run on it.
GOLDEN = {
    ("train", 0, 32): "3b3dd659190226ab5c296504825a00de9205d3b19b5bb135a9f1df33a963e5fe",
    ("train", 1, 32): "8ac341487c48213d4876370a9019d84f782d1774097b4f564f001235bc0b3ffe",
    ("train", 1, 64): "8ab83a160a7c40617c09ad509509af297d813ac532ef1962186e9485df047705",
    ("held out", 0, 32): "92be40f58c487228d34fde83da2e5c48cf1ad157e3ef1bf50b8b4239dabfe1b7",
    ("held out", 7, 48): "2245fb66be05608a42151dd2b8466e40ad499575342a4ff3881abb3ef976389a",
}


@pytest.mark.parametrize(("case", "expected"), GOLDEN.items(), ids=str)
def test_drawings_are_the_same_bits_everywhere(case: tuple[str, int, int], expected: str) -> None:
    split, index, size_px = case
    scene = train_scene(0, index) if split == "train" else held_out_scene(0, index)
    assert hashlib.sha256(draw(scene, size_px).tobytes()).hexdigest() == expected


def test_training_never_shows_a_held_out_combination() -> None:
    scenes = [train_scene(seed, index) for seed in (0, 1_000_000) for index in range(DRAWS)]
    assert not any(is_held_out_thing(thing) for scene in scenes for thing in scene.things)
    assert all(is_held_out(held_out_scene(0, index)) for index in range(DRAWS))


ATTRIBUTES = {"colour": COLOURS, "shape": SHAPES, "size": SIZES, "place": PLACES}


@pytest.mark.parametrize("left_out", ATTRIBUTES)
def test_training_shows_any_three_attributes_together(left_out: str) -> None:
    three = [name for name in ATTRIBUTES if name != left_out]
    things = [thing for index in range(DRAWS) for thing in train_scene(0, index).things]
    assert {tuple(getattr(thing, name) for name in three) for thing in things} == set(itertools.product(*(ATTRIBUTES[name] for name in three)))


def test_a_sixth_of_the_combinations_is_held_out_and_uses_every_value() -> None:
    combinations = [combination for combination in itertools.product(*ATTRIBUTES.values()) if is_held_out_thing(Thing(*combination))]
    assert len(combinations) == 30
    assert [set(values) for values in zip(*combinations, strict=True)] == [set(values) for values in ATTRIBUTES.values()]


@pytest.mark.parametrize("split", [train_scene, held_out_scene])
def test_a_fifth_of_the_scenes_hold_two_things_apart(split: Callable[[int, int], Scene]) -> None:
    pairs = [scene.things for scene in (split(0, index) for index in range(DRAWS)) if len(scene.things) == 2]
    assert 0.20 < len(pairs) / DRAWS < 0.25
    assert all((first.place, second.place) in OPPOSITE_PLACES and first.colour != second.colour for first, second in pairs)


def test_large_neighbours_do_not_touch() -> None:
    inward = [Thing("red", "square", "large", "on the left", (2, 0)), Thing("blue", "square", "large", "on the right", (-2, 0))]
    alone = [draw(Scene("white", (thing,))) != draw(Scene("white", ())) for thing in inward]
    columns = [np.flatnonzero(changed.any(axis=(0, 2))) for changed in alone]
    assert columns[1].min() - columns[0].max() > 2


def test_pictures_of_a_large_sample_are_all_different() -> None:
    assert len({draw(train_scene(0, index)).tobytes() for index in range(4_000)}) == 4_000


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("split", [train_scene, held_out_scene])
def test_parse_is_the_inverse_of_caption(split: Callable[[int, int], Scene], language: str) -> None:
    for index in range(2_000):
        scene = split(2, index)
        parsed = parse(caption(scene, language), language)
        assert parsed is not None
        assert scenes_match(parsed, scene)
        assert caption(parsed, language) == caption(scene, language)


def every_scene() -> Iterator[Scene]:
    """All that a caption can tell apart: 720 scenes of one thing, and all ordered pairs on opposite sides, also those of one colour."""
    kinds = list(itertools.product(COLOURS, SHAPES, SIZES))
    for background in BACKGROUNDS:
        for kind, place in itertools.product(kinds, PLACES):
            yield Scene(background, (Thing(*kind, place),))
        for first, second in OPPOSITE_PLACES:
            for one, other in itertools.product(kinds, repeat=2):
                yield Scene(background, (Thing(*one, first), Thing(*other, second)))


def test_every_scene_has_its_own_sentence_in_every_language_and_is_read_back() -> None:
    scenes = list(every_scene())
    assert len(scenes) == 4 * (36 * 5 + 2 * 36 * 36)
    sentences = [caption(scene, language) for language in LANGUAGES for scene in scenes]
    assert len(set(sentences)) == len(sentences)
    assert all(parse(caption(scene, language), language) == scene for language in LANGUAGES for scene in scenes)
    assert not any(parse(caption(scene, "ja"), "en") or parse(caption(scene, "en"), "ja") for scene in scenes)


@pytest.mark.parametrize(
    ("scene", "sentence"),
    [
        (Scene("white", (Thing("red", "circle", "small", "on the left"),)), "白い背景の左側に小さな赤い丸がある。"),
        (Scene("grey", (Thing("cyan", "triangle", "large", "in the centre"),)), "灰色の背景の中央に大きな水色の三角がある。"),
        (
            Scene("brown", (Thing("yellow", "square", "large", "at the top"), Thing("green", "circle", "small", "at the bottom"))),
            "茶色の背景の上部に大きな黄色い四角が、下部に小さな緑の丸がある。",
        ),
    ],
    ids=["one thing", "words with no", "two things"],
)
def test_japanese_sentences(scene: Scene, sentence: str) -> None:
    assert caption(scene, "ja") == sentence
    assert parse(sentence, "ja") == scene


def test_japanese_is_nfc_without_spaces_and_names_every_attribute() -> None:
    assert {kind: set(names) for kind, names in JAPANESE.items()} == {
        "background": set(BACKGROUNDS),
        "colour": set(COLOURS),
        "shape": set(SHAPES),
        "size": set(SIZES),
        "place": set(PLACES),
    }
    for scene in every_scene():
        sentence = caption(scene, "ja")
        assert unicodedata.is_normalized("NFC", sentence)
        assert not any(letter.isspace() or letter.isascii() for letter in sentence)


def test_japanese_words_make_up_every_japanese_caption_in_one_way() -> None:
    for index in range(500):
        sentence = caption(train_scene(0, index), "ja")
        ways = [1] + [0] * len(sentence)
        for end in range(1, len(sentence) + 1):
            ways[end] = sum(ways[end - len(word)] for word in japanese_words() if sentence[:end].endswith(word))
        assert ways[-1] == 1


@pytest.mark.parametrize("language", ["", "de", "EN", "ja-JP", "und"])
def test_other_languages_are_refused_by_name(language: str) -> None:
    with pytest.raises(ValueError, match=f"{language!r}: expected one of en, ja"):
        caption(train_scene(0, 0), language)
    with pytest.raises(ValueError, match=f"{language!r}: expected one of en, ja"):
        parse("", language)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red circle",
        "a large red circle on the left on a white background.",
        "a large red circle on the left on a pink background",
        "a large red circle on the left and on a white background",
        "a large red circle on the left and a large red circle on the left and a large red circle on the left on a white background",
    ],
)
def test_parse_refuses_other_sentences(text: str) -> None:
    assert parse(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "赤い丸",
        "白い背景の左側に小さな赤い丸がある",
        "白い背景の左側に小さな赤い丸がある。 ",
        "白い背景の左側に小さな赤い丸、右側に小さな青い丸がある。",
        "桃色の背景の左側に小さな赤い丸がある。",
        "白い背景の左側に小さな赤い丸が、ある。",
        "白い背景の左側に小さな赤い丸が、左側に小さな赤い丸が、左側に小さな赤い丸がある。",
        "a small red circle on the left on a white background",
        unicodedata.normalize("NFD", "白い背景の左側に小さな赤い丸がある。"),
    ],
)
def test_parse_refuses_other_japanese_sentences(text: str) -> None:
    assert parse(text, "ja") is None


def test_scenes_match_whatever_the_order_and_the_jitter() -> None:
    left, right = Thing("red", "circle", "small", "on the left"), Thing("blue", "square", "large", "on the right", (1, 2), (3, 0, 0))
    assert scenes_match(Scene("white", (left, right)), Scene("white", (right, left), (1, 1, 1)))
    assert not scenes_match(Scene("white", (left, right)), Scene("grey", (left, right)))
    assert not scenes_match(Scene("white", (left,)), Scene("white", (left, right)))


def test_the_vocabulary_holds_every_caption() -> None:
    assert {word for index in range(2_000) for word in caption(train_scene(0, index)).split()} == set(words())


def test_png_gives_the_pixels_back() -> None:
    pixels = draw(train_scene(0, 3))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png_bytes(pixels)))), pixels)


def test_the_areas_of_the_two_sizes_are_well_apart() -> None:
    areas = {(shape, size): coverage(shape, SIZES[size], (32, 32), 32).sum() for shape in SHAPES for size in SIZES}
    assert all(areas[shape, "large"] > 2.5 * areas[shape, "small"] for shape in SHAPES)


def test_an_unknown_shape_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'hexagon'"):
        coverage("hexagon", 8, (32, 32), 32)


def test_every_background_occurs_in_training() -> None:
    assert {train_scene(0, index).background for index in range(200)} == set(BACKGROUNDS)
