"""Pretrained parts: what is stated of them, by whom, and what a commercial policy makes of it."""

import json
from pathlib import Path

import pytest

from ccray import components, config, recipes
from ccray.__main__ import main
from ccray.components import ROLES, Origin, commercial_by, origin_of
from ccray.config import Recipe
from ccray.interfaces import Refused
from ccray.schema import Reject


def tiny(*words: str) -> Recipe:
    return config.build(recipes.named("tiny"), words)


def folder(path: Path, card: str | None) -> Path:
    path.mkdir(parents=True)
    if card is not None:
        (path / "README.md").write_text(f"---\n{card}\n---\n")
    return path


@pytest.mark.parametrize(
    ("license", "expected"),
    [
        ("apache-2.0", "yes"),
        ("Apache-2.0", "yes"),
        ("MIT", "yes"),
        ("cc0-1.0", "yes"),
        ("cc-by-4.0", "yes"),
        ("cc-by-sa-4.0", "yes"),
        ("cc-by-nc-4.0", "no"),
        ("cc-by-nc-sa-3.0", "no"),
        ("openrail", "yes"),
        ("openrail++", "yes"),
        ("creativeml-openrail-m", "yes"),
        ("CreativeML Open RAIL++-M", "yes"),
        ("bigscience-bloom-rail-1.0", "yes"),
        ("OPT license, non-commercial", "no"),
        ("deepfloyd-if research only", "no"),
        ("other", "unknown"),
        ("unknown", "unknown"),
        ("llama2", "unknown"),
        ("stable-video-diffusion-community", "unknown"),
        ("trailware", "unknown"),
        ("", "unknown"),
    ],
)
def test_commercial_use_by_the_licence(license: str, expected: str) -> None:
    assert commercial_by(license) == expected


def test_what_the_package_ships_and_the_hub_table() -> None:
    for name in ("captioner", "vae", "text"):
        assert (origin_of(f"shapes:{name}").license, origin_of(f"shapes:{name}").commercial) == ("cc0-1.0", "yes")
    blip2 = origin_of("Salesforce/blip2-opt-2.7b")
    assert blip2.commercial == "unknown"
    assert "OPT" in blip2.note
    sd2 = origin_of("stabilityai/stable-diffusion-2-base/vae")
    assert sd2.commercial == "yes"
    assert "use restrictions" in sd2.note
    assert origin_of("nobody/knows") == Origin()


def test_a_local_folders_card_is_read(tmp_path: Path) -> None:
    assert origin_of(str(folder(tmp_path / "a", "license: mit\ndatasets: [coco, laion]"))) == Origin("mit", "coco, laion", "its card", "yes")
    assert origin_of(str(folder(tmp_path / "b", "license: other\nlicense_name: for-research-only"))).commercial == "no"
    assert origin_of(str(folder(tmp_path / "c", "license: [mit, cc-by-nc-4.0]"))).commercial == "no"
    assert origin_of(str(folder(tmp_path / "d", None))) == Origin()
    assert origin_of(str(folder(tmp_path / "a" / "vae", None))).license == "mit", "a part of a pipeline has the pipeline's card"


