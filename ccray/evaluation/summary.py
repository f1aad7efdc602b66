"""From judged pictures and distances to metrics.json, and from metrics.json to the sheet and the page that people read."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ccray.config import Recipe, trained_captions
from ccray.evaluation import fidelity, metrics, report
from ccray.evaluation.choice import REAL, REFERENCE
from ccray.evaluation.definitions import CAPTIONERS, DEFINITIONS
from ccray.evaluation.fidelity import FIELDS, Judged
from ccray.evaluation.metrics import FeatureSums
from ccray.evaluation.report import Card, Figures, Pixels
from ccray.shapes import oracle, world
from ccray.shapes.oracle import ATTRIBUTES, Reading
from ccray.shapes.world import Scene

UNTRAINED = "untrained"
SETTINGS = ("recipe", "model", "prompts", "prompts_from", "languages", "categories", "seed", "steps", "guidance", "size_px", "features")


@dataclass(frozen=True)
class Drawn:
    """What one model drew: rows of `schema.SAMPLES` and, one a row, the oracle's judgement where the prompt is a sentence of the shapes world."""

    rows: list[dict[str, Any]]
    judged: list[Judged | None]

    @property
    def known(self) -> list[Judged]:
        return [one for one in self.judged if one is not None]

    @property
    def scenes(self) -> list[Scene]:
        return [one.scene for one in self.known]

    def lines(self) -> list[dict[str, Any]]:
        """Rows of samples.jsonl: those of the table, with `shows` (attribute -> bool) where it is known."""
        return [row if one is None else row | {"shows": asdict(one.fidelity)} for row, one in zip(self.rows, self.judged, strict=True)]


def judge(prompt: str, picture: Pixels) -> Judged | None:
    """The oracle's judgement of a picture (uint8, H W 3), or None for a prompt that is no sentence of the shapes world in any of its languages."""
    scenes = (world.parse(prompt, language) for language in world.LANGUAGES)
    scene = next((scene for scene in scenes if scene is not None), None)
    return None if scene is None else Judged(oracle.read(picture), scene)


def shapes_figures(drawn: Drawn, untrained: Drawn, ceiling: Sequence[Reading]) -> dict[str, Any]:
    """Everything that the oracle tells; empty when no prompt is a sentence of the shapes world."""
    if not drawn.known:
        return {}
    own = fidelity.mean_fidelity(one.fidelity for one in drawn.known)
    known_rows = [row for row, one in zip(drawn.rows, drawn.judged, strict=True) if one is not None]
    return {
        "prompt_fidelity": own,
        "prompt_fidelity_mean": fidelity.mean_of_five(own),
        "pictures_judged": len(drawn.known),
        "untrained": fidelity.mean_fidelity(one.fidelity for one in untrained.known),
        "shuffled": fidelity.shuffled(drawn.known),
        "chance": oracle.chance(),
        "ceiling": fidelity.mean_fidelity(oracle.compare(reading, scene) for reading, scene in zip(ceiling, drawn.scenes, strict=True)),
        "by_category": fidelity.by_group(drawn.known, [row["category"] for row in known_rows]),
        "by_language": fidelity.by_group(drawn.known, [row["language"] for row in known_rows]),
    }


def distance_figures(sums: Mapping[str, FeatureSums], model: str) -> dict[str, Any]:
    """Distances of every set from the reference set; those of `model` also at the top. None where there are too few pictures."""
    reference = sums.get(REFERENCE)
    names = [name for name in (model, UNTRAINED, REAL) if name in sums]
    found = {
        name: metrics.distances(sums[name], reference) if reference is not None and min(reference.count, sums[name].count) > 1 else None
        for name in names
    }
    own = found.get(model) or {}
    return {
        "frechet_distance": own.get("frechet_distance"),
        "kernel_distance": own.get("kernel_distance"),
        "kernel_distance_std": own.get("kernel_distance_std"),
        "distances": found,
        "reference_images": reference.count if reference is not None else 0,
    }


def settings(recipe: Recipe, drawn: Drawn, size_px: tuple[int, int]) -> dict[str, Any]:
    """What was drawn, and how: counts, seeds, sampler. `size_px` is width and height."""
    config = recipe.evaluate
    return {
        "recipe": recipe.name,
        "model": recipe.train.name,
        "prompts": len(drawn.rows),
        "prompts_from": config.prompts or _own_prompts(recipe),
        "languages": dict(sorted(Counter(row["language"] for row in drawn.rows).items())),
        "categories": dict(sorted(Counter(row["category"] for row in drawn.rows).items())),
        "seed": config.seed,
        "steps": config.steps,
        "guidance": config.guidance,
        "size_px": list(size_px),
        "features": config.features,
    }


