from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    LlamaModel,
    Qwen3Config,
    Qwen3Model,
    T5EncoderModel,
)

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


def open_clip(path: Path) -> CLIPModel:
    """The whole model with both towers in one folder, as the published OpenCLIP-H lies on the hub: small, of random weights, 4 layers for 24."""
    torch.manual_seed(0)
    text = {"vocab_size": 260, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "hidden_act": "gelu"}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 3}
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text | ids, vision_config=vision, projection_dim=16)).eval()
    folders.shake(model)  # norms that do nothing could not be missed
    model.save_pretrained(path)
    folders.byte_tokenizer().save_pretrained(path)
    return model


def sd2_folder(model: CLIPModel, path: Path) -> Path:
    """A text encoder made as Stability made SD2's: the layers but the last, and the final norm."""
    weights = model.text_model.state_dict()
    config = CLIPTextConfig(**model.config.text_config.to_dict() | {"num_hidden_layers": 3})
    encoder = CLIPTextModel(config)
    encoder.load_state_dict({name: weight for name, weight in weights.items() if "layers.3." not in name})
    encoder.save_pretrained(path)
    folders.byte_tokenizer().save_pretrained(path)
    return path


@torch.no_grad()
def test_the_penultimate_layer_of_open_clip_is_what_sd2_takes(tmp_path: Path) -> None:
    whole = open_clip(tmp_path / "whole")
    sd2 = TextEncoder(str(sd2_folder(whole, tmp_path / "sd2")))
    ours = TextEncoder(str(tmp_path / "whole"), layer=-2)
    ids, _ = sd2._tokens(TEXTS)
    states = whole.text_model(ids, output_hidden_states=True).hidden_states
    expected = whole.text_model.final_layer_norm(states[-2])
    assert torch.equal(sd2.encode(TEXTS)[0], expected)
    assert torch.equal(ours.encode(TEXTS)[0], expected)
    assert (expected - states[-2]).abs().max() > 0.1  # transformers' own are before the norm
    assert (TextEncoder(str(tmp_path / "whole")).encode(TEXTS)[0] - expected).abs().max() > 0.01
    assert len(ours.module.encoder.layers) == 3


def test_what_pads_may_come_from_elsewhere(tmp_path: Path) -> None:
    """OpenCLIP-H's own tokenizer pads with another token than SD2's, and CLIP sees its padding."""
    open_clip(tmp_path / "whole")
    other = folders.byte_tokenizer()
    other.pad_token = "!"
    other.save_pretrained(tmp_path / "sd2" / "tokenizer")
    config = TextConfig(model=str(tmp_path / "whole"), max_tokens=16, width=32)
    own = TextEncoder.from_config(config)
    padded = TextEncoder.from_config(config.model_copy(update={"tokenizer": str(tmp_path / "sd2"), "tokenizer_subfolder": "tokenizer"}))
    assert own._tokens(["cat"])[0][0, -1] == 0
    assert padded._tokens(["cat"])[0][0, -1] == other.convert_tokens_to_ids("!")
    assert (own.encode(["cat"])[0] - padded.encode(["cat"])[0]).abs().max() > 1e-3


@pytest.mark.parametrize(("layers", "projection", "count"), [(23, False, 340_387_840), (24, False, 352_984_064), (24, True, 354_032_640)])
def test_open_clip_h_has_its_published_size(layers: int, projection: bool, count: int) -> None:
    """OpenCLIP counts 354.03 M for the text tower of ViT-H/14, its projection included; SD2 leaves out that and the last layer."""
    sizes = {"vocab_size": 49408, "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "projection_dim": 1024}
    with torch.device("meta"):
        model = (CLIPTextModelWithProjection if projection else CLIPTextModel)(CLIPTextConfig(**sizes, num_hidden_layers=layers))
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def qwen(path: Path) -> Path:
    """A language model whose configuration names the kind of each layer."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=260, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4, head_dim=8
    )
    Qwen3Model(config).save_pretrained(path)
    folders.byte_tokenizer(f"{folders.BOS} $A").save_pretrained(path)
    return path


NORMS = {"t5": "encoder.final_layer_norm", "llama": "norm", "qwen": "norm"}


@pytest.mark.parametrize(("kind", "layer", "state"), [("t5", 1, 1), ("llama", 1, 1), ("llama", -2, 2), ("qwen", -3, 1)])
def test_an_encoder_may_end_early_and_keeps_its_norm(places: dict[str, Path], tmp_path: Path, kind: str, layer: int, state: int) -> None:
    place = str(qwen(tmp_path / "qwen") if kind == "qwen" else places[kind])
    last, early = TextEncoder(place, max_tokens=16), TextEncoder(place, max_tokens=16, layer=layer)
    ids, mask = last._tokens(["a cat"])
    with torch.no_grad():
        before = last.module(ids, attention_mask=mask, output_hidden_states=True).hidden_states[state]
        expected = last.module.get_submodule(NORMS[kind])(before)
    assert torch.equal(early.encode(["a cat"])[0], expected)
    assert not torch.equal(last.encode(["a cat"])[0], expected)
    early.module.save_pretrained(tmp_path / "again")
    early.tokenizer.save_pretrained(tmp_path / "again")
    assert torch.equal(TextEncoder(str(tmp_path / "again"), max_tokens=16).encode(["a cat"])[0], expected)


@pytest.mark.parametrize("layer", [0, 4, -4])
def test_a_layer_that_is_not_there_is_refused(places: dict[str, Path], layer: int) -> None:
    with pytest.raises(Refused, match=rf"text\.layer is {layer}, but .* has 3 layers: expected -1 \(the last\) to -3"):
        TextEncoder(str(places["llama"]), layer=layer)


def test_an_empty_prompt_is_what_the_encoder_says_of_no_words(tmp_path: Path) -> None:
    """As in the stock pipeline, whose negative prompt is empty: not zeros."""
    folder = folders.stable_diffusion_folder(tmp_path)
    features, mask = TextEncoder(str(folder), "text_encoder", tokenizer_subfolder="tokenizer").encode(["", "a cat"])
    stock = StableDiffusionPipeline.from_pretrained(folder)
    _, negative = stock.encode_prompt(["a cat"], "cpu", 1, True)
    torch.testing.assert_close(features[:1], negative, rtol=0, atol=1e-6)  # bits change with the width of the batch
    assert features[0].abs().max() > 0.1
    assert mask[0].sum() == 2  # where it begins, where it ends


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
