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
        ("caption.blip2=Salesforce/blip2", ["caption.blip2 is a section", "Salesforce/blip2", "family"]),
        ("caption.Blip_2.model=x", ["caption.Blip_2", "pattern"]),
        ("caption.blip2.modle=x", ["unknown key caption.blip2.modle", "model"]),
        ("caption.blip2.batch_size=0", ["caption.blip2.batch_size is 0", "greater than or equal to 1"]),
        ("caption.source-alt.model=x", ["caption.source-alt", "'source-'", "belong to captions that a source ships"]),
        ("caption.ja={family: translate, input: dense}", ["caption.ja.input is 'dense'", "shapes-blip2", "source-COLUMN"]),
        ("caption.ja.family=translate", ["caption.ja", "input is None", "'translate'"]),
        ("caption.short.input=shapes-blip2", ["caption.short", "input is 'shapes-blip2'", "'blip2'"]),
        ("caption.short={hints: [title]}", ["caption.short", "['title']", "chat and vllm"]),
        ("caption.shapes-blip2=null", ["train.captions", "no captioner"]),
        ("train.captions={dense: 1}", ["train.captions names ['dense']", "shapes-blip2"]),
        ("train.captions={shapes-blip2: 0}", ["train.captions.shapes-blip2 is 0", "greater than 0"]),
        ("train.caption_statuses=[]", ["train.caption_statuses", "at least 1"]),
        ("components.captioner.license=mit", ["components.captioner.NAME.license"]),
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


TWO = ("caption.ja={family: translate, model: some/translator, input: shapes-blip2, language: ja}",)


def test_captioners_are_added_changed_and_taken_away_by_name() -> None:
    two = config.build(recipes.tiny(), [*TWO, "caption.ja.prompt=次の文を訳してください。"])
    assert list(two.caption) == ["shapes-blip2", "ja"]
    assert two.caption["shapes-blip2"] == recipes.tiny().caption["shapes-blip2"]
    ja = two.caption["ja"]
    assert (ja.family, ja.input, ja.language, ja.prompt) == ("translate", "shapes-blip2", "ja", "次の文を訳してください。")
    changed = config.build(two, ["caption.ja.batch_size=3", "caption.shapes-blip2.max_new_tokens=9"])
    assert changed.caption["ja"] == ja.model_copy(update={"batch_size": 3})
    assert changed.caption["shapes-blip2"].max_new_tokens == 9
    assert config.build(changed, ["caption.ja=null", "caption.shapes-blip2.max_new_tokens=24"]) == recipes.tiny()
    assert config.build(two, ["caption.nobody=null"]) == two, "what is not there stays away"
    with pytest.raises(Refused, match=r"caption\.ja\.input is 'shapes-blip2'"):
        config.build(two, ["caption.shapes-blip2=null"])


def test_captioners_from_a_file_are_merged_with_the_recipes() -> None:
    text = (
        "caption:\n  shapes-blip2: {batch_size: 5}\n  long: {max_new_tokens: 200, min_characters: 80}\ntrain: {captions: {long: 2, source-alt: 1}}\n"
    )
    recipe = config.build(recipes.tiny(), ["caption.long.max_new_tokens=100"], text)
    assert (recipe.caption["shapes-blip2"].batch_size, recipe.caption["long"].max_new_tokens) == (5, 100)
    assert config.trained_captions(recipe) == {"long": 2.0, "source-alt": 1.0}
    assert config.trained_captions(config.build(recipes.tiny(), TWO)) == {"shapes-blip2": 1.0, "ja": 1.0}


def test_the_only_captioner_needs_no_name() -> None:
    assert config.build(recipes.tiny(), ["caption.batch_size=7"]).caption["shapes-blip2"].batch_size == 7
    with pytest.raises(Refused, match=r"caption\.batch_size: expected caption\.NAME\.batch_size, NAME one of shapes-blip2, ja"):
        config.build(recipes.tiny(), [*TWO, "caption.batch_size=7"])
    with pytest.raises(Refused, match="caption is a section"):
        config.build(recipes.tiny(), ["caption=null"])


