"""To the cluster that this process belongs to, or to one of this machine's own."""

import logging
import os
from pathlib import Path

import ray

from ccray.interfaces import Refused
from ccray.storage import Root

LOCAL_CPUS = 8  # logical; a resume needs three beside the actors, for the checkpoint's filter, reading and writing
# A cluster of one machine has more logical CPUs than cores on purpose: no warning of many workers, nor of what Ray Data itself asks of its actors.
QUIET = {"RAY_worker_maximum_startup_concurrency": str(LOCAL_CPUS), "RAY_BACKEND_LOG_LEVEL": "fatal"}
IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for the driver of a submitted job


def connect() -> None:
    """Join the cluster that this process belongs to (a submitted job, RAY_ADDRESS); start one on this machine when there is none."""
    if ray.is_initialized():
        return
    logging.getLogger("ray.data").setLevel(logging.WARNING)  # the stages' own lines say what it would
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # that it shows no progress is our choice
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=True)
    else:
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        # Stages tell what there is to tell; Ray Train's watchers would say every second that there is no dashboard to ask.
        ray.init(address="local", num_cpus=max(LOCAL_CPUS, os.cpu_count() or 1), include_dashboard=False, log_to_driver=False)


def refuse_unshared_root(root: Root) -> None:
    """On a cluster that was there before (a submitted job, RAY_ADDRESS): refuse a root that its nodes do not share.

    Raises:
        Refused: when a job's root lies in its copy of the working directory (so does every relative one), or on the disk of one machine
            while several nodes are alive.
    """
    if not root.is_local or not os.environ.get("RAY_ADDRESS"):
        return
    if IN_JOB in os.environ and Path(root.uri).is_relative_to(Path.cwd()):
        raise Refused(
            f"--root {root.uri} lies in the job's own working copy, which goes when the job ends: expected an absolute path or s3://bucket/prefix"
        )
    connect()
    alive = sum(bool(node["Alive"]) for node in ray.nodes())
    if alive > 1:
        raise Refused(f"--root {root.uri} is on the disk of one machine, but {alive} nodes are alive: expected s3://bucket/prefix")
