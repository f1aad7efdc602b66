"""Which nodes of the cluster files the published recipes run on."""

from typing import Any, Literal

from ccray.config import ActorResources, Resources, ServeResources, TrainResources

CAPTION_NODE = {"ccray-role": "caption"}
TRAIN_NODE = {"ccray-role": "train"}
SERVE_NODE = {"ccray-role": "serve"}
CPU_NODE = {"ccray-role": "cpu"}


def gpu_resources(train_gpus: int, sharding: Literal["full", "grad-op"] = "full", captioners: dict[str, dict[str, str]] | None = None) -> Resources:
    """Pools of the cluster files: CPU nodes read, decode and write, spot GPUs caption and encode, on-demand GPUs train; `captioners` that need
    other nodes, by name.

    A pool of models starts with a few actors, so that their nodes are on their way while the first pictures are decoded, and grows to its
    largest as long as blocks wait; it may shrink to one, for a job must end on whatever spot machines are left.
    """
    models: dict[str, Any] = {"gpus": 1, "label_selector": CAPTION_NODE, "task_label_selector": CPU_NODE}
    return Resources(
        catalog=ActorResources(max_actors=64, label_selector=CPU_NODE, task_label_selector=CPU_NODE),
        caption=ActorResources(min_actors=1, initial_actors=4, max_actors=64, **models),
        captioners={name: ActorResources(max_actors=8, **models | {"label_selector": node}) for name, node in (captioners or {}).items()},
        encode=ActorResources(min_actors=1, initial_actors=4, max_actors=64, **models),
        train=TrainResources(workers=train_gpus, cpus=8, gpus=1, label_selector=TRAIN_NODE, sharding=sharding),
        evaluate=ActorResources(min_actors=1, initial_actors=2, max_actors=16, rows_per_block=64, **models),
        serve=ServeResources(host="0.0.0.0", max_replicas=4, gpus=1, label_selector=SERVE_NODE),
    )
