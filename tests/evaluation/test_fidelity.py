"""Aggregates of the oracle and of the grammar: perfect pictures, pictures of other prompts, noise; captions right, wrong, flagged."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ccray import storage
from ccray.evaluation import fidelity
from ccray.evaluation.fidelity import Judged
from ccray.schema import CAPTIONS, CATALOG
from ccray.shapes import oracle, world
from ccray.storage import Root


def judged(count: int, seed: int = 0) -> list[Judged]:
    scenes = [world.held_out_scene(seed, index) for index in range(count)]
    return [Judged(oracle.read(world.draw(scene)), scene) for scene in scenes]


def test_true_pictures_are_perfect_and_shuffled_ones_at_chance() -> None:
    rows = judged(150)
    perfect = fidelity.mean_fidelity(one.fidelity for one in rows)
    assert perfect == dict.fromkeys(fidelity.FIELDS, 1.0)
    assert fidelity.mean_of_five(perfect) == 1.0
    shuffled, chance = fidelity.shuffled(rows), oracle.chance(2000)
    for name in fidelity.FIELDS:
        assert shuffled[name] == pytest.approx(chance[name], abs=0.05)


def test_shuffling_leaves_no_prompt_in_its_place() -> None:
    scenes = [world.Scene("white", (world.Thing(colour, "circle", "large", "in the centre"),)) for colour in ("red", "blue", "green")]
    rows = [Judged(oracle.truth(scene), scene) for scene in scenes]
    for count in (2, 3):
        assert fidelity.shuffled(rows[:count])["colour"] == 0
        assert fidelity.shuffled(rows[:count])["shape"] == 1
    assert fidelity.shuffled(rows[:1]) == {}
    assert fidelity.mean_fidelity([]) == {}


def test_noise_shows_nothing() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    row = Judged(oracle.read(noise), world.held_out_scene(0, 0))
    assert fidelity.mean_fidelity([row.fidelity]) == dict.fromkeys(fidelity.FIELDS, 0.0)


def test_groups() -> None:
    rows = judged(4)
    wrong = Judged(oracle.Reading(None, ()), rows[0].scene)
    figures = fidelity.by_group([*rows, wrong], ["a", "a", "b", "b", "b"])
    assert figures["a"]["all"] == 1
    assert figures["b"]["all"] == pytest.approx(2 / 3)


def of_scene(scene: world.Scene, **changes: str) -> world.Scene:
    """The scene without jitter, with its first thing or its background changed."""
    first = {name: value for name, value in changes.items() if name != "background"}
    things = tuple(dataclasses.replace(thing, **(first if number == 0 else {})) for number, thing in enumerate(scene.things))
    return world.Scene(changes.get("background", scene.background), things)


def another(options: Iterable[str], value: str) -> str:
    return next(option for option in options if option != value)


@pytest.mark.parametrize("language", world.LANGUAGES)
def test_captions_are_judged_in_their_own_language(language: str) -> None:
    for index in range(40):
        scene = world.train_scene(5, index)
        own = fidelity.judge_caption(f"5/{index}", world.caption(scene, language), language, "ok")
        assert (own.exact, own.fidelity.all, own.flagged) == (True, True, False)
        other = another(world.LANGUAGES, language)
        foreign = fidelity.judge_caption(f"5/{index}", world.caption(scene, other), language, "ok")
        assert (foreign.exact, foreign.fidelity.background, foreign.fidelity.all) == (False, False, False)


@pytest.mark.parametrize("language", world.LANGUAGES)
@pytest.mark.parametrize("attribute", oracle.ATTRIBUTES)
def test_the_attribute_that_a_caption_gets_wrong_is_named(attribute: str, language: str) -> None:
    options = {"background": world.BACKGROUNDS, "colour": world.COLOURS, "shape": world.SHAPES, "size": world.SIZES, "place": world.PLACES}[attribute]
    for index in range(40):
        scene = world.train_scene(5, index)
        value = scene.background if attribute == "background" else getattr(scene.things[0], attribute)
        wrong = of_scene(scene, **{attribute: another(options, value)})
        judged = fidelity.judge_caption(f"5/{index}", world.caption(wrong, language), language, "ok")
        missed = {name for name in oracle.ATTRIBUTES if not getattr(judged.fidelity, name)}
        assert not judged.exact
        assert missed == {attribute} if len(scene.things) == 1 else attribute in missed


def test_two_things_in_the_other_order_are_right_but_not_exact() -> None:
    index = next(index for index in range(100) if len(world.train_scene(5, index).things) == 2)
    scene = world.train_scene(5, index)
    turned = world.Scene(scene.background, scene.things[::-1])
    judged = fidelity.judge_caption(f"5/{index}", world.caption(turned, "ja"), "ja", "ok")
    assert (judged.exact, judged.fidelity.all) == (False, True)


@pytest.mark.parametrize(("caption", "status"), [(None, "taken_down"), ("", "empty"), (None, "ok"), ("a dog", "ok")])
def test_no_caption_says_nothing(caption: str | None, status: str) -> None:
    judged = fidelity.judge_caption("5/0", caption, "en", status)
    assert not judged.exact
    assert not any(dataclasses.asdict(judged.fidelity).values())
    assert judged.flagged == (status != "ok")


def test_a_flagged_caption_is_wrong_whatever_it_says() -> None:
    caption = world.caption(world.train_scene(5, 0))
    assert fidelity.judge_caption("5/0", caption, "en", "ok").exact
    judged = fidelity.judge_caption("5/0", caption, "en", "too_long")
    assert (judged.exact, judged.fidelity.all, judged.flagged) == (False, False, True)


@pytest.mark.parametrize(("tag", "language"), [("en", "en"), ("ja-JP", "ja"), ("EN-us", "en"), ("de", None), ("", None), (None, None), ("eng", None)])
def test_languages_by_their_tags(tag: str | None, language: str | None) -> None:
    assert fidelity.world_language(tag) == language


COUNT = 20


def seal_captions(root: Root, name: str, captions: Sequence[str | None], language: str, statuses: Sequence[str]) -> None:
    """A table of captions of training scenes 0 to COUNT of seed 5, in two shards."""
    for shard in range(2):
        part = range(shard * COUNT // 2, (shard + 1) * COUNT // 2)
        rows = [{"key": i, "shard": shard, "caption": captions[i], "language": language, "status": statuses[i]} for i in part]
        storage.seal(root, f"captions/{name}", shard, pa.Table.from_pylist(rows, CAPTIONS), CAPTIONS, "key")


@pytest.fixture
def captioned(tmp_path: Path) -> Root:
    """A catalog of COUNT scenes. `english` has one wrong colour (0), one flag (1) and one foreign sentence (2); `japanese` is perfect; `german`."""
    root = Root(str(tmp_path))
    for shard in range(2):
        part = range(shard * COUNT // 2, (shard + 1) * COUNT // 2)
        rows = [{"key": i, "shard": shard, "split": "train", "source": "shapes", "source_ref": f"5/{i}", "row_id": i} for i in part]
        storage.seal(root, "catalog", shard, pa.Table.from_pylist(rows, CATALOG), CATALOG, "key")
    scenes = [world.train_scene(5, index) for index in range(COUNT)]
    english: list[str | None] = [world.caption(scene) for scene in scenes]
    unused = next(colour for colour in world.COLOURS if colour not in [thing.colour for thing in scenes[0].things])
    english[0] = world.caption(of_scene(scenes[0], colour=unused))
    english[2] = "a dog"
    seal_captions(root, "english", english, "en", ["ok", "looping", *["ok"] * (COUNT - 2)])
    seal_captions(root, "japanese", [world.caption(scene, "ja") for scene in scenes], "ja", ["ok"] * COUNT)
    seal_captions(root, "german", ["ein Hund"] * COUNT, "de", ["ok"] * COUNT)
    return root


def directories(*names: str) -> dict[str, str]:
    return {name: f"captions/{name}" for name in names}


def test_figures_by_captioner(captioned: Root) -> None:
    figures = fidelity.caption_figures(captioned, "catalog", directories("english", "japanese", "german"))
    wrong = 3 / COUNT
    assert figures["captioners"]["english"] == pytest.approx(
        {"exact_match": 1 - wrong, "all": 1 - wrong, "colour": 1 - wrong, "flagged": 1 / COUNT, "rows": COUNT}
        | dict.fromkeys(("background", "shape", "size", "place"), 1 - 2 / COUNT)
    )
    assert figures["captioners"]["japanese"] == dict.fromkeys(("exact_match", *fidelity.FIELDS), 1.0) | {"flagged": 0.0, "rows": COUNT}
    assert list(figures["captioners"]) == ["english", "japanese"]
    assert (figures["caption_exact_match"], figures["captions_compared"]) == (pytest.approx(1 - wrong), COUNT)


def test_the_first_captioner_gives_the_figure_at_the_top_or_nobody(captioned: Root) -> None:
    assert fidelity.caption_figures(captioned, "catalog", directories("japanese", "english"))["caption_exact_match"] == 1
    assert "caption_exact_match" not in fidelity.caption_figures(captioned, "catalog", directories("german", "english"))
    assert fidelity.caption_figures(captioned, "catalog", {}) == {"captioners": {}}


def test_what_is_taken_down_is_not_counted(captioned: Root) -> None:
    captioned.write("takedowns/1.jsonl", b'{"key": "0000000000000000"}\n')
    figures = fidelity.caption_figures(captioned, "catalog", directories("english"))["captioners"]["english"]
    assert figures["rows"] == COUNT - 1
    assert figures["exact_match"] == pytest.approx(1 - 2 / (COUNT - 1))
