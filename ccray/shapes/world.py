"""The drawn world: scenes of one or two coloured shapes, their pictures and their captions. CC0, by construction.

A `Scene` is what a caption says plus a little jitter that no caption mentions, so that two pictures of one caption differ.
Scenes are drawn from (seed, index) by a hash, pictures by integer arithmetic, so both are the same bits on every machine.

    train_scene(seed, index)  ->  Scene  ->  draw  ->  pixels
    held_out_scene(...)                  ->  caption  ->  words  ->  parse  ->  Scene without its jitter

Captions are English or Japanese (`LANGUAGES`): the same scene in either, and no sentence is of both.

One in six (colour, shape, size, place) combinations, those of `is_held_out_thing`, is kept out of all training scenes, those of one
thing and those of two, while any three attributes of it occur together: a model that draws it has composed, not recalled.

Lengths are in 64ths of the picture's side, x to the right and y down, so that one scene can be drawn at any size.
"""

import hashlib
import io
import itertools
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# sRGB, 8 bits. Six hues 60 degrees apart, so that no blend of one with a background looks like another.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 45),
    "yellow": (240, 205, 40),
    "green": (45, 165, 65),
    "cyan": (40, 195, 215),
    "blue": (45, 75, 220),
    "purple": (190, 50, 200),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (240, 240, 240),
    "grey": (140, 140, 140),
    "black": (20, 20, 20),
    "brown": (115, 75, 45),
}
SHAPES: tuple[str, ...] = ("circle", "square", "triangle")
# Half the side of the box a shape fills: 8 and 13 pixels across at 32 px, areas 1 to 2.6.
SIZES: dict[str, int] = {"small": 8, "large": 13}
# Centre of that box. Large things on opposite sides stay 2 px apart at 32 px whatever their jitter.
PLACES: dict[str, tuple[int, int]] = {
    "in the centre": (32, 32),
    "on the left": (15, 32),
    "on the right": (49, 32),
    "at the top": (32, 15),
    "at the bottom": (32, 49),
}
OPPOSITE_PLACES: tuple[tuple[str, str], ...] = (("on the left", "on the right"), ("at the top", "at the bottom"))
# How Japanese names each, ready to stand before what it belongs to; NFC. 上部, not 上: 「背景の上に」 would be "on top of the background".
JAPANESE: dict[str, dict[str, str]] = {
    "colour": {"red": "赤い", "yellow": "黄色い", "green": "緑の", "cyan": "水色の", "blue": "青い", "purple": "紫の"},
    "background": {"white": "白い", "grey": "灰色の", "black": "黒い", "brown": "茶色の"},
    "shape": {"circle": "丸", "square": "四角", "triangle": "三角"},
    "size": {"small": "小さな", "large": "大きな"},
    "place": {"in the centre": "中央", "on the left": "左側", "on the right": "右側", "at the top": "上部", "at the bottom": "下部"},
}
LANGUAGES: tuple[str, ...] = ("en", "ja")

UNITS = 64
TWO_THINGS_PERCENT = 22
OFFSET_LIMIT = 2
TINT_LIMIT = 5
SUBPIXELS = 4

Tint = tuple[int, int, int]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Thing:
    """One coloured shape. `offset` (64ths of the picture) and `tint` (added to its RGB) are jitter that captions do not mention."""

    colour: str
    shape: str
    size: str
    place: str
    offset: tuple[int, int] = (0, 0)
    tint: Tint = (0, 0, 0)


@dataclass(frozen=True)
class Scene:
    """A background and one or two things, in the order in which the caption names them; `tint` is jitter of the background."""

    background: str
    things: tuple[Thing, ...]
    tint: Tint = (0, 0, 0)


class _Dice:
    """Small whole numbers from a hash of `words`: the same on every platform and in every version of every library."""

    def __init__(self, *words: object) -> None:
        self._bytes = iter(hashlib.blake2b("/".join(map(str, words)).encode(), digest_size=64).digest())

    def below(self, bound: int) -> int:
        return (next(self._bytes) << 8 | next(self._bytes)) % bound

    def pick(self, options: tuple[str, ...]) -> str:
        return options[self.below(len(options))]

    def tint(self) -> Tint:
        """Three bytes, one a channel: 11 levels each, so that equal captions practically never give equal bytes."""
        span = 2 * TINT_LIMIT + 1
        return (
            next(self._bytes) % span - TINT_LIMIT,
            next(self._bytes) % span - TINT_LIMIT,
            next(self._bytes) % span - TINT_LIMIT,
        )

    def offset(self) -> tuple[int, int]:
        span = 2 * OFFSET_LIMIT + 1
        return next(self._bytes) % span - OFFSET_LIMIT, next(self._bytes) % span - OFFSET_LIMIT