def test_training_may_draw_from_imported_captions_alone() -> None:
    recipe = config.build(recipes.tiny(), ["train.captions={source-alt: 1}", "caption.shapes-blip2=null"])
    assert (recipe.caption, config.trained_captions(recipe)) == ({}, {"source-alt": 1.0})
    assert list(storage.inputs_of(recipe, "train")) == ["catalog", "captions/source-alt", "latents/shapes-kl-32px"]


def test_a_stage_knows_only_its_own_settings_and_its_inputs() -> None:
    base = {stage: storage.stage_of(recipes.tiny(), stage).fingerprint for stage in config.STAGE_SECTIONS}

    def changed(word: str) -> set[str]:
        recipe = config.build(recipes.tiny(), [word])
        return {stage for stage in config.STAGE_SECTIONS if storage.stage_of(recipe, stage).fingerprint != base[stage]}

    assert changed("train.steps=5") == {"train", "evaluate", "publish"}
    assert changed("caption.max_new_tokens=5") == {"caption", "train", "evaluate", "publish"}
    assert changed("catalog.policy=permissive") == set(config.STAGE_SECTIONS)
    assert changed("evaluate.count=5") == {"evaluate"}


PHASES = ("train.steps=30", "train.phases.large.size_px=64", "train.phases.large.steps=20", "train.ema_steps=0", "train.phases.large.ema_steps=5")


def test_phases_follow_each_other_and_keep_what_they_do_not_say() -> None:
    recipe = config.build(recipes.tiny(), [*PHASES, "train.phases.again={size_px: 32, steps: 10, global_batch_size: 16, learning_rate: 0.5}"])
    first, large, again = config.phases_of(recipe)
    assert (first.name, first.size_px, first.first_step, first.end) == ("", 32, 0, 30)
    assert (large.name, large.size_px, large.first_step, large.end) == ("large", 64, 30, 50)
    assert (large.global_batch_size, large.learning_rate) == (64, 1e-3)
    assert (again.first_step, again.end, again.global_batch_size, again.learning_rate) == (50, 60, 16, 0.5)
    assert (config.total_steps(recipe), config.sizes_of(recipe), config.final_size_px(recipe)) == (60, (32, 64), 32)
    assert [step for step in range(60) if any(phase.averages(step) for phase in config.phases_of(recipe))] == [*range(45, 60)]
    assert [stage.directory for stage in storage.stages_of(recipe, "encode")] == ["latents/shapes-kl-32px", "latents/shapes-kl-64px"]


def test_a_further_phase_changes_training_and_leaves_the_first_size_alone() -> None:
    one, two = recipes.tiny(), config.build(recipes.tiny(), PHASES)
    assert storage.encode_stage(one, 32).fingerprint == storage.encode_stage(two, 32).fingerprint
    assert storage.stage_of(one, "train").fingerprint != storage.stage_of(two, "train").fingerprint
    assert config.build(two, ["train.phases.large=null", "train.steps=900", "train.ema_steps=null"]) == one


def test_online_training_reads_no_latents() -> None:
    recipe = config.build(recipes.tiny(), ["train.latents=online"])
    assert list(storage.inputs_of(recipe, "train")) == ["catalog", "captions/shapes-blip2"]
    assert storage.stages_of(recipe, "encode") == []
    other = config.build(recipe, ["encode.size_px=64"])
    assert storage.stage_of(other, "train").fingerprint != storage.stage_of(recipe, "train").fingerprint


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("objective={kind: flow, min_snr_gamma: 5}", "min_snr_gamma is 5.0 with kind 'flow': expected epsilon or v"),
        ("objective={kind: epsilon, zero_terminal_snr: true}", "zero_terminal_snr is true with kind 'epsilon': expected kind 'v'"),
        ("train.phases.large.size=64", "unknown key train.phases.large.size"),
        ("train.phases.Large.steps=64", "train.phases.Large"),
    ],
)
def test_what_does_not_go_together_is_refused(word: str, part: str) -> None:
    with pytest.raises(Refused, match=part.replace(".", r"\.")):
        config.build(recipes.tiny(), [word])
