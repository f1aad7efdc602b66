"""Settings laid over settings: a YAML file, then `key.sub=value` words; unknown keys are refused by name, with what was expected."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from ccray.interfaces import Refused

WORDS = ("prompt", "language", "model")  # of captioners: what is typed is what is meant, whatever YAML would make of it
Named = Mapping[str, type[BaseModel]]  # sections that hold one of these for each name


def overridden(values: dict[str, Any], words: Sequence[str], file_text: str | None, named: Named) -> dict[str, Any]:
    """`values` with a file's settings and then the words' laid over them, in place.

    Raises:
        Refused: on what is no override, or an unknown key.
    """
    if file_text is not None:
        _merge(values, _yaml(file_text, "the configuration file"), "", named)
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise Refused(f"{word!r} is not an override: expected key.sub=value, such as train.steps=100")
        _merge(values, _nested(values, key.split("."), text), "", named)
    return values


def _nested(values: dict[str, Any], path: list[str], text: str) -> dict[str, Any]:
    """One word as sections within sections. `a.captions.NAME=1` adds to what is there, `a.captions={...}` replaces it."""
    nested: Any = text if path[0] == "caption" and path[-1] in WORDS else _yaml_value(text)
    free = next((place for place, part in enumerate(path[:-1]) if part in FREE), None)
    if free is not None:
        there: Any = values
        for part in path[: free + 1]:
            there = there.get(part) if isinstance(there, dict) else None
        nested, path = (there if isinstance(there, dict) else {}) | {".".join(path[free + 1 :]): nested}, path[: free + 1]
    for part in reversed(path):
        nested = {part: nested}
    return nested


def _yaml(text: str, what: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise Refused(f"{what} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise Refused(f"{what} holds {type(values).__name__}, expected sections such as `train: {{steps: 100}}`")
    return values


def _yaml_value(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, str) and "e" in text.lower():  # YAML 1.1 reads 1e-3 as a word
        try:
            return float(text)
        except ValueError:
            return value
    return value


# Sections whose own keys are free.
FREE = {"label_selector", "task_label_selector", "captions"}


def _merge(values: dict[str, Any], changes: dict[str, Any], prefix: str, named: Named) -> None:
    for key, change in changes.items():
        if key not in values:
            raise Refused(f"unknown key {prefix}{key}: expected one of {', '.join(map(str, values))}")
        if isinstance(values[key], dict) and key not in FREE:
            if not isinstance(change, dict):
                raise Refused(f"{prefix}{key} is a section, not a value: got {change!r}, expected one of {', '.join(values[key])} below it")
            if f"{prefix}{key}" in named:
                like = values["caption"] if f"{prefix}{key}" == "resources.captioners" else None  # what the others have
                values[key] = _merge_named(values[key], change, f"{prefix}{key}", named, like)
                continue
            if key == "denoiser" and change.get("kind", values[key]["kind"]) != values[key]["kind"]:
                values[key] = change
                continue
            _merge(values[key], change, f"{prefix}{key}.", named)
        else:
            values[key] = change


def _merge_named(values: dict[str, Any], changes: dict[str, Any], place: str, named: Named, like: dict[str, Any] | None = None) -> dict[str, Any]:
    """Settings of captioners by name: `caption.NAME.batch_size=8` changes or adds one (with the settings of `like`, where it is given, else with
    the defaults), `caption.NAME=null` takes it away, `caption.batch_size=8` means the only one."""
    kind, merged = named[place], dict(values)
    for name, change in ((str(name), change) for name, change in changes.items()):
        if name in kind.model_fields:
            if len(merged) != 1:
                raise Refused(f"{place}.{name}: expected {place}.NAME.{name}, NAME one of {', '.join(merged) or 'your own'}")
            only = next(iter(merged))
            merged[only] = dict(merged[only])
            _merge(merged[only], {name: change}, f"{place}.{only}.", named)
        elif change is None:
            merged.pop(name, None)
        elif isinstance(change, dict):
            merged[name] = dict(merged.get(name) or like or kind().model_dump())
            _merge(merged[name], change, f"{place}.{name}.", named)
        else:
            raise Refused(f"{place}.{name} is a section, not a value: got {change!r}, expected one of {', '.join(kind.model_fields)} below it")
    return merged


def sentence(error: ValidationError) -> str:
    """The first fault of a configuration: key, value, what was expected."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"]) or "the recipe"
    if first["type"] == "value_error":
        return f"{place}: {first['ctx']['error']}"
    return f"{place} is {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"
