"""Overrides are typed, refusals are one clear sentence, and a fingerprint knows what matters."""

import pytest
from pydantic import ValidationError

from ccray import config, recipes, storage
from ccray.interfaces import Refused


def test_overrides_are_typed() -> None:
    words = [
        "train.learning_rate=1e-4",
        "train.steps=7",
        "train.sample_prompts=[a, b]",
        "resources.caption.label_selector={zone: a}",
        "train.policy=permissive",
    ]
    recipe = config.build(recipes.tiny(), words)
    assert (recipe.train.learning_rate, recipe.train.steps, recipe.train.sample_prompts) == (1e-4, 7, ("a", "b"))
    assert recipe.resources.caption.label_selector == {"zone": "a"}
    assert recipe.train.policy == "permissive"


def test_quoted_words_are_texts() -> None:
    assert config.build(recipes.tiny(), ['catalog.source="table:1e5.csv"']).catalog.source == "table:1e5.csv"


def test_words_win_over_the_file() -> None:
    recipe = config.build(recipes.tiny(), ["train.steps=9"], "train: {steps: 5, seed: 3}")
    assert (recipe.train.steps, recipe.train.seed) == (9, 3)


def test_a_denoiser_of_another_kind_replaces_the_whole_section() -> None:
    dit = recipes.tiny_dit().denoiser.model_dump_json()
    assert config.build(recipes.tiny(), [f"denoiser={dit}"]).denoiser == recipes.tiny_dit().denoiser


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("train.stepz=3", ["train.stepz", "steps"]),
        ("tran.steps=3", ["tran", "train"]),
        ("train.steps=0", ["train.steps", "0", "greater than or equal to 1"]),
        ("train.steps=many", ["train.steps", "many", "integer"]),
        ("train=3", ["train", "section"]),
        ("train.steps", ["train.steps", "key.sub=value"]),
        ("caption.captioner=Salesforce/blip2", ["caption.captioner", "Salesforce/blip2", "pattern"]),
        ("catalog.policy=anything", ["catalog.policy", "anything", "permissive"]),
        ("text.width=64", ["text.width is 64", "96"]),
        ("denoiser.out_channels=8", ["out_channels is 8", "4"]),
    ],
)
def test_a_refusal_names_key_value_and_expectation(word: str, parts: list[str]) -> None:
    with pytest.raises(Refused) as refusal:
        config.build(recipes.tiny(), [word])
    message = str(refusal.value)
    assert all(part in message for part in parts), message
    assert "\n" not in message


def test_configs_are_frozen() -> None:
    with pytest.raises(ValidationError):
        recipes.tiny().train.steps = 3  # type: ignore[misc]


def test_resources_are_outside_every_fingerprint() -> None:
    here = recipes.tiny()
    there = config.build(here, ["resources.train.workers=64", "resources.caption.gpus=1", "resources.encode.max_actors=9"])
    assert all(storage.stage_of(here, stage).fingerprint == storage.stage_of(there, stage).fingerprint for stage in config.STAGE_SECTIONS)


def test_a_stage_knows_only_its_own_settings_and_its_inputs() -> None:
    base = {stage: storage.stage_of(recipes.tiny(), stage).fingerprint for stage in config.STAGE_SECTIONS}

    def changed(word: str) -> set[str]:
        recipe = config.build(recipes.tiny(), [word])
        return {stage for stage in config.STAGE_SECTIONS if storage.stage_of(recipe, stage).fingerprint != base[stage]}

    assert changed("train.steps=5") == {"train", "evaluate", "publish"}
    assert changed("caption.max_new_tokens=5") == {"caption", "train", "evaluate", "publish"}
    assert changed("catalog.policy=permissive") == set(config.STAGE_SECTIONS)
    assert changed("evaluate.count=5") == {"evaluate"}
