"""Every stage of every recipe against the node types of both cluster files, decided by Ray's own autoscaler: what would it start?"""

from collections import Counter
from typing import Any

import pytest
from ray.autoscaler._private.util import prepare_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingReply, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import GangResourceRequest
from ray.core.generated.common_pb2 import LabelSelectorOperator

from ccray import config, recipes, schema, sharded
from ccray.config import STAGES, ActorResources, Recipe
from ccray.sharded import pipeline
from tests.cluster.test_files import aws, kuberay_config

CLUSTERS = {"aws": prepare_config(aws()), "kuberay": kuberay_config()}
NODE_OF = {"catalog": "cpu", "caption": "caption", "encode": "caption", "train": "train", "evaluate": "caption", "publish": "cpu", "serve": "serve"}
DECODING = ("caption", "encode", "evaluate")  # CPU tasks beside models on GPUs


def _request(resources: dict[str, float], selector: dict[str, str]) -> Any:
    constraints = [
        (key, LabelSelectorOperator.LABEL_OPERATOR_IN, value.removeprefix("in(").removesuffix(")").split(",")) for key, value in selector.items()
    ]
    bundle = {name: amount for name, amount in resources.items() if amount}
    return ResourceRequestUtil.make(bundle, label_selectors=[constraints] if constraints else None)


def demand(recipe: Recipe, stage: str) -> tuple[list[Any], list[Any]]:
    """What a stage asks Ray for at its largest: single actors and tasks, and gangs that must start together."""
    if stage == "publish":
        return [_request({"CPU": 1}, {})], []
    if stage == "train":
        wanted = recipe.resources.train
        worker = _request({"CPU": wanted.cpus, "GPU": wanted.gpus}, wanted.label_selector)
        return [], [GangResourceRequest(requests=[worker] * wanted.workers)]
    if stage == "serve":
        served = recipe.resources.serve
        replica = _request({"CPU": served.cpus, "GPU": served.gpus}, served.label_selector)
        return [replica] * (2 * served.max_replicas), []  # an update starts the new ones beside the old
    actors: ActorResources = getattr(recipe.resources, stage)
    task = _request({"CPU": 1, "memory": sharded.TASK_MEMORY_BYTES}, actors.task_label_selector)
    actor = _request({"CPU": actors.cpus, "GPU": actors.gpus}, actors.label_selector)
    return [actor] * actors.max_actors + [task] * actors.max_actors, []


def started(cluster: dict[str, Any], single: list[Any], gangs: list[Any]) -> tuple[Counter[str], SchedulingReply]:
    """Node types that Ray's autoscaler would start on an empty cluster, and its whole answer."""
    settings = AutoscalingConfig(cluster, skip_content_hash=True)
    reply = ResourceDemandScheduler().schedule(
        SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=settings.get_node_type_configs(),
            max_num_nodes=settings.get_max_num_nodes(),
            resource_requests=ResourceRequestUtil.group_by_count(single),
            gang_resource_requests=gangs,
        )
    )
    return Counter({launch.instance_type: launch.count for launch in reply.to_launch}), reply


def missing(cluster: dict[str, Any], recipe: Recipe, stage: str) -> int:
    _, reply = started(cluster, *demand(recipe, stage))
    return len(reply.infeasible_resource_requests) + len(reply.infeasible_gang_resource_requests)


@pytest.mark.parametrize("file", CLUSTERS)
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_stage_of_every_recipe_finds_its_nodes(file, name, stage):
    recipe = recipes.named(name)
    nodes, reply = started(CLUSTERS[file], *demand(recipe, stage))
    assert not reply.infeasible_resource_requests
    assert not reply.infeasible_gang_resource_requests
    on_gpus = name not in ("tiny", "tiny-dit")
    expected = NODE_OF[stage] if on_gpus else "cpu"
    tasks_too = {"cpu"} if stage in DECODING else set()
    assert {expected, *tasks_too} <= set(nodes)
    assert set(nodes) - {"head", "headgroup"} - tasks_too <= {expected}, "another kind of node would be started"


@pytest.mark.parametrize("file", CLUSTERS)
def test_the_largest_run_fits_on_one_kind_of_training_node(file):
    largest = max((recipes.named(name) for name in recipes.RECIPES), key=lambda recipe: recipe.resources.train.workers)
    nodes, _ = started(CLUSTERS[file], *demand(largest, "train"))
    assert largest.resources.train.workers == 128
    assert nodes["train"] == 16


