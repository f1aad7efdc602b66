"""The cluster files, offline: Ray's own validator, EC2's own parameter model, KubeRay's required fields, and the image's recipe."""

import copy
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import yaml
from botocore.validate import ParamValidator
from ray._private.accelerators.nvidia_gpu import NvidiaGPUAcceleratorManager
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
DEVICE_NAMES = {  # as the driver names the cards of the node types
    "L4": "NVIDIA L4",
    "L40S": "NVIDIA L40S",
    "A100": "NVIDIA A100-SXM4-80GB",
    "H100": "NVIDIA H100 80GB HBM3",
}


def aws() -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / "aws.yaml").read_text())


def documents() -> dict[str, dict[str, Any]]:
    return {document["kind"]: document for document in yaml.safe_load_all((CLUSTER / "kuberay.yaml").read_text())}


def ray_cluster() -> dict[str, Any]:
    document = documents()["RayCluster"]
    return document | {"metadata": document["metadata"] | {"namespace": "default"}}


def kuberay_config() -> dict[str, Any]:
    """What Ray's autoscaler makes of the RayCluster."""
    return _derive_autoscaling_config_from_ray_cr(ray_cluster())


def node_types() -> list[Any]:
    """Every node type of both files, without the heads."""
    kinds = {"aws": prepare_config(aws())["available_node_types"], "kuberay": kuberay_config()["available_node_types"]}
    return [pytest.param(kind, id=f"{file}-{name}") for file, types in kinds.items() for name, kind in types.items() if not name.startswith("head")]


def test_ray_up_accepts_the_aws_file():
    validate_config(prepare_config(aws()))


@pytest.mark.parametrize(
    "fault",
    [
        lambda config: config.update(idle_timeout=5),
        lambda config: config["available_node_types"]["caption"].update(use_spot=True),
        lambda config: config["available_node_types"]["caption"].pop("resources"),
        lambda config: config["available_node_types"]["train"]["resources"].update(CPU=1.5),
        lambda config: config["available_node_types"]["serve"]["labels"].update({"ccray-role": 1}),
        lambda config: config.update(head_node_type="driver"),
    ],
    ids=["unknown key", "unknown node key", "no resources", "half a CPU", "label that is no word", "no such head"],
)
def test_the_validator_sees_a_planted_fault(fault):
    config = copy.deepcopy(aws())
    fault(config)
    with pytest.raises(Exception, match=r".+"):
        validate_config(prepare_config(config))


@pytest.mark.parametrize("name", aws()["available_node_types"])
def test_ec2_knows_every_launch_parameter(name):
    shape = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    launch = aws()["available_node_types"][name]["node_config"]
    assert launch["InstanceType"] in shape.members["InstanceType"].enum
    report = ParamValidator().validate(launch | {"MinCount": 1, "MaxCount": 1}, shape)
    assert not report.has_errors(), report.generate_report()
    spot = launch.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
    assert aws()["available_node_types"][name]["labels"]["ray.io/market-type"] == ("spot" if spot else "on-demand")


def test_the_head_and_the_training_nodes_are_never_spot():
    for name in ("head", "train", "serve"):
        assert "InstanceMarketOptions" not in aws()["available_node_types"][name]["node_config"]


def test_the_aws_nodes_carry_and_use_the_token():
    config = aws()
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    starts = [command for command in (*config["head_start_ray_commands"], *config["worker_start_ray_commands"]) if "ray start" in command]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token ray start" in command for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "8265" not in str(config["provider"])


