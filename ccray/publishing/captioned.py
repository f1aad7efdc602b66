"""Whose captions they are, in words: the tables that training draws from, and how each came to be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ccray.components import public_name
from ccray.config import IMPORTED, CaptionConfig, Recipe, trained_captions
from ccray.storage import CAPTIONS, Manifest

UNSAID = ("und", "mul")  # BCP 47: not known, several; neither is a language that a card could name


@dataclass(frozen=True)
class Drawn:
    """A table of captions that training draws from."""

    table: str
    by: str  # in words, for after "captions"
    languages: tuple[str, ...]  # BCP 47
    weight: float  # how often it is drawn, relative to the others
    synthetic: bool  # written by a model here; False: shipped by the source


def drawn(recipe: Recipe, inputs: Mapping[str, Manifest]) -> tuple[Drawn, ...]:
    """All tables that training draws from, in the recipe's order; `inputs` are finished manifests by directory."""
    return tuple(
        _shipped(table, weight, inputs[f"{CAPTIONS}/{table}"])
        if table.startswith(IMPORTED)
        else Drawn(table, by_captioner(recipe.caption[table]), (recipe.caption[table].language,), weight, True)
        for table, weight in trained_captions(recipe).items()
    )


def _shipped(table: str, weight: float, manifest: Manifest) -> Drawn:
    facts = manifest.facts
    found = facts.get("languages") or [facts.get("language", "und")]
    column = facts.get("column", table.removeprefix(IMPORTED))
    return Drawn(table, f"that the images' source ships, column {column}", tuple(one for one in found if one not in UNSAID), weight, False)


def by_captioner(config: CaptionConfig) -> str:
    """ "by MODEL", and for a translator what it read."""
    words = f"by {public_name(config.model)}"
    return f"{words}, translated from {config.input}" if config.input else words


def sentence(tables: Sequence[Drawn]) -> str:
    """Every table of training in one phrase; of several each with its name, languages and weight."""
    if len(tables) == 1:
        return f"captions {tables[0].by}"
    return "captions " + "; ".join(
        f"{one.by} ({one.table}, {', '.join(one.languages) or 'language unknown'}, weight {one.weight:g})" for one in tables
    )


def languages(tables: Sequence[Drawn]) -> tuple[str, ...]:
    """Of the tables, each language once, in their order."""
    return tuple(dict.fromkeys(language for one in tables for language in one.languages))


def kind(tables: Sequence[Drawn]) -> str:
    """The captions of a model in two words."""
    if all(one.synthetic for one in tables):
        return "synthetic captions"
    return "captions, some synthetic and some their source's" if any(one.synthetic for one in tables) else "captions of their source"