def is_held_out_thing(thing: Thing) -> bool:
    """One colour for each shape, size and place: 30 of 180 combinations, laid out so that every three attributes still meet in training.

    With (colour, shape, place) held out whatever the size, a first captioner learned the rule itself ("blue and on the left is never a
    circle") and was right on a quarter of the held-out pictures.
    """
    colour, size = list(COLOURS).index(thing.colour), list(SIZES).index(thing.size)
    shape, place = SHAPES.index(thing.shape), list(PLACES).index(thing.place)
    return (colour + 3 * size + shape + place) % len(COLOURS) == 0


def is_held_out(scene: Scene) -> bool:
    """True if any thing of `scene` is a combination that training never shows."""
    return any(is_held_out_thing(thing) for thing in scene.things)


def _roll_thing(dice: _Dice, colours: tuple[str, ...], place: str) -> Thing:
    return Thing(
        colour=dice.pick(colours),
        shape=dice.pick(SHAPES),
        size=dice.pick(tuple(SIZES)),
        place=place,
        offset=dice.offset(),
        tint=dice.tint(),
    )


def _roll_scene(dice: _Dice, two_things: bool) -> Scene:
    """Two things lie on opposite sides and differ in colour, so that neither their pixels nor their names run together."""
    background = dice.pick(tuple(BACKGROUNDS))
    tint = dice.tint()
    places = OPPOSITE_PLACES[dice.below(len(OPPOSITE_PLACES))] if two_things else (dice.pick(tuple(PLACES)),)
    things: tuple[Thing, ...] = ()
    for place in places:
        unused = tuple(colour for colour in COLOURS if colour not in [thing.colour for thing in things])
        things += (_roll_thing(dice, unused, place),)
    return Scene(background, things, tint)


def _scene(split: str, seed: int, index: int) -> Scene:
    """The first scene of the split in a row of tries; the number of things is settled before, so both splits have the same share of pairs."""
    two_things = _Dice(split, seed, index).below(100) < TWO_THINGS_PERCENT
    for attempt in itertools.count():
        scene = _roll_scene(_Dice(split, seed, index, attempt), two_things)
        if is_held_out(scene) == (split == "held out"):
            return scene
    raise AssertionError("unreachable: one try in six is held out")


def train_scene(seed: int, index: int) -> Scene:
    """Scene number `index` of the training split of `seed`; never a held-out combination."""
    return _scene("train", seed, index)


def held_out_scene(seed: int, index: int) -> Scene:
    """Scene number `index` of the held-out split of `seed`: at least one of its things is in no training scene."""
    return _scene("held out", seed, index)


def coverage(shape: str, half: float, centre: tuple[float, float], size_px: int) -> NDArray[np.int32]:
    """How many of each pixel's SUBPIXELS**2 samples lie in the shape.

    `half` and `centre` (x, y) in 64ths of the picture; returns H W int32. Exact integer arithmetic when they are whole numbers.
    """
    samples = size_px * SUBPIXELS
    middles = (2 * np.arange(samples, dtype=np.int64) + 1) * UNITS
    dx = (middles - 2 * samples * centre[0])[None, :]
    dy = (middles - 2 * samples * centre[1])[:, None]
    reach = 2 * samples * half
    if shape == "circle":
        inside = dx * dx + dy * dy <= reach * reach
    elif shape == "square":
        inside = (abs(dx) <= reach) & (abs(dy) <= reach)
    elif shape == "triangle":
        inside = (2 * abs(dx) <= dy + reach) & (dy <= reach)
    else:
        raise ValueError(f"shape {shape!r} is not one of {SHAPES}")
    return inside.reshape(size_px, SUBPIXELS, size_px, SUBPIXELS).sum(axis=(1, 3), dtype=np.int32)


