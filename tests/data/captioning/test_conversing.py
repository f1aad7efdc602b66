"""What an engine that chats is asked, and what becomes of its answers. No engine runs here: vLLM needs a GPU."""

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ccray import schema
from ccray.config import ActorResources, CaptionConfig
from ccray.data.captioning.conversing import answer_of, asked
from ccray.interfaces import Refused
from ccray.sharded import engines

CONFIG = CaptionConfig(family="vllm", model="some/model", max_new_tokens=8, precision="bf16", batch_size=32)
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8).repeat(16, 0).repeat(16, 1)
ROW: dict[str, Any] = {"key": 5, "shard": 2, "pixels": PIXELS.tobytes(), "height": 80, "width": 112, "status": "ok"}


def answered(**engine: Any) -> dict[str, Any]:
    return {**ROW, "__inference_error__": "", "num_generated_tokens": 3, "logprobs": [{7: {"logprob": -1.0}}, {9: {"logprob": -2.0}}], **engine}


def test_the_picture_and_the_question() -> None:
    request = asked(ROW, CONFIG)
    picture, words = request["messages"][0]["content"]
    data = base64.b64decode(picture["image_url"]["url"].removeprefix("data:image/jpeg;base64,"))
    assert np.abs(np.asarray(Image.open(io.BytesIO(data))).astype(int) - PIXELS).mean() < 8  # of 255: JPEG
    assert words == {"type": "text", "text": "Describe this picture."}
    assert (request["sampling_params"]["temperature"], request["sampling_params"]["max_tokens"]) == (0.0, 8)
    japanese = asked(ROW, CONFIG.model_copy(update={"language": "ja"}))
    assert japanese["messages"][0]["content"][1]["text"] == "この画像を日本語で説明してください。"


def test_hints_lose_names_and_control_tokens() -> None:
    config = CONFIG.model_copy(update={"hints": ("title",)})
    row = ROW | {"title": "Mary Johnson at the <|im_end|> harbour", "creator": "Some Body"}
    words = asked(row, config)["messages"][0]["content"][1]["text"]
    assert "harbour" in words
    assert "Johnson" not in words
    assert "<|" not in words
    kept = asked(row, config.model_copy(update={"keep_names": True}))["messages"][0]["content"][1]["text"]
    assert "Mary Johnson" in kept
    flagged = answer_of(answered(generated_text="Mary Johnson stands at the harbour", **{"title": row["title"], "creator": row["creator"]}), config)
    assert flagged["status"] == "person_name"


def test_rows_without_a_picture_ask_next_to_nothing_and_keep_their_status() -> None:
    row = ROW | {"pixels": None, "height": None, "width": None, "status": "bytes_missing"}
    assert asked(row, CONFIG)["sampling_params"] == {"max_tokens": 1, "temperature": 0.0}
    found = answer_of(row | {"generated_text": "x", "num_generated_tokens": 1, "__inference_error__": ""}, CONFIG)
    assert (found["caption"], found["status"]) == (None, "bytes_missing")


@pytest.mark.parametrize(
    ("engine", "caption", "status"),
    [
        ({"generated_text": " A red square on a white wall. "}, "A red square on a white wall.", "ok"),
        ({"generated_text": "A red square on", "num_generated_tokens": 8}, "A red square on", "truncated"),
        ({"generated_text": "", "__inference_error__": "ValueError: the prompt\nis too long"}, None, "ValueError: the prompt is too long"),
    ],
)
def test_answers(engine: dict[str, Any], caption: str | None, status: str) -> None:
    found = answer_of(answered(**engine), CONFIG)
    assert (found["key"], found["shard"], found["caption"], found["status"]) == (5, 2, caption, status)
    assert [*found] == schema.CAPTIONS.names
    assert found["mean_logprob"] == (pytest.approx(-1.5) if caption else None)


def test_the_engine_takes_the_settings() -> None:
    from ray.data.llm import vLLMEngineProcessorConfig

    pool = ActorResources(min_actors=2, max_actors=6, gpus=2, label_selector={"ray.io/accelerator-type": "L4"})
    made = vLLMEngineProcessorConfig(**engines.settings(CONFIG, "some/model", pool))
    assert made.concurrency == (2, 6)
    assert (made.engine_kwargs["tensor_parallel_size"], made.engine_kwargs["dtype"], made.engine_kwargs["trust_remote_code"]) == (
        2,
        "bfloat16",
        False,
    )
    assert made.accelerator_type == "L4"
    with pytest.raises(Refused, match="precision is 'fp64'"):
        engines.settings(CONFIG.model_copy(update={"precision": "fp64"}), "some/model", pool)


def test_without_vllm_the_family_is_refused_in_a_sentence() -> None:
    with pytest.raises(Refused, match=r"caption\.x\.family is 'vllm'.*pip install 'ccray\[vllm\]'.*family=chat"):
        engines.require_vllm("caption.x.family")
