"""A change that is not meant to change what is learned changes no digit of the losses."""

from pathlib import Path

import numpy as np
import pytest

from tests.golden.runs import FP64, RUNS, kept, losses

# Random weights and text features differ in their last bits between processors; float64 does not amplify that in 20 steps.
SAME = 1e-7
# AdamW in float32 divides rounding by rounding where gradients are near zero.
NEAR = 1e-5


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize(("words", "tolerance"), [(FP64, SAME), ((), NEAR)], ids=["float64", "float32"])
def test_losses_are_the_kept_ones(tmp_path: Path, name: str, words: tuple[str, ...], tolerance: float) -> None:
    expected = kept()
    assert expected.keys() == RUNS.keys()
    assert len(expected[name]) == 20
    np.testing.assert_allclose(losses(tmp_path, name, *words), expected[name], rtol=tolerance)
