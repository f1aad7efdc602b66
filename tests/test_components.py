"""Pretrained parts: what is stated of them, by whom, and what a commercial policy makes of it."""

import json
from pathlib import Path

import pytest

from ccray import components, config, recipes
from ccray.__main__ import main
from ccray.components import ROLES, Origin, Part, commercial_by, origin_of
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
    for name, commercial in (
        ("florence-community/Florence-2-large", "yes"),
        ("Salesforce/blip2-flan-t5-xl", "yes"),
        ("Qwen/Qwen3-VL-8B-Instruct", "yes"),
        ("Qwen/Qwen2.5-VL-3B-Instruct", "no"),
        ("facebook/nllb-200-distilled-600M", "no"),
    ):
        assert origin_of(name).commercial == commercial == commercial_by(origin_of(name).license), name


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
@pytest.mark.parametrize(("role", "stage"), [("captioner.shapes-blip2", "caption"), ("vae", "encode"), ("text_encoder", "train")])
def test_no_is_refused_whatever_is_allowed(policy: str, role: str, stage: str) -> None:
    recipe = tiny(f"catalog.policy={policy}", f"components.{role}.commercial=no", "allow_unknown_components=true")
    label = role.replace("_", " ").replace(".", " ")
    for name in ROLES:
        if role.partition(".")[0] in ROLES[name]:
            with pytest.raises(Refused, match=rf"the {label}, shapes:.*, may not be used commercially.*policy {policy}.*components\.{role}\.license"):
                components.check(recipe, name)
        else:
            components.check(recipe, name)
    assert role.partition(".")[0] in ROLES[stage]


