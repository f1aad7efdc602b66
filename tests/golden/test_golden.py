"""A change that is not meant to change what is learned changes no digit of the losses."""

from pathlib import Path

import numpy as np
import pytest

from tests.golden.runs import FP64, kept, losses

# Random weights and text features differ in their last bits between processors; float64 does not amplify that in 20 steps.
SAME = 1e-7
# AdamW in float32 divides rounding by rounding where gradients are near zero.
NEAR = 1e-5


@pytest.mark.parametrize(("words", "tolerance"), [(FP64, SAME), (("train.schedule=cosine",), NEAR)], ids=["float64", "float32"])
def test_losses_are_the_kept_ones(tmp_path: Path, words: tuple[str, ...], tolerance: float) -> None:
    found = losses(tmp_path, *words)
    expected = kept()
    assert found.keys() == expected.keys()
    for family, values in expected.items():
        assert len(values) == 20
        np.testing.assert_allclose(found[family], values, rtol=tolerance, err_msg=family)
