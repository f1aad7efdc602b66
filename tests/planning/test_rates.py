"""What a table of rates says of work that it has, and of work that is only like it."""

from dataclasses import replace
from pathlib import Path

import pytest

from ccray.interfaces import Refused
from ccray.planning import rates
from ccray.planning.rates import Job, Rate

TRAIN = Job("train", "unet-866m", "a100", 8, (256,), gflop=180.0)
ENCODE = Job("encode", "sd2-kl", "a100", 1, (256, 512))


def measured(job: Job, samples_per_second: float) -> Rate:
    return Rate(job, samples_per_second, "measured", "us")


TABLE = [
    measured(TRAIN, 800.0),
    measured(replace(TRAIN, gpus=32), 1600.0),
    measured(replace(TRAIN, size_px=(512,), gflop=720.0), 100.0),
    measured(replace(TRAIN, size_px=(512,), ema=True, gflop=720.0), 80.0),
    measured(ENCODE, 50.0),
]


@pytest.mark.parametrize(
    ("job", "rate", "basis"),
    [
        (TRAIN, 800, "measured"),
        (replace(TRAIN, gpus=16), 16 * 75, "estimated"),  # halfway between 100 and 50 a GPU: 16 is halfway between 8 and 32 in log2
        (replace(TRAIN, gpus=4), 400, "estimated"),
        (replace(TRAIN, gpus=64), 3200, "estimated"),
        (replace(TRAIN, size_px=(512,), gflop=720.0, ema=True), 80, "measured"),
        (replace(TRAIN, ema=True), 800, "estimated"),
        (replace(TRAIN, model="unet-2000m", gflop=360.0), 400, "estimated"),
        (replace(TRAIN, model="unet-2000m", size_px=(1024,), gflop=1440.0), 50, "estimated"),
        (replace(TRAIN, gpu="h100"), 800 * 989 / 312, "estimated"),
        (ENCODE, 50, "measured"),
        (replace(ENCODE, gpus=7), 350, "measured"),
        (replace(ENCODE, size_px=(256,)), 250, "estimated"),
    ],
)
def test_what_differs_is_made_up_for_and_said(job: Job, rate: float, basis: str) -> None:
    found = rates.speed(TABLE, job)
    assert found is not None
    assert found.samples_per_second == pytest.approx(rate)
    assert found.basis == basis
    assert found.source.startswith("us")
    assert (found.source == "us") == (basis == "measured")


@pytest.mark.parametrize(
    "job", [Job("caption", "some/captioner", "a100", 1), replace(ENCODE, model="flux-kl"), replace(TRAIN, model="unet-2m", gflop=None)]
)
def test_work_that_is_like_no_row_has_no_rate(job: Job) -> None:
    assert rates.speed(TABLE, job) is None


def test_one_measured_machine_of_the_kind_comes_before_another_kind() -> None:
    mine = measured(replace(TRAIN, gpu="mine", gpus=1), 7.0)
    found = rates.speed([*TABLE, mine], replace(TRAIN, gpu="mine", gpus=2))
    assert found is not None
    assert found.samples_per_second == pytest.approx(14)
    rates.check_gpu([*TABLE, mine], "mine")
    with pytest.raises(Refused, match=r"--gpu-type 'yours' is not known: expected one of a100, .*, mine, .*--rates FILE"):
        rates.check_gpu([*TABLE, mine], "yours")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("train,unet,a100,8,256,no,10,0,,measured,us", "line 2: seconds is '0', expected a number above 0"),
        ("train,unet,a100,8,256,no,many,1,,measured,us", "line 2: could not convert string to float: 'many'"),
        ("train,unet,a100,8,256,maybe,10,1,,measured,us", "line 2: ema is 'maybe', expected one of yes, no"),
        ("tran,unet,a100,8,256,no,10,1,,measured,us", "line 2: work is 'tran', expected one of caption, encode, train"),
        ("train,unet,a100,8,256,no,10,1,,guessed,us", "line 2: basis is 'guessed', expected one of measured, estimated"),
        ("train,unet,a100", "line 2: "),
    ],
)
def test_a_row_that_is_none_is_refused_by_its_line(tmp_path: Path, line: str, told: str) -> None:
    path = tmp_path / "rates.csv"
    path.write_text(",".join(rates.COLUMNS) + "\n" + line + "\n")
    with pytest.raises(Refused) as refusal:
        rates.read(path)
    assert told in str(refusal.value)


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"--rates .*none\.csv cannot be read"):
        rates.read(tmp_path / "none.csv")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(Refused, match="has the columns a, b: expected work, model"):
        rates.read(tmp_path / "other.csv")