def _paint(canvas: NDArray[np.int32], thing: Thing) -> NDArray[np.int32]:
    x, y = PLACES[thing.place]
    centre = (x + thing.offset[0], y + thing.offset[1])
    covered = coverage(thing.shape, SIZES[thing.size], centre, canvas.shape[0])[:, :, None]
    colour = np.add(COLOURS[thing.colour], thing.tint, dtype=np.int32)
    whole = SUBPIXELS * SUBPIXELS
    return (canvas * (whole - covered) + colour * covered + whole // 2) // whole


def draw(scene: Scene, size_px: int = 32) -> Pixels:
    """The picture of `scene`: H W 3, uint8 sRGB, antialiased, bit for bit the same everywhere."""
    ground = np.add(BACKGROUNDS[scene.background], scene.tint, dtype=np.int32)
    canvas = np.broadcast_to(ground, (size_px, size_px, 3))
    for thing in scene.things:
        canvas = _paint(canvas, thing)
    return canvas.astype(np.uint8)


def png_bytes(pixels: Pixels) -> bytes:
    """PNG file of H W 3 uint8 pixels, without metadata."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def phrase(thing: Thing) -> str:
    """What a caption says of one thing."""
    return f"a {thing.size} {thing.colour} {thing.shape} {thing.place}"


def _japanese_phrase(thing: Thing) -> str:
    """What a Japanese caption says of one thing, e.g. 「左側に小さな赤い丸が」."""
    names = JAPANESE
    return f"{names['place'][thing.place]}に{names['size'][thing.size]}{names['colour'][thing.colour]}{names['shape'][thing.shape]}が"


def _refuse_unknown(language: str) -> None:
    if language not in LANGUAGES:
        raise ValueError(f"the shapes world has no captions in language {language!r}: expected one of {', '.join(LANGUAGES)}")


def caption(scene: Scene, language: str = "en") -> str:
    """The one sentence for `scene`.

    In English e.g. "a large red circle on the left on a white background"; 11 or 19 lower-case words. In Japanese e.g.
    「白い背景の左側に大きな赤い丸がある。」, two things joined by 、 and no space anywhere.

    Raises:
        ValueError: for a language that is not one of LANGUAGES.
    """
    _refuse_unknown(language)
    if language == "ja":
        return f"{JAPANESE['background'][scene.background]}背景の{'、'.join(map(_japanese_phrase, scene.things))}ある。"
    return f"{' and '.join(map(phrase, scene.things))} on a {scene.background} background"


def words() -> tuple[str, ...]:
    """Every word that an English caption can hold, sorted: the vocabulary of the teachers' tokenizers."""
    sentence = " ".join((*COLOURS, *BACKGROUNDS, *SHAPES, *SIZES, *PLACES, "a and on background"))
    return tuple(sorted(set(sentence.split())))


def japanese_words() -> tuple[str, ...]:
    """Every piece that a Japanese caption is made of, sorted; a caption falls into them in one way."""
    names = [name for kind in JAPANESE.values() for name in kind.values()]
    return tuple(sorted({*names, "背景の", "に", "が", "、", "ある", "。"}))


def _any_of(name: str, options: tuple[str, ...]) -> str:
    return f"(?P<{name}>{'|'.join(options)})"


def _japanese_any_of(kind: str) -> str:
    return _any_of(kind, tuple(JAPANESE[kind].values()))


@dataclass(frozen=True)
class _Grammar:
    """How sentences of one language are taken apart; `names`: kind of attribute -> its word -> how Scene has it (nothing: as it is)."""

    sentence: re.Pattern[str]
    thing: re.Pattern[str]
    joint: str
    names: dict[str, dict[str, str]]


_GRAMMARS: dict[str, _Grammar] = {
    "en": _Grammar(
        re.compile(rf"(?P<things>.+) on a {_any_of('background', tuple(BACKGROUNDS))} background"),
        re.compile(
            rf"a {_any_of('size', tuple(SIZES))} {_any_of('colour', tuple(COLOURS))} {_any_of('shape', SHAPES)} {_any_of('place', tuple(PLACES))}"
        ),
        " and ",
        {},
    ),
    "ja": _Grammar(
        re.compile(rf"{_japanese_any_of('background')}背景の(?P<things>.+)ある。"),
        re.compile(rf"{_japanese_any_of('place')}に{_japanese_any_of('size')}{_japanese_any_of('colour')}{_japanese_any_of('shape')}が"),
        "、",
        {kind: {word: name for name, word in words.items()} for kind, words in JAPANESE.items()},
    ),
}


def parse(text: str, language: str = "en") -> Scene | None:
    """The scene without jitter that `text` describes, or None if it is not a sentence of `caption` in that language.

    Things keep the order of the sentence, and need not be a pair that this world would draw.

    Raises:
        ValueError: for a language that is not one of LANGUAGES.
    """
    _refuse_unknown(language)
    grammar = _GRAMMARS[language]
    sentence = grammar.sentence.fullmatch(text)
    if sentence is None:
        return None
    found = [grammar.thing.fullmatch(one) for one in sentence["things"].split(grammar.joint)]
    things = tuple(_thing(grammar, one) for one in found if one is not None)
    if len(things) < len(found) or len(things) > 2:
        return None
    return Scene(_name(grammar, sentence, "background"), things)


def _thing(grammar: _Grammar, found: re.Match[str]) -> Thing:
    colour, shape, size, place = (_name(grammar, found, kind) for kind in ("colour", "shape", "size", "place"))
    return Thing(colour, shape, size, place)


def _name(grammar: _Grammar, found: re.Match[str], kind: str) -> str:
    return grammar.names[kind][found[kind]] if grammar.names else found[kind]


def scenes_match(first: Scene, second: Scene) -> bool:
    """True if one caption fits both, whatever the order of their things and their jitter."""
    return first.background == second.background and sorted(map(phrase, first.things)) == sorted(map(phrase, second.things))
