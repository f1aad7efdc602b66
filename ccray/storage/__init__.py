"""One way to a run's files, on a local disk or an object store; sealed shards, manifests, leases.

Everything lives under a *root*. A stage owns one directory there; its `manifest.json` says which configuration and inputs made it and
whether it is finished. All writes are atomic: a reader sees a whole file or none. Nothing here imports Ray or torch.
"""

from ccray.leases import LEASE, LEASE_SECONDS, is_held, lease  # of this store
from ccray.storage.manifests import (
    MANIFEST,
    PAGES,
    Manifest,
    adopt,
    caption_tables,
    difference,
    finished,
    inputs,
    now,
    read_manifest,
    running,
    stage_directories,
    state,
)
from ccray.storage.models import BUILT_IN, BUILT_IN_FOLDER, model_path, require_model, weights_digest
from ccray.storage.root import Root, coding
from ccray.storage.shards import check_rows, seal, sealed_shards, shard_name
from ccray.storage.stages import CAPTIONS, INPUTS, Stage, caption_stage, encode_stage, imported_stage, inputs_of, stage_of, stages_of

__all__ = [
    "BUILT_IN",
    "BUILT_IN_FOLDER",
    "CAPTIONS",
    "INPUTS",
    "LEASE",
    "LEASE_SECONDS",
    "MANIFEST",
    "PAGES",
    "Manifest",
    "Root",
    "Stage",
    "adopt",
    "caption_stage",
    "caption_tables",
    "check_rows",
    "coding",
    "difference",
    "encode_stage",
    "finished",
    "imported_stage",
    "inputs",
    "inputs_of",
    "is_held",
    "lease",
    "model_path",
    "now",
    "read_manifest",
    "require_model",
    "running",
    "seal",
    "sealed_shards",
    "shard_name",
    "stage_directories",
    "stage_of",
    "stages_of",
    "state",
    "weights_digest",
]
