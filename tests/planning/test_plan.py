"""`ccray plan` as people and programs meet it."""

import json

import pytest

from ccray import config, recipes
from ccray.__main__ import main
from ccray.planning import rates
from ccray.planning.estimate import Asked, plan

ASKED = Asked(1_000_000, 8, "a100")


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["plan", *words]) == 0
    return capsys.readouterr().out


def as_json(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    return json.loads(printed(capsys, "--recipe", "commoncanvas-s-nc", "--gpus", "8", "--gpu-type", "A100", "--json", *words))


def test_totals_are_sums_and_every_rate_has_its_source(capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, "--dollars-per-gpu-hour", "2")
    for key in ("gpu_hours", "days", "dollars"):
        assert found["total"][key] == pytest.approx(sum(line[key] for line in found["work"]))
        assert found["total"][key] == pytest.approx(sum(stage[key] for stage in found["stages"].values()))
    for line in found["work"]:
        assert line["basis"] in ("measured", "estimated")
        assert line["source"]
        assert line["days"] * 86400 == pytest.approx(line["samples"] / line["samples_per_second"])
    assert found["unknown"] == []
    assert found["images"] == recipes.IMAGES["commoncanvas-s-nc"]
    assert found["epochs"] == pytest.approx(1_400_000 * 2048 / found["images"])


def test_the_table_names_every_source(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "--recipe", "commoncanvas-s-c", "--gpus", "128", "--gpu-type", "a100")
    numbers = [int(line.split("[")[1].split("]")[0]) for line in text.splitlines() if " [" in line and not line.startswith("[")]
    listed = [int(line[1 : line.index("]")]) for line in text.splitlines() if line.startswith("[")]
    assert listed == sorted(set(numbers))
    assert "measured" in text
    assert "estimated" in text


def test_bytes_are_those_of_the_columns(capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, "--images", "1000", "--bytes-per-image", "5e5")
    stored = {one["what"]: one["bytes"] for one in found["stored"]}
    assert stored["pictures of 500,000 bytes"] == 500_000_000
    assert stored["latents of 256 px, fp16 mean and std"] == 1000 * (16 + 2 * 8192)
    assert stored["latents of 512 px, fp16 mean and std"] == 1000 * (16 + 2 * 32768)
    assert stored["2 checkpoints, and the model in fp32"] == 865_910_724 * 4 * (2 * 4 + 1)
    assert found["text_features_bytes_if_stored"] == 1000 * 157_696
    one_kind = as_json(capsys, "--images", "1000", "encode.store_std=false")["stored"]
    assert {one["what"]: one["bytes"] for one in one_kind}["latents of 256 px, fp16 mean"] == 1000 * (16 + 8192)


def test_online_latents_are_made_whenever_they_are_trained_on() -> None:
    stored = plan(recipes.commoncanvas_s_c(), ASKED, rates.read())
    online = plan(config.build(recipes.commoncanvas_s_c(), ["train.latents=online"]), ASKED, rates.read())
    assert [line.samples for line in online.work if line.stage == "encode"] == [550_000 * 2048, 850_000 * 2048]
    assert not [one for one in online.stored if one.stage == "encode"]
    assert [line for line in stored.work if line.stage == "train"] == [line for line in online.work if line.stage == "train"]


def test_what_is_unknown_is_said_and_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--recipe", "commonart-beta", "--gpus", "32", "--gpu-type", "l4"]
    found = json.loads(printed(capsys, *words, "--json"))
    assert found["unknown"] == ["phi3-medium-ja: microsoft/Phi-3-medium-4k-instruct"]
    text = printed(capsys, *words)
    assert "the total lacks what is unknown" in text
    assert "no rate is known: measure it and give --rates FILE" in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--gpus", "8", "--gpu-type", "a100"], "--recipe is missing"),
        (["--recipe", "tiny", "--gpus", "8", "--gpu-type", "a100"], "--images is missing"),
        (["--recipe", "commoncanvas-s-c", "--gpu-type", "a100"], "--gpus is missing"),
        (["--recipe", "commoncanvas-s-c", "--gpus", "8"], "--gpu-type is missing"),
        (["--recipe", "commoncanvas-s-c", "--gpus", "0", "--gpu-type", "a100"], "--gpus is 0: expected a number above 0"),
        (["--recipe", "commoncanvas-s-c", "--gpus", "8", "--gpu-type", "a100", "--images", "-1"], "--images is -1: expected a number above 0"),
        (["--recipe", "commoncanvas-s-c", "--gpus", "8", "--gpu-type", "a100", "--dollars-per-gpu-hour", "nan"], "--dollars-per-gpu-hour is nan"),
        (["--recipe", "commoncanvas-s-c", "--gpus", "8", "--gpu-type", "abacus"], "expected one of a100"),
        (["--recipe", "commoncanvas-s-c", "--gpus", "8", "--gpu-type", "a100", "--rates", "nowhere.csv"], "--rates nowhere.csv cannot be read"),
    ],
)
def test_what_is_missing_or_wrong_is_named(words: list[str], told: str, caplog: pytest.LogCaptureFixture) -> None:
    assert main(["plan", *words]) == 2
    assert told in caplog.text
