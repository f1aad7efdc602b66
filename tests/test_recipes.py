"""Every recipe is complete, and every published one says where each setting comes from."""

from typing import get_args

import pytest

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