@pytest.mark.parametrize("file", CLUSTERS)
@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("caption", ["resources.caption.label_selector={ccray-role: captoin}"]),
        ("encode", ["resources.encode.label_selector={ccray_role: caption}"]),
        ("caption", ["resources.caption.label_selector={ccray-role: caption, ray.io/accelerator-type: H100}"]),
        ("caption", ["resources.caption.gpus=2"]),
        ("caption", ["resources.caption.cpus=17"]),
        ("train", ["resources.train.label_selector={ccray-role: trian}"]),
        ("train", ["resources.train.workers=129"]),
        ("train", ["resources.train.cpus=32"]),
        ("serve", ["resources.serve.label_selector={ccray-role: server}"]),
        ("serve", ["resources.serve.max_replicas=5"]),
    ],
)
def test_a_misspelt_label_or_too_large_a_request_is_seen(file, stage, words):
    recipe = config.build(recipes.named("commoncanvas-s-c"), words)
    assert missing(CLUSTERS[file], recipe, stage) > 0


@pytest.mark.parametrize("file", CLUSTERS)
@pytest.mark.parametrize("stage", ["catalog", "caption", "encode", "evaluate"])
def test_tasks_start_no_training_or_serving_node_when_cpu_nodes_run_out(file, stage):
    """Ray Data asks for more CPUs as long as it could use them."""
    for name in ("commoncanvas-s-c", "commonart-beta"):
        actors = getattr(recipes.named(name).resources, stage)
        nodes, reply = started(CLUSTERS[file], [_request({"CPU": 1}, actors.task_label_selector)] * 5000, [])
        assert reply.infeasible_resource_requests
        assert nodes["cpu"] == CLUSTERS[file]["available_node_types"]["cpu"]["max_workers"]
        assert not nodes["caption"] + nodes["train"] + nodes["serve"]
        loose, _ = started(CLUSTERS[file], [_request({"CPU": 1}, {})] * 5000, [])
        assert loose["train"], "without the selector they would"


@pytest.mark.parametrize("file", CLUSTERS)
@pytest.mark.parametrize("stage", DECODING)
def test_a_node_too_few_of_either_kind_is_seen(file, stage):
    """Neither kind does the other's work: without CPU nodes nothing is decoded, without GPU nodes there is no model."""
    kinds = CLUSTERS[file]["available_node_types"]
    for gone in ("cpu", "caption"):
        without = CLUSTERS[file] | {"available_node_types": {name: kind for name, kind in kinds.items() if name != gone}}
        for name in ("commoncanvas-s-c", "commonart-beta"):
            assert missing(without, recipes.named(name), stage) > 0


@pytest.mark.parametrize("file", CLUSTERS)
@pytest.mark.parametrize("stage", DECODING)
def test_ray_data_may_ask_for_tasks_and_actors_together(file, stage):
    """Ray Data sends all that a pipeline wants under one selector, and the autoscaler drops the whole when one part fits nowhere."""
    actors = getattr(recipes.named("commoncanvas-s-c").resources, stage)
    step = sharded.Step(object, (), schema.CAPTIONS, 1, actors)
    selector = pipeline._options([step]).label_selector
    together = [_request({"CPU": 1, "GPU": 1}, selector)] * actors.max_actors + [_request({"CPU": 1}, selector)] * 200
    nodes, reply = started(CLUSTERS[file], together, [])
    assert not reply.infeasible_resource_requests
    assert set(nodes) - {"head", "headgroup", "cpu"} == {"caption"}
    assert nodes["caption"] == actors.max_actors
    _, alone = started(CLUSTERS[file], [_request({"CPU": 1, "GPU": 1}, actors.task_label_selector)], [])
    assert alone.infeasible_resource_requests, "under the tasks' own selector no actor would find a node"


@pytest.mark.parametrize("file", CLUSTERS)
def test_a_misspelt_label_in_the_cluster_file_is_seen(file):
    kinds = CLUSTERS[file]["available_node_types"]
    spoilt = CLUSTERS[file] | {"available_node_types": kinds | {"caption": kinds["caption"] | {"labels": {"ccray-role": "captoin"}}}}
    assert missing(spoilt, recipes.named("commonart-beta"), "caption") > 0
