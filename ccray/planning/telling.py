"""A plan for people and for programs."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from ccray.planning.estimate import Line, Plan

STAGES = ("caption", "encode", "text", "train")


def table(plan: Plan) -> Iterator[str]:
    """Lines of text: work with its rates, then bytes, then where each rate comes from."""
    asked = plan.asked
    yield f"{plan.recipe}: {asked.images:,} images, each seen {plan.epochs:.1f} times, on {asked.gpus} {asked.gpu} GPUs, one stage after the other"
    yield ""
    yield f"{'stage':<8} {'samples/s':>11} {'GPU-hours':>11} {'days':>8} {'dollars':>11}  {'rate':<14} what"
    sources: dict[str, int] = {}
    for line in plan.work:
        number = sources.setdefault(line.source, len(sources) + 1)
        how = f"{line.basis or 'unknown'} [{number}]"
        yield f"{_row(line)}  {how:<14} {line.what}"
    yield f"{_row(plan.total())}  {plan.total().basis or ''}"
    if any(line.gpu_hours is None for line in plan.work):
        yield "the total lacks what is unknown"
    yield ""
    yield from _stored(plan)
    yield ""
    for source, number in sources.items():
        yield f"[{number}] {source}"


def as_json(plan: Plan) -> dict[str, Any]:
    """The same for programs: what was asked, every line, totals by stage, bytes."""
    stages = {stage: _sum(plan.total(stage)) for stage in STAGES if any(line.stage == stage for line in plan.work)}
    return {
        "recipe": plan.recipe,
        **asdict(plan.asked),
        "epochs": plan.epochs,
        "work": [asdict(line) for line in plan.work],
        "stages": stages,
        "total": _sum(plan.total()),
        "unknown": [line.what for line in plan.work if line.gpu_hours is None],
        "stored": [asdict(one) for one in plan.stored],
        "text_features_bytes_if_stored": plan.text_features_bytes,
    }


def _sum(line: Line) -> dict[str, Any]:
    return {"gpu_hours": line.gpu_hours, "days": line.days, "dollars": line.dollars, "basis": line.basis}


def _row(line: Line) -> str:
    rate, hours, days = _number(line.samples_per_second, ",.1f"), _number(line.gpu_hours, ",.0f"), _number(line.days, ",.2f")
    return f"{line.stage:<8} {rate:>11} {hours:>11} {days:>8} {_number(line.dollars, ',.0f'):>11}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _stored(plan: Plan) -> Iterator[str]:
    yield f"{'stage':<8} {'bytes':>11}  what"
    for one in plan.stored:
        yield f"{one.stage:<8} {_size(one.bytes):>11}  {one.what}"
    yield f"{'total':<8} {_size(sum(one.bytes or 0 for one in plan.stored)):>11}"
    yield f"Features of the text, which are made while training, would take {_size(plan.text_features_bytes)} if they were stored."


def _size(count: int | None) -> str:
    if count is None:
        return "-"
    value, units = float(count), ["B", "kB", "MB", "GB", "TB", "PB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}"
