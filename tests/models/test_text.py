from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, CLIPTextModel, LlamaModel, T5EncoderModel

from ccray.config import TextConfig
from ccray.interfaces import Refused
from ccray.models.text import TextEncoder
from tests import folders

TEXTS = ["a red circle", "", "赤い丸 in the MIDDLE"]
STOCK = {"clip": CLIPTextModel, "t5": T5EncoderModel, "llama": LlamaModel}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: folders.text_folder(tmp_path_factory.mktemp(kind), kind) for kind in STOCK}


@pytest.mark.parametrize("kind", STOCK)
def test_features_are_those_of_stock_transformers(places: dict[str, Path], kind: str) -> None:
    features, mask = TextEncoder(str(places[kind]), max_tokens=48).encode(TEXTS)
    stock = STOCK[kind].from_pretrained(places[kind]).eval()
    tokens = AutoTokenizer.from_pretrained(places[kind])(TEXTS, padding="max_length", max_length=48, truncation=True, return_tensors="pt")
    with torch.no_grad():
        expected = stock(tokens.input_ids, attention_mask=None if kind == "clip" else tokens.attention_mask).last_hidden_state
    assert torch.equal(features, expected)
    assert features.shape == (3, 48, folders.TEXT_WIDTH)
    assert torch.equal(mask, tokens.attention_mask.bool())


@pytest.mark.parametrize("kind", STOCK)
@pytest.mark.parametrize("family", ["unet", "pixart"])
def test_kanji_survive(places: dict[str, Path], kind: str, family: str) -> None:
    encoder = TextEncoder(str(places[kind]), max_tokens=48, family=family)
    features, mask = encoder.encode(["赤い丸", "青い丸", ""])
    assert (features[0] - features[1]).abs().max() > 1e-3
    assert mask[0].sum() - mask[2].sum() == 9  # three characters of three bytes
    ids, _ = encoder._tokens(["赤い丸"])
    assert encoder.tokenizer.decode(ids[0], skip_special_tokens=True) == "赤い丸"


def test_words_are_prepared_as_the_stock_pipelines_do(places: dict[str, Path]) -> None:
    texts = [" A Cat ", "a cat"]
    plain, _ = TextEncoder(str(places["t5"]), max_tokens=16).encode(texts)
    lower, _ = TextEncoder(str(places["t5"]), max_tokens=16, family="pixart").encode(texts)
    assert not torch.equal(plain[0], plain[1])
    assert torch.equal(lower[0], lower[1])


def test_a_layer_may_be_chosen(places: dict[str, Path]) -> None:
    last = TextEncoder(str(places["llama"]), max_tokens=16)
    middle = TextEncoder(str(places["llama"]), max_tokens=16, layer=1)
    ids, mask = last._tokens(["a cat"])
    expected = last.module(ids, attention_mask=mask, output_hidden_states=True).hidden_states[1]
    assert torch.equal(middle.encode(["a cat"])[0], expected)
    assert not torch.equal(last.encode(["a cat"])[0], expected)


def test_an_empty_text_without_any_token_gives_numbers(tmp_path: Path) -> None:
    folders.llama_text().save_pretrained(tmp_path)
    folders.byte_tokenizer("$A").save_pretrained(tmp_path)
    features, mask = TextEncoder(str(tmp_path), max_tokens=8).encode(["", "cat"])
    assert torch.isfinite(features).all()
    assert mask.sum(dim=1).tolist() == [1, 3]


def test_many_threads_get_the_same_features(places: dict[str, Path]) -> None:
    encoder = TextEncoder(str(places["clip"]))
    texts = [["a cat"], ["a cat", "a dog"], ["x" * 500]] * 8
    alone = [encoder.encode(batch)[0] for batch in texts]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda batch: encoder.encode(batch)[0], texts))
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


def test_a_recipe_of_another_width_is_refused(places: dict[str, Path]) -> None:
    config = TextConfig(model=str(places["clip"]), max_tokens=16, width=48)
    with pytest.raises(Refused, match=r"text\.width is 48.*32 wide"):
        TextEncoder.from_config(config)
    encoder = TextEncoder.from_config(config.model_copy(update={"width": 32}))
    assert (encoder.width, encoder.max_tokens) == (32, 16)


def test_encoder_and_tokenizer_in_subfolders(tmp_path: Path, places: dict[str, Path]) -> None:
    folders.stable_diffusion_folder(tmp_path)
    encoder = TextEncoder(str(tmp_path), "text_encoder", tokenizer_subfolder="tokenizer")
    assert encoder.encode(["a cat"])[0].shape == (1, 77, 32)


def test_nothing_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot be loaded"):
        TextEncoder(str(tmp_path))
