"""Do pictures show what their prompts say? Oracle readings against prompts, in the shapes world alone.

Every figure is the mean over pictures of one field of `oracle.Fidelity`, so 1 is perfect and `oracle.chance` is what ignoring the prompt gives.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow.compute as pc

from ccray import storage, takedowns
from ccray.shapes import oracle, world
from ccray.shapes.oracle import ATTRIBUTES, Fidelity, Reading
from ccray.shapes.world import Scene
from ccray.storage import Root

FIELDS = (*ATTRIBUTES, "all")
SHIFTS = 64


@dataclass(frozen=True)
class Judged:
    """One picture read by the oracle, with the scene that its prompt describes."""

    reading: Reading
    scene: Scene

    @property
    def fidelity(self) -> Fidelity:
        return oracle.compare(self.reading, self.scene)


def mean_fidelity(results: Iterable[Fidelity]) -> dict[str, float]:
    """Field by field; empty when there are no results."""
    rows = [asdict(result) for result in results]
    return {name: float(np.mean([row[name] for row in rows])) for name in FIELDS} if rows else {}


def mean_of_five(figures: Mapping[str, float]) -> float:
    """The mean over the five attributes, without `all`."""
    return float(np.mean([figures[name] for name in ATTRIBUTES]))


def shuffled(judged: Sequence[Judged]) -> dict[str, float]:
    """Pictures scored against the prompts of others: what is left when a picture has nothing to do with its prompt.

    The mean over up to `SHIFTS` fixed cyclic shifts of the prompts, none of which leaves any prompt in its place. Empty for fewer than two pictures.
    """
    count = len(judged)
    shifts = sorted({round(shift) for shift in np.linspace(1, count - 1, min(count - 1, SHIFTS))}) if count > 1 else []
    return mean_fidelity(oracle.compare(one.reading, judged[(number + shift) % count].scene) for shift in shifts for number, one in enumerate(judged))


def by_group(judged: Sequence[Judged], groups: Sequence[str]) -> dict[str, dict[str, float]]:
    """Figures of each group's pictures, by the group's name; `groups` has one name a picture."""
    names = sorted(set(groups))
    return {name: mean_fidelity(one.fidelity for one, group in zip(judged, groups, strict=True) if group == name) for name in names}


def true_caption(source_ref: str) -> str:
    """The caption of a training scene of the shapes world, from its "SEED/INDEX"."""
    seed, index = map(int, source_ref.split("/"))
    return world.caption(world.train_scene(seed, index))


def exact_matches(source_refs: Sequence[str], captions: Sequence[str | None]) -> int:
    """How many captions are their scene's, word for word; a row without a caption is none."""
    return sum(caption == true_caption(ref) for ref, caption in zip(source_refs, captions, strict=True))


def caption_figures(root: Root, catalog: str, captions: str) -> dict[str, float | int]:
    """How many telephoned captions of a catalog of drawn scenes are exactly right; both arguments are directories under the root."""
    matches = rows = 0
    gone = takedowns.load(root)
    for shard in storage.sealed_shards(root, catalog):
        name = storage.shard_name(shard)
        truth = root.read_table(f"{catalog}/{name}", columns=["key", "source_ref"])
        truth = truth.filter(pc.invert(takedowns.taken_down_rows(gone, truth)))
        both = truth.join(root.read_table(f"{captions}/{name}", columns=["key", "caption"]), "key")
        matches += exact_matches(both.column("source_ref").to_pylist(), both.column("caption").to_pylist())
        rows += both.num_rows
    return {"caption_exact_match": matches / max(rows, 1), "captions_compared": rows}
