"""BLIP-2 folders with random weights, which cost what trained ones of the same sizes cost; nothing is fetched."""

import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2Processor, PreTrainedTokenizerFast
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

QUERIES = 32


@dataclass(frozen=True)
class Sizes:
    """Of the three parts, in the words of their configurations."""

    vision: dict[str, Any]
    qformer: dict[str, Any]
    opt: dict[str, Any]

    @property
    def side_px(self) -> int:
        return int(self.vision["image_size"])


def _sizes(vision: tuple[int, int, int, int, int], qformer: tuple[int, int, int], opt: tuple[int, int, int, int], vocabulary: int) -> Sizes:
    """(width, layers, heads, side, patch), (width, layers, heads), (width, feed-forward, layers, heads)."""
    return Sizes(
        {
            "hidden_size": vision[0],
            "intermediate_size": 6144 if vision[0] == 1408 else 4 * vision[0],
            "num_hidden_layers": vision[1],
            "num_attention_heads": vision[2],
            "image_size": vision[3],
            "patch_size": vision[4],
        },
        {
            "hidden_size": qformer[0],
            "num_hidden_layers": qformer[1],
            "num_attention_heads": qformer[2],
            "intermediate_size": 4 * qformer[0],
            "encoder_hidden_size": vision[0],
        },
        {
            "hidden_size": opt[0],
            "word_embed_proj_dim": opt[0],
            "ffn_dim": opt[1],
            "num_hidden_layers": opt[2],
            "num_attention_heads": opt[3],
            "vocab_size": vocabulary,
        },
    )


FULL = _sizes((1408, 39, 16, 224, 14), (768, 12, 12), (2560, 10240, 32, 32), 50304)  # BLIP-2 OPT-2.7B
SMALL = _sizes((384, 6, 6, 224, 14), (256, 4, 4), (512, 2048, 6, 8), 8192)  # a fiftieth of it, for a CPU
TINY = _sizes((32, 2, 4, 32, 8), (32, 2, 4), (32, 64, 2, 4), 512)


def model_folder(folder: Path, sizes: Sizes, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
    """A folder like the published one, with random weights and a tokenizer that has a word for every number."""
    processor = Blip2Processor(_image_processor(sizes.side_px), _tokenizer(sizes.opt["vocab_size"] - 1), num_query_tokens=QUERIES)
    opt = sizes.opt | {"model_type": "opt", "max_position_embeddings": 2048, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}
    config = Blip2Config(
        vision_config=sizes.vision,
        qformer_config=sizes.qformer | {"vocab_size": 30522, "cross_attention_frequency": 2},
        text_config=opt,
        num_query_tokens=QUERIES,
        image_token_index=processor.tokenizer.convert_tokens_to_ids("<image>"),
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    with torch.device(device):
        model = Blip2ForConditionalGeneration(config)
    torch.set_default_dtype(before)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _image_processor(side_px: int) -> BlipImageProcessorPil:
    return BlipImageProcessorPil(size={"height": side_px, "width": side_px})


def _tokenizer(words: int) -> PreTrainedTokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<unk>", "<pad>", "<s>", "</s>", *letters]
    names += [f"{string.ascii_lowercase[number % 26]}{number}" for number in range(words - len(names))]
    backend = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, merges=[], unk_token="<unk>"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>")