def _own_prompts(recipe: Recipe) -> str:
    if recipe.catalog.source == "shapes":
        return f"held-out scenes of the shapes world, seed {recipe.evaluate.seed}"
    tables = trained_captions(recipe)
    whose = f" by {', '.join(tables)} in turn" if len(tables) > 1 else ""
    return f"captions of the catalog's images{whose}, the validation split first"


def cards(drawn: Drawn, pictures: Sequence[Pixels]) -> list[Card]:
    """The first rows as cards of the sheet; `pictures` are theirs."""
    made = []
    for row, judged, picture in zip(drawn.rows, drawn.judged, pictures, strict=False):
        truth = None if judged is None else world.draw(judged.scene, picture.shape[0])
        missed = None if judged is None else tuple(name for name in ATTRIBUTES if not getattr(judged.fidelity, name))
        made.append(Card(row["prompt"], picture, truth, missed))
    return made


def titles(figures: Mapping[str, Any]) -> tuple[str, str]:
    """Title and subtitle of the sheet."""
    title = f"ccray, recipe {figures['recipe']}: what the model draws for {figures['prompts']:,} prompts"
    lines = [f"{figures['steps']} steps, guidance {figures['guidance']:g}, seed {figures['seed']}; prompts: {figures['prompts_from']}"]
    if "prompt_fidelity" in figures:
        shares = ", ".join(f"{name} {figures['prompt_fidelity'][name]:.2f}" for name in FIELDS)
        lines.append(
            f"Pictures that show what the prompt says: {shares} (mean of the five {figures['prompt_fidelity_mean']:.3f}, all by chance {figures['chance']['all']:.2f})"
        )
    if figures.get("frechet_distance") is not None:  # without its accent, which the font of the sheet may lack
        floor = figures["distances"].get(REAL) or {}
        shown = report.shown(figures["frechet_distance"])
        lines.append(f"Frechet distance to real images {shown}; of other real images {report.shown(floor.get('frechet_distance'))}")
    return title, "\n".join(lines)


def written(figures: Mapping[str, Any], shown: Sequence[Card]) -> tuple[bytes, str]:
    """The contact sheet as PNG and the report as HTML."""
    title, subtitle = titles(figures)
    sheet = report.png(report.contact_sheet(shown, title, subtitle))
    return sheet, report.page(title, tables(figures), sheet, {name: figures[name] for name in SETTINGS})


def tables(figures: Mapping[str, Any]) -> list[Figures]:
    """The page's tables."""
    made = []
    if figures.get("captioners"):
        made.append(_captions_table(figures["captioners"]))
    if "prompt_fidelity" in figures:
        made.append(_fidelity_table(figures))
    distances = {name: values for name, values in figures["distances"].items() if values}
    columns = ("frechet_distance", "kernel_distance", "kernel_distance_std", "pictures")
    note = f"Against {figures['reference_images']:,} real images of the catalog. {DEFINITIONS['frechet_distance']} {DEFINITIONS['kernel_distance']} `{REAL}`: other images of the catalog, the floor."
    made.append(
        Figures(
            "Distances to real images",
            note,
            columns,
            tuple((name, tuple(values[column] for column in columns)) for name, values in distances.items()),
        )
    )
    return made


def _captions_table(captioners: Mapping[str, Mapping[str, float | int]]) -> Figures:
    columns = ("exact_match", *FIELDS, "flagged", "rows")
    rows = tuple((name, tuple(values[column] for column in columns)) for name, values in captioners.items())
    return Figures("Captions", CAPTIONERS, columns, rows)


def _fidelity_table(figures: Mapping[str, Any]) -> Figures:
    sets = [(figures["model"], figures["prompt_fidelity"])]
    sets += [(name, figures[name]) for name in ("untrained", "shuffled", "chance", "ceiling") if figures[name]]
    sets += [(f"{figures['model']}, {name}", values) for name, values in figures["by_category"].items() if name]
    rows = tuple((name, (*(values[field] for field in FIELDS), fidelity.mean_of_five(values))) for name, values in sets)
    note = " ".join(f"{name}: {DEFINITIONS[name]}" for name in ("prompt_fidelity", "untrained", "shuffled", "chance", "ceiling"))
    return Figures("Prompt fidelity", note, (*FIELDS, "mean of five"), rows)
