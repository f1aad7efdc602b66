"""The endpoint on Ray Serve: the `openai` client, two stock models at once, the same pictures as in process, and refusals before anything starts."""

import base64
import io
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import openai
import pytest
import yaml
from PIL import Image

from ccray import config, recipes
from ccray.config import Recipe
from ccray.diffusion.generate import generate
from ccray.interfaces import Failed, Refused
from ccray.models.pipeline import load_folder
from ccray.serving import provenance
from ccray.serving.provenance import Mark
from ccray.stages import serve
from ccray.storage import Root
from tests import folders

WIDTH = 2
SETTINGS = [f"serve.width={WIDTH}", "serve.max_images=3", "resources.serve.port=0", "resources.serve.threads=1"]
CLUSTER = Path(__file__).parents[2] / "cluster"


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return config.build(recipes.named("tiny"), SETTINGS)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    place = tmp_path_factory.mktemp("models")
    return {"sd-class": str(folders.stable_diffusion_folder(place / "sd")), "pixart-class": str(folders.pixart_folder(place / "pixart"))}


@pytest.fixture(scope="module")
def url(ray_cluster: None, recipe: Recipe, models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield serve.run(recipe, Root(str(tmp_path_factory.mktemp("root"))), models, block=False)
    serve.stop()


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.ray
@pytest.mark.parametrize("model", ["sd-class", "pixart-class"])
def test_openai_client_gets_the_picture_that_generate_draws(client: openai.OpenAI, models: dict[str, str], model: str) -> None:
    extra = {"seed": 5, "steps": 3, "guidance": 2.5, "negative_prompt": "blue"}
    answer = client.images.generate(model=model, prompt="夕焼け", n=2, size="32x32", extra_body=extra)
    components = load_folder(models[model])
    drawn = generate(components, ["夕焼け"] * 2, [5, 6], ["blue"] * 2, steps=3, guidance=2.5, width=WIDTH)
    license = client.models.retrieve(model).model_extra["license"]
    expected = [provenance.encode(pixels, Mark(model, license, seed, 3, 2.5)) for pixels, seed in zip(drawn, (5, 6), strict=True)]
    assert [base64.b64decode(item.b64_json) for item in answer.data] == expected
    assert [item.model_extra["seed"] for item in answer.data] == [5, 6]


@pytest.mark.ray
def test_openai_client_reads_models_and_errors(client: openai.OpenAI, models: dict[str, str]) -> None:
    assert [model.id for model in client.models.list()] == list(models)
    assert client.models.retrieve("sd-class").model_extra["provenance"].startswith("unknown: ")
    with pytest.raises(openai.BadRequestError, match="'steps'") as bad:
        client.images.generate(prompt="x", extra_body={"steps": 10_000})
    assert (bad.value.param, bad.value.code, bad.value.type) == ("steps", "integer_above_max_value", "invalid_request_error")
    assert bad.value.request_id
    assert "," not in bad.value.request_id  # named once, though Serve's proxy names requests too
    with pytest.raises(openai.NotFoundError) as missing:
        client.images.generate(prompt="x", model="dall-e-3")
    assert missing.value.code == "model_not_found"


@pytest.mark.ray
def test_health_and_page(url: str, models: dict[str, str]) -> None:
    with urlopen(f"{url}/health") as answer:
        assert json.load(answer) == {"status": "ok", "models": list(models)}
    with urlopen(url) as answer:
        assert b"<title>ccray</title>" in answer.read()


@pytest.mark.ray
def test_the_printed_command_draws_a_picture(url: str, tmp_path: Path) -> None:
    subprocess.run(serve.example(url, "pixart-class"), shell=True, check=True, cwd=tmp_path)
    assert Image.open(tmp_path / "picture.png").size == (32, 32)


@pytest.mark.ray
def test_a_cluster_that_serves_is_left_alone(url: str, recipe: Recipe, models: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(Refused, match="this cluster already serves ccray"):
        serve.run(recipe, Root(str(tmp_path)), models, block=False)
    with urlopen(f"{url}/health") as answer:
        assert answer.status == 200


@pytest.mark.ray
def test_a_published_model_draws_one_picture_over_http(ray_cluster: None, recipe: Recipe, models: dict[str, str], tmp_path: Path) -> None:
    """After the module's endpoint, whose cluster it shares."""
    serve.stop()
    root = Root(str(tmp_path))
    root.upload(Path(models["pixart-class"]), serve.PUBLISHED)
    picture = Image.open(io.BytesIO(serve.one_picture(recipe, root)))
    picture.load()
    assert np.asarray(picture).shape == (32, 32, 3)
    assert json.loads(picture.text["ccray"])["model"] == "tiny"


@pytest.mark.ray
@pytest.mark.slow
def test_a_model_that_does_not_load_fails_in_words(ray_cluster: None, recipe: Recipe, models: dict[str, str], tmp_path: Path) -> None:
    folder = folders.pixart_folder(tmp_path / "broken")
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(Failed, match=r"did not load: .*broken.* cannot be loaded: .*safetensors"):
        serve.run(recipe, Root(str(tmp_path)), {"broken": str(folder)}, block=False)


def refusal(recipe: Recipe, root: Path, models: dict[str, str]) -> str:
    with pytest.raises(Refused) as caught:
        serve.run(recipe, Root(str(root)), models, block=False)
    return str(caught.value)


def test_refuses_what_cannot_be_served_before_starting(recipe: Recipe, models: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    other = tmp_path / "other"
    other.mkdir()
    (other / "model_index.json").write_text('{"_class_name": "FluxPipeline", "_diffusers_version": "0.42.0"}')
    assert "run `ccray publish`" in refusal(recipe, tmp_path, {})
    assert "--model x=nowhere cannot be served: nowhere is neither a diffusers folder" in refusal(recipe, tmp_path, {"x": "nowhere"})
    assert "has no model_index.json" in refusal(recipe, tmp_path, {"x": str(tmp_path / "empty")})
    assert "is a FluxPipeline: supported are StableDiffusionPipeline" in refusal(recipe, tmp_path, {"x": str(other)})
    assert "expected a folder, s3://bucket/prefix or a hub name" in refusal(recipe, tmp_path, {"x": "ftp://host/x"})
    for id in ("A model", "", "ingress", "a/b"):
        assert "is not a model id" in refusal(recipe, tmp_path, {id: models["sd-class"]})


def test_refuses_a_port_in_use(recipe: Recipe, models: dict[str, str], tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        taken = config.build(recipe, [f"resources.serve.port={port}"])
        assert f"resources.serve.port is {port}: 127.0.0.1:{port} cannot be used" in refusal(taken, tmp_path, models)


def test_serve_yaml_is_a_deployment_that_serve_and_build_accept() -> None:
    from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema.model_validate(yaml.safe_load((CLUSTER / "serve.yaml").read_text()))
    [described] = schema.applications
    assert described.import_path == f"{serve.build.__module__}:{serve.build.__name__}"
    arguments = serve.Arguments.model_validate(described.args)
    assert arguments.recipe in recipes.RECIPES
    assert Root(arguments.root).uri == arguments.root


def test_build_binds_a_deployment_a_model_with_the_recipes_resources(models: dict[str, str]) -> None:
    from ray.serve._private.build_app import build_app

    settings = ["resources.serve.gpus=1", "resources.serve.max_replicas=4", 'resources.serve.label_selector={"ccray-role": "serve"}']
    application = serve.build(serve.Arguments(models=models, settings=settings))
    built = {deployment.name: deployment for deployment in build_app(application, name="ccray").deployments}
    assert set(built) == {"ingress", *models}
    for id in models:
        assert built[id].ray_actor_options == {"num_cpus": 1, "num_gpus": 1, "label_selector": {"ccray-role": "serve"}}
        assert built[id]._deployment_config.max_surge_percent == 100
        assert built[id]._deployment_config.autoscaling_config.max_replicas == 4
    assert "num_gpus" not in built["ingress"].ray_actor_options