def test_the_spot_watcher_runs_beside_ray_on_every_aws_worker():
    config = aws()
    *_, start, watcher = config["worker_start_ray_commands"]
    assert "ray start" in start  # first, for the watcher finds its raylet
    words = shlex.split(watcher)
    assert words[words.index("-m") + 1] == "ccray.spot"
    assert words[0] == "RAY_AUTH_MODE=token"  # it asks the cluster for the drain
    assert words[-1] == "&"
    assert not {"&&", ";"} & set(words)
    assert {"<", ">", "2>&1"} <= set(words), "an open stream keeps the SSH session"
    checked = subprocess.run(["bash", "-n", "-c", watcher], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert not [command for command in config["head_start_ray_commands"] if "ccray.spot" in command]
    for kind in config["available_node_types"].values():
        assert kind["node_config"]["MetadataOptions"]["HttpTokens"] == "required"


def test_the_spot_watcher_runs_in_the_pods_of_spot_groups():
    for group in ray_cluster()["spec"]["workerGroupSpecs"]:
        (container,) = group["template"]["spec"]["containers"]
        started = container.get("lifecycle", {}).get("postStart", {}).get("exec", {}).get("command", [""])[-1]
        assert ("python -m ccray.spot" in started) == (group["labels"]["ray.io/market-type"] == "spot")
        assert not started or started.endswith("&"), "a pod is ready only when this has ended"


def test_what_the_aws_nodes_install_exists():
    mounts = aws()["file_mounts"]
    assert {"ccray", "pyproject.toml"} <= set(mounts.values())
    for place in mounts.values():
        assert place.startswith("~") or (ROOT / place).exists(), place


@pytest.mark.parametrize("kind", node_types())
def test_a_gpu_type_has_its_accelerator_as_label_and_as_resource(kind):
    labels, resources = kind["labels"], kind["resources"]
    accelerators = [name.removeprefix("accelerator_type:") for name in resources if name.startswith("accelerator_type:")]
    if not resources.get("GPU"):
        assert not accelerators
        assert "ray.io/accelerator-type" not in labels
        return
    assert accelerators == [labels["ray.io/accelerator-type"]]
    detected = NvidiaGPUAcceleratorManager._gpu_name_to_accelerator_type(DEVICE_NAMES[accelerators[0]])
    assert detected == accelerators[0]  # what the node itself reports once it runs


def test_heads_run_no_tasks_and_workers_start_from_nothing():
    for config, head in ((prepare_config(aws()), "head"), (kuberay_config(), "headgroup")):
        kinds = config["available_node_types"]
        assert kinds[head]["resources"]["CPU"] == 0
        assert all(kind["min_workers"] == 0 for kind in kinds.values())


def test_both_files_offer_the_same_kinds():
    def shape(config: dict[str, Any]) -> dict[str, tuple[str, int, int, str | None]]:
        kinds = config["available_node_types"].values()
        return {
            k["labels"]["ccray-role"]: (
                k["labels"]["ray.io/market-type"],
                k["max_workers"],
                k["resources"].get("GPU", 0),
                k["labels"].get("ray.io/accelerator-type"),
            )
            for k in kinds
        }

    assert shape(prepare_config(aws())) == shape(kuberay_config())


def test_kuberay_documents_are_whole():
    found = documents()
    assert {kind: document["apiVersion"] for kind, document in found.items()} == {
        "ServiceAccount": "v1",
        "RayCluster": "ray.io/v1",
        "RayJob": "ray.io/v1",
    }
    assert all(document["metadata"]["name"] for document in found.values())
    spec = found["RayCluster"]["spec"]
    assert spec["rayVersion"] == "2.60.0"
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert spec["authOptions"] == {"mode": "token", "secretName": "ccray-auth"}
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    job = found["RayJob"]["spec"]
    assert job["clusterSelector"] == {"ray.io/cluster": found["RayCluster"]["metadata"]["name"]}
    assert (ROOT / shlex.split(job["entrypoint"])[1].removeprefix("/opt/ccray/")).exists()


@pytest.mark.parametrize(
    "group", [ray_cluster()["spec"]["headGroupSpec"], *ray_cluster()["spec"]["workerGroupSpecs"]], ids=lambda group: group.get("groupName", "head")
)
def test_a_kuberay_group_is_whole(group):
    assert isinstance(group["rayStartParams"], dict)  # KubeRay writes the labels into it
    assert not {"num-cpus", "num-gpus", "resources", "labels"} & group["rayStartParams"].keys()  # KubeRay refuses both at once
    pod = group["template"]["spec"]
    (container,) = pod["containers"]
    requests, limits = container["resources"]["requests"], container["resources"]["limits"]
    assert requests == limits
    assert requests.get("nvidia.com/gpu") == group["resources"].get("GPU")
    assert pod["restartPolicy"] == "Never"
    if "groupName" in group:
        assert requests["cpu"] == group["resources"]["CPU"]
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    if "GPU" in group["resources"]:
        assert container["image"].endswith("cu130")
        assert any(toleration["key"] == "nvidia.com/gpu" for toleration in pod["tolerations"])
        assert group["labels"]["ray.io/accelerator-type"] in pod["nodeSelector"]["nvidia.com/gpu.product"].split("-")


def test_the_image_is_one_recipe_for_cpu_and_cuda():
    text = re.sub(r"\\\n", " ", (CLUSTER / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    instructions = [line.split(maxsplit=1) for line in lines]
    assert {name for name, _ in instructions} <= {"ARG", "FROM", "ENV", "RUN", "COPY", "USER", "WORKDIR", "CMD"}
    assert ["ARG", "TORCH=cpu"] in instructions
    assert "torch>=2.13,<2.14" in text
    assert "whl/${TORCH}" in text
    for name, rest in instructions:
        if name == "COPY":
            *sources, _ = rest.split()
            assert all((ROOT / source).exists() for source in sources), rest
