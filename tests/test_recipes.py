"""Every recipe is complete, and every published one says where each setting comes from."""

from typing import get_args

import pytest
import yaml

from ccray import config, recipes
from ccray.__main__ import main
from ccray.config import Recipe
from ccray.interfaces import Refused


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_a_recipe_survives_its_own_json(name: str) -> None:
    recipe = recipes.named(name)
    assert recipe.name == name
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


@pytest.mark.parametrize("name", recipes.ORIGINS)
def test_each_setting_has_an_origin(name: str) -> None:
    origins = recipes.origins(recipes.named(name))
    assert origins.keys() == config.flatten(recipes.named(name).model_dump(mode="json")).keys()
    assert set(origins.values()) <= set(get_args(recipes.Origin))
    assert {"paper", "inferred", "ours"} <= set(origins.values())


@pytest.mark.parametrize("name", recipes.ORIGINS)
def test_no_origin_names_a_setting_that_is_gone(name: str) -> None:
    settings = config.flatten(recipes.named(name).model_dump(mode="json"))
    stale = [prefix for prefix in recipes.ORIGINS[name] if not any(key == prefix or key.startswith(prefix + ".") for key in settings)]
    assert stale == []


def test_a_changed_setting_is_ours() -> None:
    recipe = config.build(recipes.commoncanvas_s_c(), ["train.learning_rate=5e-5"])
    origins = recipes.origins(recipe)
    assert origins["train.learning_rate"] == "ours"
    assert origins["train.global_batch_size"] == "released-config"


@pytest.mark.parametrize("name", recipes.ORIGINS)
def test_show_prints_an_origin_for_every_key(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    first = next(iter(recipes.named(name).caption))
    words = [f"caption.ja={{family: translate, model: some/translator, input: {first}, language: ja}}", "components.captioner.ja.license=mit"]
    assert main(["show", "--recipe", name, "--origins", *words]) == 0
    lines = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    recipe = config.build(recipes.named(name), words)
    assert [key for key, _ in lines] == [*config.flatten(recipe.model_dump(mode="json"))]
    assert {origin for _, origin in lines} <= set(get_args(recipes.Origin))
    found = dict(lines)
    assert found[f"caption.{first}.model"] == recipes.origins(recipes.named(name))[f"caption.{first}.model"] != "ours"
    assert found["caption.ja.model"] == found["components.captioner.ja.license"] == "ours"


def test_an_unknown_recipe_is_refused_with_the_names() -> None:
    with pytest.raises(Refused, match="tiny-dit"):
        recipes.named("sdxl")


def test_s_c_and_s_nc_differ_only_in_policy_name_and_licence() -> None:
    commercial = config.flatten(recipes.commoncanvas_s_c().model_dump(mode="json"))
    noncommercial = config.flatten(recipes.commoncanvas_s_nc().model_dump(mode="json"))
    assert {key for key in commercial if commercial[key] != noncommercial[key]} == {"name", "catalog.policy", "publish.model_license"}


@pytest.mark.parametrize("name", ["commoncanvas-s-c", "commoncanvas-s-nc", "commoncanvas-l-nc"])
def test_commoncanvas_is_trained_as_published(name: str) -> None:
    """550,000 steps of 256 px and 850,000 of 512 px, all of 2048 images; the average over the last 50,000, "the final 3.5 %"."""
    recipe = recipes.named(name)
    first, second = config.phases_of(recipe)
    assert (first.size_px, first.steps, first.ema_steps) == (256, 550_000, 0)
    assert (second.size_px, second.steps, second.ema_steps) == (512, 850_000, 50_000)
    assert second.ema_steps / config.total_steps(recipe) == pytest.approx(0.035, abs=0.001)
    assert {phase.global_batch_size * phase.steps for phase in (first, second)} == {1_126_400_000, 1_740_800_000}
    train = recipe.train
    assert {phase.learning_rate for phase in (first, second)} == {1e-4}
    assert (train.weight_decay, train.warmup_steps, train.schedule, train.caption_dropout, train.ema_decay) == (0.01, 10_000, "constant", 0.1, 0.9999)
    origins = recipes.origins(recipe)
    for key in ("size_px", "steps", "ema_steps"):
        assert origins[f"train.phases.512px.{key}"] == "released-config"
    changed = recipes.origins(config.build(recipe, ["train.phases.512px.steps=1000"]))
    assert (changed["train.phases.512px.steps"], changed["train.phases.512px.size_px"]) == ("ours", "released-config")


def test_show_tells_published_scores_and_stays_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    for name in recipes.RECIPES:
        assert main(["show", "--recipe", name]) == 0
        text = capsys.readouterr().out
        assert [line for line in text.splitlines() if line.startswith("#")] == (
            [f"# {name} as published: {recipes.SCORES[name]}"] if name in recipes.SCORES else []
        )
        assert yaml.safe_load(text) == recipes.named(name).model_dump(mode="json")
