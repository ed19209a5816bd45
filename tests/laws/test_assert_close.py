"""The judge is judged first."""

import pytest
import torch

from palimpsest.testing import assert_close, relative_rms

ONES = torch.ones(2, 3, dtype=torch.float64)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_tolerance_follows_the_dtype(dtype: torch.dtype, tolerance: float) -> None:
    assert_close("x", (ONES * (1 + 0.5 * tolerance)).to(dtype), ONES)
    with pytest.raises(AssertionError, match="allowed"):
        assert_close("x", (ONES * (1 + 2.0 * tolerance)).to(dtype), ONES)


def test_lower_precision_may_err_twice_as_much_as_its_control() -> None:
    control = (1.125 * ONES).bfloat16()
    assert_close("x", (1.25 * ONES).bfloat16(), ONES, control=control)
    with pytest.raises(AssertionError, match=r"error 2\.58e-01, allowed 2\.50e-01"):
        assert_close("x", (1.2578125 * ONES).bfloat16(), ONES, control=control)


def test_a_control_belongs_to_lower_precision() -> None:
    with pytest.raises(ValueError, match="control of the same dtype, got none"):
        assert_close("x", ONES.bfloat16(), ONES)
    with pytest.raises(ValueError, match=r"got torch\.float16"):
        assert_close("x", ONES.bfloat16(), ONES, control=ONES.half())
    with pytest.raises(ValueError, match="takes no control"):
        assert_close("x", ONES, ONES, control=ONES)


def test_message_names_what_where_and_which_seed() -> None:
    got = ONES.clone()
    got[1, 2] = 1.5
    with pytest.raises(AssertionError) as error:
        assert_close("gradient of k", got, ONES, seed=7)
    message = str(error.value)
    assert message.startswith("gradient of k (seed 7): relative RMS error 2.04e-01")
    assert "max abs 5.00e-01 at (1, 2): got 1.5, expected 1.0" in message


def test_what_is_not_finite_is_never_close() -> None:
    poisoned = ONES.clone()
    poisoned[0, 1] = torch.nan
    with pytest.raises(AssertionError, match="x: 1 of 6 elements not finite"):
        assert_close("x", poisoned, ONES)
    with pytest.raises(AssertionError, match="the reference itself is not finite"):
        assert_close("x", poisoned, poisoned)


def test_shapes_are_not_broadcast() -> None:
    with pytest.raises(AssertionError, match=r"shape \(1, 3\), expected \(2, 3\)"):
        assert_close("x", ONES[:1], ONES)


def test_zero_is_compared_absolutely_and_cancelling_terms_by_their_magnitude() -> None:
    assert relative_rms(1e-3 * ONES, 0 * ONES) == pytest.approx(1e-3)
    assert relative_rms(3e-12 * ONES, 1e-12 * ONES) == pytest.approx(2.0)
    assert_close("x", 3e-12 * ONES, 1e-12 * ONES, magnitude=1.0)


def test_whole_numbers_must_be_equal() -> None:
    assert_close("ids", torch.tensor([1, 2]), torch.tensor([1, 2]))
    with pytest.raises(AssertionError, match="1 of 2 elements differ"):
        assert_close("ids", torch.tensor([1, 2]), torch.tensor([1, 3]))
