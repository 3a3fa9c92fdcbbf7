"""The p-value of Sec. 5 against scipy's Student t."""

import numpy as np
import pytest
import torch
from scipy import stats

from bndl_hf.model.student_t import student_t_p_value

STATISTICS = np.concatenate([[0.0], np.logspace(-6, 3, 60)])


@pytest.mark.parametrize("n", [1, 2, 3, 4, 19, 20, 99, 200, 999])
def test_p_values_are_those_of_scipy_whatever_the_sign(n):
    expected = 2 * stats.t.sf(STATISTICS, n)
    for sign in (1, -1):
        p_value = student_t_p_value(sign * torch.from_numpy(STATISTICS), n)
        assert p_value.dtype == torch.float64
        np.testing.assert_allclose(p_value.numpy(), expected, rtol=0, atol=1e-10 if n == 1 else 1e-13)


def test_infinite_statistics_give_zero_and_nan_stays_nan():
    p_value = student_t_p_value(torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0]), 19)
    assert p_value[:2].tolist() == pytest.approx([0.0, 0.0], abs=1e-15)
    assert p_value[2].isnan()
    assert p_value[3] == 1


def test_the_cauchy_distribution_by_hand():
    # One degree of freedom is the Cauchy distribution: P(|T| > 1) = 1/2.
    assert student_t_p_value(torch.tensor(1.0), 1).item() == pytest.approx(0.5, abs=1e-12)
