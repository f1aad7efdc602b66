"""vLLM as a step of a map: `ray.data.llm` runs the engines, we say what they are asked and what their answers mean.

Needs the extra `pip install ccray[vllm]` and GPUs. Not run where there are none: what is tested there is what the engine is given and what becomes of
its answers.
"""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import pyarrow as pa
from ray.data import Dataset

from ccray.config import ActorResources, CaptionConfig
from ccray.interfaces import Refused
from ccray.sharded.pipeline import Through

Row = Mapping[str, Any]
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
ACCELERATOR = "ray.io/accelerator-type"


def require_vllm(setting: str) -> None:
    """Raises:
    Refused: when vLLM is not installed here.
    """
    if find_spec("vllm") is None:
        raise Refused(f"{setting} is 'vllm', but vLLM is not installed: pip install 'ccray[vllm]', or family=chat for the same models without it")


def settings(config: CaptionConfig, place: str, pool: ActorResources) -> dict[str, Any]:
    """What `vLLMEngineProcessorConfig` is told; `place` is the model's folder or hub name."""
    if config.num_beams > 1 or config.length_penalty != 1.0:
        raise Refused(
            f"num_beams is {config.num_beams} with family 'vllm': expected 1, and length_penalty 1, for its engine decodes greedily; or family=chat"
        )
    if config.precision not in DTYPES:
        raise Refused(f"precision is {config.precision!r} with family 'vllm': expected one of {', '.join(DTYPES)}")
    return {
        "model_source": place,
        "engine_kwargs": {
            "dtype": DTYPES[config.precision],
            "trust_remote_code": False,
            "load_format": "safetensors",
            "limit_mm_per_prompt": {"image": 1},
            "enforce_eager": not config.compile,
            "max_num_seqs": config.batch_size,
            "tensor_parallel_size": max(1, round(pool.gpus)),
        },
        "batch_size": config.batch_size,
        "concurrency": (pool.min_actors, max(pool.min_actors, pool.max_actors)),
        "accelerator_type": kind if (kind := pool.label_selector.get(ACCELERATOR, "")).replace("-", "").isalnum() else None,
        "should_continue_on_error": True,
        "prepare_multimodal_stage": {"enabled": True, "chat_template_content_format": "openai"},
        "chat_template_stage": {"enabled": True},
        "tokenize_stage": {"enabled": False},  # the engine's own, which knows how many tokens a picture takes
        "detokenize_stage": {"enabled": False},
        "log_engine_metrics": False,
    }


def through(
    values: dict[str, Any], ask: Callable[[Row], dict[str, Any]], answer: Callable[[Row], dict[str, Any]], output: pa.Schema, pool: ActorResources
) -> Through:
    """A step from rows to rows of `output`: `ask` adds `messages` and `sampling_params`, `answer` reads what the engine gave."""

    def step(rows: Dataset) -> Dataset:
        from ray.data.llm import build_processor, vLLMEngineProcessorConfig

        processor = build_processor(vLLMEngineProcessorConfig(**values), preprocess=ask, postprocess=answer)
        # Ray passes rows that failed around `postprocess`, with other columns than the rest; ours answers for both.
        processor.postprocess = lambda row: answer(row[processor.DATA_COLUMN])
        return processor(rows).map_batches(lambda table: table.select(output.names).cast(output), batch_format="pyarrow")

    return Through(step, pool)
