"""The published folder: whole, honest about what the model saw, and of use to people who have never heard of ccray."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image

from ccray import components, config, recipes, storage
from ccray.config import Recipe
from ccray.interfaces import Failed, Refused
from ccray.licenses import parse
from ccray.models import pipeline
from ccray.schema import ATTRIBUTION, CAPTIONS, CATALOG, SEEN, hex_key, key_of
from ccray.stages import publish
from ccray.storage import Root
from tests import folders

LICENSES = ("CC0-1.0", "CC-BY-2.0", "CC-BY-SA-4.0", "CC-BY-NC-2.0")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("models")
    folders.vae_folder(home / "vae")
    folders.text_folder(home / "text")
    folders.blip2_folder(home / "captioner")
    (home / "text/README.md").write_text("---\nlicense: mit\ndatasets: [books]\n---\n# text\n")
    return home


def recipe_of(models: Path, *words: str, base: str = "tiny") -> Recipe:
    settings = [
        f"encode.model={models / 'vae'}",
        f"text.model={models / 'text'}",
        f"text.width={folders.TEXT_WIDTH}",
        "text.max_tokens=77",
        f"caption.model={models / 'captioner'}",
        "catalog.source=folder:photos",
        "publish.default_steps=2",
    ]
    unet = [f"denoiser.cross_attention_dim={folders.TEXT_WIDTH}", "denoiser.block_out_channels=[16, 16]"]
    dit = [f"denoiser.caption_channels={folders.TEXT_WIDTH}", "denoiser.num_layers=1"]
    return config.build(recipes.named(base), [*settings, *(unet if base == "tiny" else dit), *words])


def row(number: int) -> dict[str, object]:
    license = parse(LICENSES[number % len(LICENSES)])
    key = key_of(str(number).encode())
    return {
        "key": key,
        "sha256": f"{key % 2**64:016x}{number:048x}",
        "license": license.spdx,
        "license_url": license.url,
        "commercial": license.commercial,
        "derivatives": license.derivatives,
        "share_alike": license.share_alike,
        "creator": None if number == 1 else f"creator {number} | <b>",
        "title": f"title {number}",
        "source_url": f"https://example.org/{number}",
        "split": "train",
    }


def trained(root: Root, recipe: Recipe, seen: dict[int, int], catalog: list[dict[str, object]]) -> None:
    """All that publish reads, written by hand: a catalog in two shards, manifests, an untrained model as checkpoint."""
    for shard in (0, 1):
        rows = [one | {"shard": shard} for one in catalog[shard::2]]
        storage.seal(root, "catalog", shard, pa.Table.from_pylist(rows, CATALOG), CATALOG, "key")
        captions = [{"key": one["key"], "shard": shard, "caption": f"a picture: {one['title']}", "language": "en", "status": "ok"} for one in rows]
        for table in dict.fromkeys([*recipe.caption, *config.trained_captions(recipe)]):
            storage.seal(root, f"captions/{table}", shard, pa.Table.from_pylist(captions, CAPTIONS), CAPTIONS, "key")
    for stage in storage.inputs_of(recipe, "publish").values():
        with storage.running(root, stage) as manifest:
            manifest.rows = len(catalog)
            if "imported" in stage.config:
                manifest.facts = {"language": "mul", "languages": ["de", "ja"], "column": "説明"}
    directory = storage.stage_of(recipe, "train").directory
    pipeline.save_folder(pipeline.from_recipe(recipe), root.path(f"{directory}/model"))
    keys = sorted(seen)
    root.write_table(f"{directory}/seen.parquet", pa.table({"key": keys, "times": [seen[key] for key in keys]}, schema=SEEN))


@pytest.fixture(scope="module")
def published(models: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Root, Recipe, dict[int, int]]:
    root = Root(str(tmp_path_factory.mktemp("published")))
    catalog = [row(number) for number in range(12)]
    catalog[2]["copies"] = [{"row_id": number, "source": "table", "title": "a copy", "license": "CC-BY-2.0"} for number in (1, 2)]
    seen = {key_of(str(number).encode()): number + 1 for number in range(9)}
    recipe = recipe_of(models, "catalog.policy=noncommercial")
    trained(root, recipe, seen, catalog)
    root.write("takedowns/1.jsonl", f'{{"key": "{hex_key(key_of(b"4"))}"}}\n'.encode())
    publish.run(recipe, root)
    return root, recipe, seen


def test_attribution_names_what_was_seen_and_nothing_else(published: tuple[Root, Recipe, dict[int, int]]) -> None:
    root, _, seen = published
    table = pq.read_table(root.path("published/model/attribution.parquet"))
    assert table.schema == ATTRIBUTION
    rows = table.to_pylist()
    assert {one["key"]: one["times_seen"] for one in rows} == {hex_key(key): times for key, times in seen.items()}
    for one in rows:
        assert one["sha256"].startswith(one["key"])
        assert one["source_url"] == f"https://example.org/{one['title'].split()[1]}"
        assert one["license_url"].startswith("https://creativecommons.org/")


def test_card_tells_the_licence_mix(published: tuple[Root, Recipe, dict[int, int]]) -> None:
    root, recipe, seen = published
    text = root.read("published/model/README.md").decode()
    front = ModelCard(text).data
    assert (front.license, front.pipeline_tag, front.library_name) == ("apache-2.0", "text-to-image", "diffusers")
    # 9 images seen, licences in turn: 3 CC0, 2 of each other; times seen 1..9
    assert "| [CC0-1.0](https://creativecommons.org/publicdomain/zero/1.0/) | 3 | 15 | yes | no |" in text
    assert "| [CC-BY-SA-4.0](https://creativecommons.org/licenses/by-sa/4.0/) | 2 | 10 | yes | yes |" in text
    assert "| [CC-BY-NC-2.0](https://creativecommons.org/licenses/by-nc/2.0/) | 2 | 12 | no | no |" in text
    assert f"9 images, {sum(seen.values())} times in all" in text
    assert "Images under share-alike licences: 2." in text
    assert "Images that may not be used commercially: 2." in text
    fingerprint = storage.stage_of(recipe, "train").fingerprint
    assert f"Images taken down since checkpoint `main` (fingerprint `{fingerprint}`) was trained: 1." in text
    assert "Of 1 of the images the sources held 2 copies more" in text
    assert "in `../dataset`" in text
    assert "allow_unknown_components" not in text
    assert "Images whose source names no creator: 1;" in text
    assert storage.stage_of(recipe, "catalog").fingerprint in text
    assert "has not been evaluated" in text


def test_components_are_listed_with_their_weights(published: tuple[Root, Recipe, dict[int, int]], models: Path) -> None:
    root, _, _ = published
    listed = json.loads(root.read("published/model/components.json"))
    parts = {one["role"]: one for one in listed["components"]}
    assert set(parts) == {"denoiser", "vae", "text_encoder", "captioner"}
    for role, folder in (("denoiser", "unet"), ("vae", "vae"), ("text_encoder", "text_encoder")):
        assert parts[role]["sha256"] == components.digests(Path(root.path(f"published/model/{folder}")))
        assert parts[role]["sha256"]
    assert parts["text_encoder"]["license"] == "mit"
    assert parts["text_encoder"]["training_data"] == "books"
    assert (parts["vae"]["license"], parts["vae"]["training_data"]) == ("apache-2.0", "unknown")
    assert parts["captioner"]["folder"] is None
    assert parts["captioner"]["sha256"]
    assert parts["denoiser"]["training_data"].startswith("the 9 images of attribution.parquet")


def test_no_path_of_this_machine_is_published(published: tuple[Root, Recipe, dict[int, int]], models: Path) -> None:
    root, recipe, _ = published
    assert str(models).encode() in root.read(f"{storage.stage_of(recipe, 'train').directory}/model/vae/config.json")
    assert not [name for name in root.files("published") if str(models.parent).encode() in root.read(name)]


def test_parameters_are_counted_from_headers(models: Path) -> None:
    vae = folders.vae()
    assert components.parameter_count(models / "vae") == sum(parameter.numel() for parameter in vae.parameters())


def test_manifest(published: tuple[Root, Recipe, dict[int, int]]) -> None:
    root, recipe, _ = published
    manifest = storage.read_manifest(root, "published")
    assert manifest is not None
    assert (manifest.status, manifest.rows, manifest.counts["CC0-1.0"]) == ("finished", 9, 3)
    before = Path(root.path("published/model/README.md")).stat().st_mtime_ns
    assert publish.run(recipe, root) == manifest
    assert Path(root.path("published/model/README.md")).stat().st_mtime_ns == before
    assert root.names("published") == ["dataset", "manifest.json", "model"]


PROGRAM = """
import sys
{snippet}
assert "ccray" not in sys.modules
assert not [name for name in sys.modules if name.startswith("ccray.")]
print(picture.size)
"""


def snippet(text: str) -> str:
    found = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found.group(1)


def draw_as_a_stranger(folder: Path) -> Image.Image:
    """Run the card's own snippet in a process without ccray, inside a copy of nothing but the folder."""
    program = PROGRAM.format(snippet=snippet((folder / "README.md").read_text(encoding="utf-8")))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    answer = subprocess.run([sys.executable, "-I", "-c", program], cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stderr
    picture = Image.open(io.BytesIO((folder / "picture.png").read_bytes()))
    (folder / "picture.png").unlink()
    return picture


def test_a_stranger_draws_a_picture_by_the_cards_own_words(published: tuple[Root, Recipe, dict[int, int]]) -> None:
    picture = draw_as_a_stranger(Path(published[0].path("published/model")))
    assert picture.size == (32, 32)
    assert np.asarray(picture).std() > 0


def test_a_stranger_draws_with_a_published_transformer(models: Path, tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    recipe = recipe_of(models, base="tiny-dit")
    trained(root, recipe, {key_of(b"0"): 1}, [row(0), row(1)])
    publish.run(recipe, root)
    assert "clean_caption=False" in root.read("published/model/README.md").decode()
    assert draw_as_a_stranger(Path(root.path("published/model"))).size == (32, 32)


def test_figures_of_this_checkpoint_stand_in_the_card(models: Path, tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    recipe = recipe_of(models)
    trained(root, recipe, {key_of(b"0"): 1}, [row(0)])
    figures = {"prompts": 5, "prompts_from": "a file", "steps": 2, "guidance": 3.0, "seed": 0, "features": "f", "reference_images": 4}
    figures |= {"frechet_distance": 12.3456, "kernel_distance": None, "prompt_fidelity": {"all": 0.5}}
    figures |= {"distances": {"real": {"frechet_distance": 1.5, "kernel_distance": 0.25}}}
    with storage.running(root, storage.stage_of(recipe, "evaluate")) as manifest:
        manifest.facts = figures
    publish.run(recipe, root)
    text = root.read("published/model/README.md").decode()
    assert "| `frechet_distance` | 12.346 |" in text
    assert "| `prompt_fidelity` | all 0.500 |" in text
    assert "`kernel_distance`" not in text.replace("(kernel)", "")
    assert "1.500 (Fréchet)" in text


def test_continued_models_name_what_they_continue(models: Path, tmp_path: Path) -> None:
    start = folders.stable_diffusion_folder(tmp_path / "start")
    (start / "README.md").write_text("---\nlicense: openrail\n---\n")
    root = Root(str(tmp_path / "root"))
    recipe = recipe_of(models, f"train.start_from={start}", "publish.model_license=My-Own-1.0")
    trained(root, recipe, {key_of(b"0"): 1}, [row(0)])
    publish.run(recipe, root)
    text = root.read("published/model/README.md").decode()
    front = yaml.safe_load(text.split("---")[1])
    assert (front["license"], front["license_name"]) == ("other", "My-Own-1.0")
    assert str(tmp_path) not in text, "the card tells strangers about the disk it was made on"
    parts = {one["role"]: one for one in json.loads(root.read("published/model/components.json"))["components"]}
    assert parts["denoiser"]["source"] == "continued here from a local folder, start (licence: openrail)"
    assert "before that" in parts["denoiser"]["training_data"]
    assert parts["vae"]["license"] == "openrail"


def test_the_dataset_stands_beside_its_model(published: tuple[Root, Recipe, dict[int, int]]) -> None:
    root, _, _ = published
    names = [name for name in root.files("published/dataset/data") if name.endswith(".parquet")]
    found = [row for name in names for row in pq.read_table(root.path(name)).to_pylist()]
    gone = hex_key(key_of(b"4"))
    assert {one["key"] for one in found} == {hex_key(key_of(str(number).encode())) for number in range(12)} - {gone}
    assert {one["caption_shapes_blip2"] for one in found} == {f"a picture: title {number}" for number in range(12) if number != 4}
    assert "`../model`" in root.read("published/dataset/README.md").decode()
    attributed = {one["key"]: one["taken_down"] for one in pq.read_table(root.path("published/model/attribution.parquet")).to_pylist()}
    assert [key for key, taken in attributed.items() if taken] == [gone]


def test_the_model_alone(models: Path, tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    recipe = recipe_of(models, "publish.parts=[model]")
    trained(root, recipe, {key_of(b"0"): 1}, [row(0)])
    publish.run(recipe, root)
    assert root.names("published") == ["manifest.json", "model"]
    assert "../dataset" not in root.read("published/model/README.md").decode()


def test_components_of_unknown_terms_are_named_where_the_recipe_lets_them_pass(models: Path, tmp_path: Path) -> None:
    root = Root(str(tmp_path / "root"))
    nameless = folders.blip2_folder(tmp_path / "nameless")
    (nameless / "README.md").unlink(missing_ok=True)
    recipe = recipe_of(models, f"caption.model={nameless}", "allow_unknown_components=true")
    trained(root, recipe, {key_of(b"0"): 1}, [row(0)])
    publish.run(recipe, root)
    text = root.read("published/model/README.md").decode()
    sentence = next(line for line in text.splitlines() if "allow_unknown_components" in line)
    assert "captioner shapes-blip2 `a local folder, nameless`" in sentence
    assert "denoiser" not in sentence


def test_an_image_that_nobody_can_name_stops_publication(models: Path, tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    recipe = recipe_of(models)
    trained(root, recipe, {key_of(b"0"): 1, key_of(b"99"): 1}, [row(0)])
    with pytest.raises(Failed, match="1 of 2 images that the model saw are not in"):
        publish.run(recipe, root)
    assert not root.exists("published/model")


def test_an_image_without_derivatives_stops_publication(models: Path, tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    recipe = recipe_of(models)
    trained(root, recipe, {key_of(b"0"): 1}, [row(0) | {"derivatives": False}])
    with pytest.raises(Failed, match="no derivatives"):
        publish.run(recipe, root)


def test_refuses_before_any_write(models: Path, tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    recipe = recipe_of(models)
    with pytest.raises(Refused, match="catalog"):
        publish.run(recipe, root)
    trained(root, recipe, {key_of(b"0"): 1}, [row(0)])
    root.delete("checkpoints/main/seen.parquet")
    with pytest.raises(Refused, match=r"seen\.parquet"):
        publish.run(recipe, root)
    assert not root.exists("published")
