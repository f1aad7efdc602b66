"""What mosaicml/diffusion's README and the CommonCanvas paper say that training takes, from their throughputs (README; paper table 5)."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from ccray import config, recipes
from ccray.planning import rates
from ccray.planning.estimate import Asked, Plan, plan

BASELINE_IMAGES = 1_100_000_000  # over which the published 3,784 A100-hours of pre-computation were spent


@dataclass(frozen=True)
class Published:
    """Samples a second, days and dollars at $2 an A100-hour."""

    gpus: int
    at_256: float
    at_512: float
    averaging: float  # at 512 px
    readme_days: float
    paper_days: float
    readme_dollars: float
    paper_dollars: float


TABLE = [
    Published(8, 1100, 290, 290, 81.33, 101.04, 31_230, 38_800),
    Published(16, 2180, 585, 580, 40.42, 50.29, 31_043, 38_630),
    Published(32, 4080, 1195, 1160, 20.06, 25.01, 30_805, 38_420),
    Published(64, 8530, 2340, 2220, 10.14, 12.63, 31_146, 38_800),
    Published(128, 11600, 4590, 3927, 5.51, 6.79, 33_874, 41_710),
]
HEADER = ",".join(rates.COLUMNS)


def readme_table(path: Path) -> list[rates.Rate]:
    """The README's throughputs alone, as a file of one's own."""
    rows = [
        f"train,unet-866m,a100,{row.gpus},{size_px},no,{rate},1,,measured,the README"
        for row in TABLE
        for size_px, rate in ((256, row.at_256), (512, row.at_512))
    ]
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    return rates.read(path)


def planned(gpus: int, table: list[rates.Rate], *words: str) -> Plan:
    recipe = config.build(recipes.commoncanvas_s_nc(), words)
    return plan(recipe, Asked(BASELINE_IMAGES, gpus, "a100", dollars_per_gpu_hour=2.0), table)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: str(row.gpus))
def test_the_readme_from_its_throughputs(row: Published, tmp_path: Path) -> None:
    alone = planned(row.gpus, readme_table(tmp_path / "rates.csv")).total("train")
    never = planned(row.gpus, rates.read(), "train.phases.512px.ema_steps=0").total("train")
    for found in (alone, never):
        assert found.days == pytest.approx(row.readme_days, abs=0.01)
        assert found.dollars == pytest.approx(row.readme_dollars, rel=0.002)
    assert (alone.basis, never.basis) == ("estimated", "measured"), "nobody measured the README's steps with the average"


@pytest.mark.parametrize("row", TABLE, ids=lambda row: str(row.gpus))
def test_the_paper_from_the_published_table(row: Published) -> None:
    found = planned(row.gpus, rates.read())
    encode, train = found.total("encode"), found.total("train")
    assert encode.gpu_hours == pytest.approx(3784)
    assert train.basis == "measured"
    assert encode.days is not None
    assert train.days is not None
    assert encode.dollars is not None
    assert train.dollars is not None
    assert encode.days + train.days == pytest.approx(row.paper_days, abs=0.01)
    assert encode.dollars + train.dollars == pytest.approx(row.paper_dollars, rel=0.002)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: str(row.gpus))
def test_the_table_that_ships_has_every_published_throughput(row: Published) -> None:
    lines = [line for line in planned(row.gpus, rates.read()).work if line.stage == "train"]
    assert [line.samples_per_second for line in lines] == [row.at_256, row.at_512, row.averaging]
    assert [line.samples for line in lines] == [550_000 * 2048, 800_000 * 2048, 50_000 * 2048]
    assert {line.basis for line in lines} == {"measured"}


def test_captioning_takes_what_the_paper_says() -> None:
    images = recipes.IMAGES["commoncanvas-s-nc"]
    found = plan(recipes.commoncanvas_s_nc(), Asked(images, 64, "a100"), rates.read()).total("caption")
    assert found.gpu_hours == pytest.approx(1120)
    assert found.dollars is None