def test_the_hubs_cache_tells_revision_card_and_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = folder(tmp_path / "models--some--model" / "snapshots" / commit, "license: cc-by-4.0")
    (snapshot / "vae").mkdir()
    (snapshot / "vae" / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    refs = folder(tmp_path / "models--some--model" / "refs", None)
    (refs / "main").write_text(commit)
    assert components.revision_of("some/model") == components.revision_of("some/model/vae") == commit
    assert components.revision_of("other/model") is None
    assert components.revision_of("shapes:vae") is None
    assert origin_of("some/model/vae").commercial == "yes"
    assert components.weights_digest("some/model/vae") is not None
    assert components.weights_digest("some/model") is None


@pytest.mark.parametrize("policy", ["commercial", "permissive"])
@pytest.mark.parametrize(("role", "stage"), [("captioner", "caption"), ("vae", "encode"), ("text_encoder", "train")])
def test_no_is_refused_whatever_is_allowed(policy: str, role: str, stage: str) -> None:
    recipe = tiny(f"catalog.policy={policy}", f"components.{role}.commercial=no", "allow_unknown_components=true")
    for name in ROLES:
        if role in ROLES[name]:
            with pytest.raises(
                Refused, match=f"the {role.replace('_', ' ')} shapes:.* may not be used commercially.*policy {policy}.*components.{role}"
            ):
                components.check(recipe, name)
        else:
            components.check(recipe, name)
    assert role in ROLES[stage]


def test_unknown_is_refused_unless_allowed_and_the_card_says_so() -> None:
    recipe = tiny("caption.model=nobody/knows")
    with pytest.raises(
        Refused, match=r"captioner nobody/knows is not known to allow .* licence unknown, stated by unknown.*allow_unknown_components=true"
    ):
        components.check(recipe, "caption")
    components.check(recipe, "encode")
    components.check(tiny("caption.model=nobody/knows", "catalog.policy=noncommercial"), "caption")
    with pytest.raises(Refused, match="policy commercial"):
        components.check(tiny("caption.model=nobody/knows", "catalog.policy=noncommercial", "train.policy=commercial"), "train")
    allowed = tiny("caption.model=nobody/knows", "allow_unknown_components=true")
    components.check(allowed, "caption")
    sentence = components.allowance(allowed)
    assert sentence is not None
    assert "captioner `nobody/knows`" in sentence
    assert components.allowance(tiny()) is None


def test_a_person_may_declare(tmp_path: Path) -> None:
    place = folder(tmp_path / "captioner", None)
    recipe = tiny(f"caption.model={place}", "components.captioner.license=cc-by-nc-4.0")
    with pytest.raises(Refused, match=r"licence cc-by-nc-4\.0, stated by components\.captioner of the recipe"):
        components.check(recipe, "caption")
    recipe = tiny(f"caption.model={place}", "components.captioner.license=A-Licence-Of-Ours", "components.captioner.commercial=yes")
    components.check(recipe, "caption")
    found = components.origin_in(recipe, "captioner", str(place))
    assert (found.license, found.commercial, found.training_data) == ("A-Licence-Of-Ours", "yes", "unknown")
    over = components.origin_in(tiny("components.vae.commercial=no"), "vae", "shapes:vae")
    assert over.stated_by == "components.vae of the recipe, over its card"


def test_filters_and_starts_are_parts_too(tmp_path: Path) -> None:
    filters = "catalog.filters=[{name: nsfw, model: some/classifier, label: nsfw, threshold: 0.5}]"
    assert Reject("filter_nsfw")
    with pytest.raises(Refused, match="the filters some/classifier"):
        components.check(tiny(filters), "catalog")
    place = folder(tmp_path / "start", "license: cc-by-nc-4.0")
    with pytest.raises(Refused, match=rf"the start from {place} may not"):
        components.check(tiny(f"train.start_from={place}"), "train")


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_runs_as_it_is(name: str) -> None:
    recipe = recipes.named(name)
    for stage in ROLES:
        components.check(recipe, stage)
    assert (components.allowance(recipe) is not None) == (name in ("commoncanvas-s-c", "commonart-beta"))


def test_the_command_line_refuses_before_any_write(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "root"
    words = ["--recipe", "tiny", "--root", str(root), "components.captioner.commercial=no", "--policy", "commercial"]
    for command in ("caption", "run"):
        caplog.clear()
        assert main([command, *words]) == 2
        assert "the captioner shapes:captioner may not be used commercially" in caplog.text
    assert not root.exists()
    assert main(["show", "--recipe", "tiny", "components.vae.license=mit"]) == 0


def test_components_are_written_with_their_terms(tmp_path: Path) -> None:
    index = {"_class_name": "StableDiffusionPipeline", **{part: ["diffusers", part] for part in ("unet", "vae", "text_encoder")}}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    rows = json.loads(components.to_json(components.list_components(tiny("components.vae.license=mit"), tmp_path, "images", "ab"), {"a": 1}))
    found = {one["role"]: one for one in rows["components"]}
    assert set(found) == {"denoiser", "vae", "text_encoder", "captioner"}
    assert (found["vae"]["license"], found["vae"]["commercial"]) == ("mit", "yes")
    assert {"revision", "note", "commercial", "sha256", "stated_by"} <= found["captioner"].keys()
    assert found["captioner"]["sha256"]
    assert found["captioner"]["revision"] is None