def test_unknown_is_refused_unless_allowed_and_the_card_says_so() -> None:
    recipe = tiny("caption.model=nobody/knows")
    with pytest.raises(
        Refused,
        match=r"captioner shapes-blip2, nobody/knows, is not known to allow .* licence unknown, stated by unknown.*allow_unknown_components=true",
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
    assert "captioner shapes-blip2 `nobody/knows`" in sentence
    assert components.allowance(tiny()) is None


def test_a_person_may_declare(tmp_path: Path) -> None:
    place = folder(tmp_path / "captioner", None)
    recipe = tiny(f"caption.model={place}", "components.captioner.shapes-blip2.license=cc-by-nc-4.0")
    with pytest.raises(Refused, match=r"licence cc-by-nc-4\.0, stated by components\.captioner\.shapes-blip2 of the recipe"):
        components.check(recipe, "caption")
    mine = "components.captioner.shapes-blip2"
    recipe = tiny(f"caption.model={place}", f"{mine}.license=A-Licence-Of-Ours", f"{mine}.commercial=yes")
    components.check(recipe, "caption")
    found = components.origin_in(recipe, Part("captioner", str(place), "shapes-blip2"))
    assert (found.license, found.commercial, found.training_data) == ("A-Licence-Of-Ours", "yes", "unknown")
    over = components.origin_in(tiny("components.vae.commercial=no"), Part("vae", "shapes:vae"))
    assert over.stated_by == "components.vae of the recipe, over its card"


def test_filters_and_starts_are_parts_too(tmp_path: Path) -> None:
    filters = "catalog.filters=[{name: nsfw, model: some/classifier, label: nsfw, threshold: 0.5}]"
    assert Reject("filter_nsfw")
    with pytest.raises(Refused, match="the filters, some/classifier,"):
        components.check(tiny(filters), "catalog")
    place = folder(tmp_path / "start", "license: cc-by-nc-4.0")
    with pytest.raises(Refused, match=rf"the start from, {place}, may not"):
        components.check(tiny(f"train.start_from={place}"), "train")


DENSE_AND_JAPANESE = (
    "caption.dense={family: chat, model: Qwen/Qwen3-VL-8B-Instruct}",
    "caption.ja={family: translate, model: facebook/nllb-200-distilled-600M, input: dense, language: ja}",
)


def test_each_captioner_is_asked_for_its_own_terms() -> None:
    """Of three captioners the translator alone may not be used commercially: it is refused by its name, and its terms are declared by it."""
    recipe = tiny(*DENSE_AND_JAPANESE)
    assert [(one.name, one.reference, one.setting) for one in components.used(recipe, ["captioner"])] == [
        ("shapes-blip2", "shapes:captioner", "caption.shapes-blip2.model"),
        ("dense", "Qwen/Qwen3-VL-8B-Instruct", "caption.dense.model"),
        ("ja", "facebook/nllb-200-distilled-600M", "caption.ja.model"),
    ]
    refusal = r"the captioner ja, facebook/nllb-200-distilled-600M, may not .* licence CC-BY-NC-4\.0, stated by its card: .*components\.captioner\.ja\.commercial=yes"
    for stage in ("caption", "train", "publish"):
        with pytest.raises(Refused, match=refusal):
            components.check(recipe, stage)
    components.check(recipe, "encode")
    components.check(tiny(*DENSE_AND_JAPANESE, "catalog.policy=noncommercial"), "caption")
    with pytest.raises(Refused, match="captioner ja, facebook"):  # what is declared of another is not its own
        components.check(tiny(*DENSE_AND_JAPANESE, "components.captioner.dense.commercial=yes"), "caption")
    components.check(
        tiny(*DENSE_AND_JAPANESE, "components.captioner.ja.license=A-Licence-Of-Ours", "components.captioner.ja.commercial=yes"), "caption"
    )


def test_terms_of_a_captioner_that_is_not_there_are_refused() -> None:
    for policy in ("commercial", "noncommercial"):
        with pytest.raises(Refused, match=r"components\.captioner\.jp declares terms of no captioner: expected one of shapes-blip2, dense, ja"):
            components.check(tiny(*DENSE_AND_JAPANESE, "components.captioner.jp.license=mit", f"catalog.policy={policy}"), "encode")


def test_a_model_in_a_store_is_of_unknown_origin() -> None:
    recipe = tiny("caption.model=s3://weights/captioners/qwen")
    with pytest.raises(Refused, match=r"captioner shapes-blip2, s3://weights/captioners/qwen, is not known .* licence unknown"):
        components.check(recipe, "caption")
    (one,) = components.describers(recipe, {"shapes-blip2": "ab" * 8})
    assert (one.source, one.license, one.parameters, one.revision) == ("a folder in an S3 store, qwen", "unknown", None, None)
    assert one.sha256 == {"weights": "ab" * 8}


def test_describers_name_every_captioner_and_what_training_draws_from() -> None:
    recipe = tiny(
        *DENSE_AND_JAPANESE,
        "caption.v={family: vllm, model: a/b}",
        "caption.f={family: florence2, model: c/d}",
        "train.captions={ja: 2, source-alt: 1}",
    )
    found = components.describers(recipe, {"dense": "cd" * 8})
    assert [(one.role, one.name, one.kind, one.language) for one in found] == [
        ("captioner", "shapes-blip2", "Blip2ForConditionalGeneration", "en"),
        ("captioner", "dense", "AutoModelForImageTextToText", "en"),
        ("captioner", "ja", "AutoModelForSeq2SeqLM or AutoModelForCausalLM", "ja"),
        ("captioner", "v", "vLLM", "en"),
        ("captioner", "f", "Florence2ForConditionalGeneration", "en"),
        ("captioner", "source-alt", "none", None),
    ]
    assert [one.sha256 for one in found[1:3]] == [{"weights": "cd" * 8}, {}]
    assert found[-1].source == "captions that the images' source ships, column alt"
    assert len(components.describers(tiny(*DENSE_AND_JAPANESE), {})) == 3


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_runs_as_it_is(name: str) -> None:
    recipe = recipes.named(name)
    for stage in ROLES:
        components.check(recipe, stage)
    assert (components.allowance(recipe) is not None) == (name == "commoncanvas-s-c")


def test_the_command_line_refuses_before_any_write(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "root"
    words = ["--recipe", "tiny", "--root", str(root), "components.captioner.shapes-blip2.commercial=no", "--policy", "commercial"]
    for command in ("caption", "run"):
        caplog.clear()
        assert main([command, *words]) == 2
        assert "the captioner shapes-blip2, shapes:captioner, may not be used commercially" in caplog.text
    assert not root.exists()
    assert main(["show", "--recipe", "tiny", "components.vae.license=mit"]) == 0


def test_components_are_written_with_their_terms(tmp_path: Path) -> None:
    index = {"_class_name": "StableDiffusionPipeline", **{part: ["diffusers", part] for part in ("unet", "vae", "text_encoder")}}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    rows = json.loads(components.to_json(components.list_components(tiny("components.vae.license=mit"), tmp_path, "images", {}), {"a": 1}))
    found = {one["role"]: one for one in rows["components"]}
    assert set(found) == {"denoiser", "vae", "text_encoder", "captioner"}
    assert (found["vae"]["license"], found["vae"]["commercial"]) == ("mit", "yes")
    assert {"revision", "note", "commercial", "sha256", "stated_by"} <= found["captioner"].keys()
    assert found["captioner"]["sha256"]
    assert found["captioner"]["revision"] is None
