"""Nodes that an autoscaler starts on this machine: real raylets with counted GPUs, each with a folder of its own.

Ray's own fake provider lets all nodes share one session folder. There the second node of a job that brings a working directory unpacks it over
the first one's, under the feet of its workers.
"""

import copy
import json
from typing import Any

from ray._private.node import Node
from ray._private.parameter import RayParams
from ray._private.ray_constants import LABELS_ENVIRONMENT_VARIABLE, RESOURCES_ENVIRONMENT_VARIABLE
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider
from ray.autoscaler.tags import NODE_KIND_WORKER, STATUS_UP_TO_DATE, TAG_RAY_NODE_KIND, TAG_RAY_NODE_NAME, TAG_RAY_NODE_STATUS, TAG_RAY_USER_NODE_TYPE


class LocalNodes(FakeMultiNodeProvider):
    """`provider.folder` of the autoscaler's configuration holds one folder a node."""

    def _create_node_with_resources_and_labels(
        self, node_config: dict[str, Any], tags: dict[str, str], count: int, resources: dict[str, float], labels: dict[str, str]
    ) -> None:
        with self.lock:
            name = self._next_hex_node_id()
            kind = {TAG_RAY_NODE_KIND: NODE_KIND_WORKER, TAG_RAY_NODE_NAME: name, TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE}
            self._nodes[name] = {"tags": kind | tags, "node": self._start(name, tags[TAG_RAY_USER_NODE_TYPE], copy.deepcopy(resources), labels)}

    def _start(self, name: str, node_type: str, resources: dict[str, float], labels: dict[str, str]) -> Node:
        parameters = RayParams(
            temp_dir=f"{self.provider_config['folder']}/{int(name[-5:])}",
            min_worker_port=0,
            max_worker_port=0,
            dashboard_port=None,
            dashboard_agent_listen_port=0,
            num_cpus=resources.pop("CPU", 0),
            num_gpus=resources.pop("GPU", 0),
            memory=resources.pop("memory", None),
            object_store_memory=200_000_000,
            resources=resources,
            labels=labels,
            redis_address=self._gcs_address,
            gcs_address=self._gcs_address,
            env_vars={
                "RAY_OVERRIDE_NODE_ID_FOR_TESTING": name,
                "RAY_CLOUD_INSTANCE_ID": name,
                "RAY_NODE_TYPE_NAME": node_type,
                RESOURCES_ENVIRONMENT_VARIABLE: json.dumps(resources),
                LABELS_ENVIRONMENT_VARIABLE: json.dumps(labels),
            },
        )
        return Node(parameters, head=False, shutdown_at_exit=False, spawn_reaper=False)
