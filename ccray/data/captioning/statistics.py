"""`captions/statistics.json`: what the captioners of a run wrote, one by one, and how far they agree.

Counts are of all rows. Lengths, trigrams, the most frequent caption, agreement and, in the shapes world, truth are of the captions with status "ok" among a
sample of `survey.SAMPLE` images, the same for every table. Words are characters in languages that put no spaces between words.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from ccray.data.captioning.languages import UNSPACED, primary
from ccray.data.captioning.looping import words_of
from ccray.data.captioning.survey import SAMPLE, Row, Survey, survey, tables
from ccray.flags import FLAGS
from ccray.shapes import oracle, world
from ccray.shapes.oracle import ATTRIBUTES, Fidelity
from ccray.storage import CAPTIONS, Root, shard_name
from ccray.takedowns import taken_down

STATISTICS = f"{CAPTIONS}/statistics.json"
COMPARED = 3_000  # images, for the agreement of two captioners
UNKNOWN = ("und", "mul")
TRUE_LANGUAGES = ("en", "ja")  # those that the shapes world speaks


@dataclass(frozen=True)
class Spread:
    """Of some numbers."""

    mean: float
    median: float
    p95: float


@dataclass(frozen=True)
class Truth:
    """Captions of drawn scenes against the scenes; shares of 1."""

    captions: int
    exact: float  # the true sentence, word for word
    background: float
    colour: float
    shape: float
    size: float
    place: float
    all: float  # the right scene, also where its things are named in another order


@dataclass(frozen=True)
class TableFigures:
    """One table of captions."""

    table: str
    model: str | None  # null for captions that a source ships
    language: str
    finished: bool
    rows: int
    statuses: dict[str, int]  # first word of the status -> rows
    flagged: float  # share of rows
    languages: dict[str, int]  # as the rows say -> captions
    mean_logprob: float | None  # natural logarithm, of a token, over captions
    sampled: int  # captions that the figures below are of
    characters: Spread | None
    words: Spread | None  # null for languages without spaces
    trigrams: int  # three words in a row, or three characters, all counted
    distinct_trigrams: float | None  # share of them
    most_frequent: str | None
    most_frequent_share: float | None
    truth: Truth | None  # in the shapes world


@dataclass(frozen=True)
class Agreement:
    """Two captioners of one language on the same images."""

    first: str
    second: str
    language: str
    images: int
    unigram_f1: float  # of words, or of characters; the mean over images


@dataclass(frozen=True)
class Statistics:
    """All of `captions/statistics.json`."""

    sample: int  # images, at most
    tables: tuple[TableFigures, ...]
    agreements: tuple[Agreement, ...]


def write_statistics(root: Root, catalog: str = "catalog", directories: Sequence[str] | None = None) -> Statistics:
    """Write `captions/statistics.json` of some directories of captions, of all by default; again after a takedown."""
    return write_figures(root, catalog, surveys(root, directories))


def surveys(root: Root, directories: Sequence[str] | None = None) -> list[Survey]:
    """One pass over each directory, without what was taken down."""
    gone = pa.array(sorted(taken_down(root)), pa.int64())
    return [survey(root, directory, gone) for directory in (tables(root) if directories is None else directories)]


def write_figures(root: Root, catalog: str, found: Sequence[Survey]) -> Statistics:
    """Write the statistics of tables that were read already."""
    scenes = _scenes(root, catalog, found)
    result = Statistics(SAMPLE, tuple(_figures(one, scenes) for one in found), tuple(_agreements(found)))
    root.write_json(STATISTICS, asdict(result))
    return result


def _figures(one: Survey, scenes: dict[int, world.Scene]) -> TableFigures:
    good = [row for row in one.sample if row.is_ok]
    trigrams = np.array([hash(three) for row in good for three in _trigrams(tokens(row.caption or "", row.language))], np.int64)
    (text, times), *_ = Counter(row.caption for row in good).most_common(1) or [(None, 0)]
    spaced = [len(tokens(row.caption or "", row.language)) for row in good if primary(row.language) not in UNSPACED]
    return TableFigures(
        table=one.name,
        model=one.manifest.facts.get("model"),
        language=one.manifest.facts.get("language") or "und",
        finished=one.manifest.status == "finished",
        rows=one.rows,
        statuses=dict(sorted(one.statuses.items())),
        flagged=sum(one.statuses[flag] for flag in FLAGS) / max(one.rows, 1),
        languages=dict(sorted(one.languages.items())),
        mean_logprob=one.logprob_sum / one.logprobs if one.logprobs else None,
        sampled=len(good),
        characters=_spread([row.characters for row in good]),
        words=_spread(spaced),
        trigrams=len(trigrams),
        distinct_trigrams=len(np.unique(trigrams)) / len(trigrams) if len(trigrams) else None,
        most_frequent=text,
        most_frequent_share=times / len(good) if good else None,
        truth=_truth(good, scenes),
    )


def tokens(text: str, language: str | None) -> list[str]:
    """Words, lower case and without punctuation; letters and digits one by one in languages without spaces."""
    return [letter for letter in text if letter.isalnum()] if primary(language) in UNSPACED else words_of(text)


def _trigrams(words: Sequence[str]) -> "zip[tuple[str, str, str]]":
    return zip(words, words[1:], words[2:], strict=False)


def _spread(values: Sequence[int]) -> Spread | None:
    return Spread(*(float(one) for one in (np.mean(values), np.median(values), np.percentile(values, 95)))) if values else None


def _agreements(found: Sequence[Survey]) -> list[Agreement]:
    good = {one.name: {row.key: row for row in one.sample if row.is_ok and primary(row.language) not in UNKNOWN} for one in found}
    results = []
    for first, second in itertools.combinations(good, 2):
        pairs = [(row, good[second][key]) for key, row in good[first].items() if key in good[second]]
        for language in sorted({primary(row.language) for row, _ in pairs}):
            same = [(one, other) for one, other in pairs if primary(one.language) == language == primary(other.language)][:COMPARED]
            if same:
                results.append(Agreement(first, second, language, len(same), float(np.mean([_unigram_f1(*pair) for pair in same]))))
    return results


def _unigram_f1(first: Row, second: Row) -> float:
    """Twice the words that two captions share, over the words of both."""
    one, other = Counter(tokens(first.caption or "", first.language)), Counter(tokens(second.caption or "", second.language))
    return 2 * (one & other).total() / max(one.total() + other.total(), 1)


def _scenes(root: Root, catalog: str, found: Sequence[Survey]) -> dict[int, world.Scene]:
    """Key -> scene of the sampled images, where the catalog is of drawn scenes; a catalog is so in its first shard or nowhere."""
    wanted: dict[int, set[int]] = {}
    for row in (row for one in found for row in one.sample):
        wanted.setdefault(row.shard, set()).add(row.key)
    scenes: dict[int, world.Scene] = {}
    for shard in sorted(wanted):
        table = root.read_table(f"{catalog}/{shard_name(shard)}", columns=["key", "source", "source_ref"])
        drawn = [row for row in table.to_pylist() if row["source"] == "shapes"]
        scenes |= {row["key"]: _scene(row["source_ref"]) for row in drawn if row["key"] in wanted[shard]}
        if not drawn:
            break
    return scenes


def _scene(source_ref: str) -> world.Scene:
    """A training scene from its "SEED/INDEX"."""
    seed, index = map(int, source_ref.split("/"))
    return world.train_scene(seed, index)


def _truth(rows: Sequence[Row], scenes: dict[int, world.Scene]) -> Truth | None:
    said = [(row, scenes[row.key]) for row in rows if row.key in scenes and primary(row.language) in TRUE_LANGUAGES]
    if not said:
        return None
    exact = [row.caption == world.caption(scene, *_other(row.language)) for row, scene in said]
    found = [asdict(_compared(row, scene)) for row, scene in said]
    means = {name: float(np.mean([one[name] for one in found])) for name in (*ATTRIBUTES, "all")}
    return Truth(captions=len(said), exact=float(np.mean(exact)), **means)


def _compared(row: Row, scene: world.Scene) -> Fidelity:
    """Which attributes of its scene a caption has right; one that is no sentence of the world has none."""
    parsed = world.parse(row.caption or "", *_other(row.language))
    return oracle.compare(oracle.truth(parsed), scene) if parsed is not None else Fidelity(*[False] * (len(ATTRIBUTES) + 1))


def _other(language: str | None) -> tuple[str, ...]:
    """What the world is told of a language beside its first one."""
    return () if primary(language) == "en" else (primary(language),)
