import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import Blip2Config, Blip2ForConditionalGeneration

from benchmarks import caption_full_size
from benchmarks.random_blip2 import FULL, QUERIES

ROOT = Path(caption_full_size.__file__).parent.parent


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "benchmarks.caption_full_size", *words], capture_output=True, text=True, cwd=ROOT)


def test_the_whole_program_on_a_tiny_model() -> None:
    answer = run("--tiny", "--batch", "2", "--seconds", "0.2")
    assert answer.returncode == 0, answer.stderr
    row = json.loads(answer.stdout.splitlines()[-1])
    assert set(row) == {"what", "ours", "other", "figure", "goal", "how"}
    assert "at batch 2" in row["ours"]
    assert "floor" in row["other"]
    assert 0 < float(row["figure"].split()[0]) < 1
    assert "2 MP" in row["how"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_without_a_device_it_says_so_and_measures_nothing() -> None:
    answer = run()
    assert (answer.returncode, answer.stdout) == (2, "")
    assert "--tiny" in answer.stderr


def test_the_sizes_are_those_of_the_published_model() -> None:
    """3.74 B parameters, of which OPT has 2.65 B and the eyes 1.0 B; multiplied out they cost 0.82 TFLOP a picture."""
    text = FULL.opt | {"model_type": "opt", "max_position_embeddings": 2048}
    config = Blip2Config(
        vision_config=FULL.vision,
        qformer_config=FULL.qformer | {"vocab_size": 30522},
        text_config=text,
        num_query_tokens=QUERIES,
        image_token_index=50303,
    )
    with torch.device("meta"):
        model = Blip2ForConditionalGeneration(config)
    size = {name: sum(one.numel() for one in part.parameters()) for name, part in model.named_children()}
    assert sum(size.values()) == pytest.approx(3.74e9, rel=0.01)
    assert size["language_model"] == pytest.approx(2.65e9, rel=0.01)
    eyes = sum(one.numel() for one in model.vision_model.encoder.parameters())
    said = QUERIES + 1 + caption_full_size.NEW_TOKENS
    cost = 2 * (257 * eyes + said * size["language_model"]) + 4 * 257**2 * 1408 * 39
    assert cost / 1e12 == pytest.approx(caption_full_size.TFLOP_PER_PICTURE, rel=0.05)
