"""Where the stages run; no part of any fingerprint."""

from typing import Literal

from pydantic import Field

from ccray.config.base import Config, Slug


class ActorResources(Config):
    """One pool of model actors and the CPU tasks beside it."""

    min_actors: int = Field(1, ge=1)
    max_actors: int = Field(1, ge=1)
    initial_actors: int | None = Field(None, ge=1)  # that the pool starts with; None = min_actors
    cpus: float = Field(1, ge=0)
    gpus: float = Field(0, ge=0)
    threads: int | None = Field(None, ge=1)  # torch threads of one actor; None = the machine's cores over max_actors
    label_selector: dict[str, str] = {}
    task_label_selector: dict[str, str] = {}  # of the CPU tasks beside the actors; Ray Data would have an autoscaler start any node for them
    rows_per_block: int = Field(256, ge=1)  # at most this many rows of one actor are redone after a kill
    dollars_per_hour: float | None = Field(None, ge=0, allow_inf_nan=False)  # of one actor, for the estimate that a run prints


class TrainResources(Config):
    workers: int = Field(1, ge=1)
    min_workers: int | None = Field(None, ge=1)  # with as few a run goes on when machines are lost; None = all of them
    cpus: float = Field(1, gt=0)
    gpus: float = Field(0, ge=0)
    threads: int | None = Field(None, ge=1)
    label_selector: dict[str, str] = {}
    max_failures: int = 3
    sharding: Literal["full", "grad-op"] = "full"  # of weights over the ranks; grad-op: gathered once a step, not again for the backward pass
    trackers: tuple[Literal["wandb"], ...] = ()  # beside metrics.jsonl and TensorBoard


class ServeResources(Config):
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    min_replicas: int = Field(1, ge=0)
    max_replicas: int = Field(1, ge=1)
    cpus: float = Field(1, ge=0)
    gpus: float = Field(0, ge=0)
    threads: int | None = Field(None, ge=1)
    label_selector: dict[str, str] = {}


class Resources(Config):
    """Where the stages run; no part of any fingerprint."""

    catalog: ActorResources = ActorResources(max_actors=2)
    filters: ActorResources = ActorResources()  # the models of `catalog.filters`
    caption: ActorResources = ActorResources()
    captioners: dict[Slug, ActorResources] = {}  # of single ones, by name, where they need other machines than `caption`
    encode: ActorResources = ActorResources()
    train: TrainResources = TrainResources()
    text: ActorResources | None = None  # the text encoder on machines of its own; None = on the trainers
    evaluate: ActorResources = ActorResources(rows_per_block=32)
    serve: ServeResources = ServeResources()
