"""Do pictures show what their prompts say, and captions what their pictures show? Told by the oracle and the grammar, in the shapes world alone.

Every figure of pictures is the mean over them of one field of `oracle.Fidelity`, so 1 is perfect and `oracle.chance` is what ignoring the prompt gives.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from ccray import storage, takedowns
from ccray.evaluation.choice import OK
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


@dataclass(frozen=True)
class JudgedCaption:
    """One caption against the scene that its picture shows."""

    exact: bool  # word for word the scene's own
    fidelity: Fidelity
    flagged: bool


def judge_caption(source_ref: str, caption: str | None, language: str, status: str) -> JudgedCaption:
    """A caption of the training scene "SEED/INDEX", in one of `world.LANGUAGES`.

    What is flagged, missing, or no sentence of the grammar tells nothing, so nothing of it is right: it is not trained on, or teaches nothing.
    """
    seed, index = map(int, source_ref.split("/"))
    scene = world.train_scene(seed, index)
    text = caption if status == OK and caption else ""
    told = world.parse(text, language)
    reading = Reading(None, ()) if told is None else oracle.truth(told)
    return JudgedCaption(text == world.caption(scene, language), oracle.compare(reading, scene), status != OK)


def world_language(tag: str | None) -> str | None:
    """The language of the shapes world that a BCP 47 tag means ("ja-JP": "ja"), or None."""
    language = (tag or "").partition("-")[0].lower()
    return language if language in world.LANGUAGES else None


def mean_of_captions(judged: Sequence[JudgedCaption]) -> dict[str, float | int]:
    """One captioner's figures: shares of its `rows` captions."""
    return {
        "exact_match": float(np.mean([one.exact for one in judged])),
        **mean_fidelity(one.fidelity for one in judged),
        "flagged": float(np.mean([one.flagged for one in judged])),
        "rows": len(judged),
    }


def caption_figures(root: Root, catalog: str, tables: Mapping[str, str]) -> dict[str, Any]:
    """How right the captions of a catalog of drawn scenes are, by captioner; the exact match of the first also by itself.

    Args:
        root: where the tables lie.
        catalog: the catalog's directory under the root.
        tables: captioner -> directory of its table under the root. Captions in languages that the shapes world does not speak are left out, and a
            captioner that has no others with them.
    """
    judged = {name: _judged_captions(root, catalog, directory) for name, directory in tables.items()}
    captioners = {name: mean_of_captions(rows) for name, rows in judged.items() if rows}
    first = captioners.get(next(iter(tables), ""))
    own = {} if first is None else {"caption_exact_match": first["exact_match"], "captions_compared": first["rows"]}
    return {**own, "captioners": captioners}


def _judged_captions(root: Root, catalog: str, captions: str) -> list[JudgedCaption]:
    """Every caption of an image that is not taken down."""
    judged: list[JudgedCaption] = []
    gone = takedowns.load(root)
    for shard in storage.sealed_shards(root, catalog):
        name = storage.shard_name(shard)
        truth = root.read_table(f"{catalog}/{name}", columns=["key", "source_ref"])
        truth = truth.filter(pc.invert(takedowns.taken_down_rows(gone, truth)))
        both = truth.join(root.read_table(f"{captions}/{name}", columns=["key", "caption", "language", "status"]), "key")
        for row in both.to_pylist():
            language = world_language(row["language"])
            if language is not None:
                judged.append(judge_caption(row["source_ref"], row["caption"], language, row["status"]))
    return judged
