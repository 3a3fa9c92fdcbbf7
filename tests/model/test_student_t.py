"""The p-value of Sec. 5 against scipy's Student t."""

import numpy as np
import pytest
import torch
from scipy import stats

from bndl_hf.model.student_t import student_t_p_value

STATISTICS = np.concatenate([[0.0], np.logspace(-6, 3, 60)])


@pytest.mark.parametrize("n", [1, 1.5, 2, 3.7, 19, 29.3, 200, 999.5, 1e4])
def test_p_values_are_those_of_scipy(n):
    expected = np.minimum(2 * stats.t.sf(STATISTICS, n), 1.0)
    p_value = student_t_p_value(torch.from_numpy(STATISTICS), n).numpy()
    # relative, down to the smallest normal number: p = 1e-200 keeps its digits; atol only below that
    np.testing.assert_allclose(p_value, expected, rtol=1e-9, atol=1e-300)


def test_degrees_of_freedom_broadcast_and_the_sign_does_not_matter():
    t, n = torch.tensor([[-2.0], [0.5]]), torch.tensor([2.5, 19.0, 1e4])
    expected = 2 * stats.t.sf(np.abs(t.numpy().astype(float)), n.numpy().astype(float))
    torch.testing.assert_close(student_t_p_value(t, n), torch.from_numpy(expected), rtol=1e-9, atol=0)


def test_infinite_statistics_give_zero_and_nan_stays_nan():
    p_value = student_t_p_value(torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0]), 19)
    assert p_value[:2].tolist() == [0.0, 0.0]
    assert p_value[2].isnan()
    assert p_value[3] == 1


def test_the_cauchy_distribution_by_hand():
    # One degree of freedom is the Cauchy distribution: P(|T| > 1) = 1/2.
    assert student_t_p_value(torch.tensor(1.0), 1).item() == pytest.approx(0.5, abs=1e-12)
