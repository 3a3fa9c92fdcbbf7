"""Student's t tail probability, for the p-values of Sec. 5 (PAvPU).

torch has no incomplete beta function and this file travels with checkpoints that may use torch alone, so it is
evaluated here by its continued fraction. Read predictive.py next: it turns logit gaps into the t statistics.
"""

import torch
from torch import Tensor

# The fraction converges in O(sqrt(max(a, b))) steps on the side chosen below: 9 for 19 degrees of freedom, 40 for 999.
_MAX_STEPS = 200
_TINY = 1e-300


def student_t_p_value(t: Tensor, degrees_of_freedom: Tensor | float) -> Tensor:
    """Two-sided p-value P(|T| > |t|) of Student's t distribution.

    For n degrees of freedom and x = n / (n + t^2) it is the regularised incomplete beta function I_x(n/2, 1/2)
    (Abramowitz & Stegun, 26.7.1 and 26.5.27). Small p-values keep their relative precision.

    Args:
        t: the statistic, any shape; infinities give 0, NaN gives NaN.
        degrees_of_freedom: > 0, a number or a tensor that broadcasts against `t` (Welch's test has fractional ones).

    Returns:
        Tensor in [0, 1] of the broadcast shape, float64.

    Example:
        >>> student_t_p_value(torch.tensor(2.093), 19)  # the 5 % point for 20 draws
        tensor(0.0500, dtype=torch.float64)
    """
    t = t.to(torch.float64)
    n = torch.as_tensor(degrees_of_freedom, dtype=torch.float64, device=t.device)
    t_squared, n = torch.broadcast_tensors(t.nan_to_num(0.0, torch.inf, torch.inf).square(), n)
    # 1 - x is t^2/(n + t^2), formed without subtraction; an infinite t would make it inf/inf.
    x = n / (n + t_squared)
    one_minus_x = torch.where(torch.isinf(t_squared), torch.ones_like(x), t_squared / (n + t_squared))
    half_n, half = n / 2, torch.full_like(n, 0.5)
    # The fraction converges fast below the mean of the beta distribution; above it, use the mirror image.
    upper = x > (half_n + 1) / (half_n + 2.5)
    tail = _incomplete_beta(
        torch.where(upper, one_minus_x, x),
        torch.where(upper, x, one_minus_x),
        torch.where(upper, half, half_n),
        torch.where(upper, half_n, half),
    )
    p_value = torch.where(upper, 1 - tail, tail)
    return torch.where(torch.isnan(t), t, p_value.clamp(0.0, 1.0))


def _incomplete_beta(x: Tensor, one_minus_x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """I_x(a, b) by the continued fraction of Abramowitz & Stegun 26.5.8 (modified Lentz), float64."""
    log_beta = torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
    front = torch.exp(torch.xlogy(a, x) + torch.xlogy(b, one_minus_x) - log_beta) / a
    c, d = torch.ones_like(x), 1 / _away_from_zero(1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, _MAX_STEPS + 1):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        previous = fraction
        for term in (even, odd):
            d = 1 / _away_from_zero(1 + term * d)
            c = _away_from_zero(1 + term / c)
            fraction = fraction * c * d
        if torch.allclose(fraction, previous, rtol=1e-13, atol=0.0):
            break
    return front * fraction


def _away_from_zero(value: Tensor) -> Tensor:
    """`value`, with zeros replaced by the smallest number Lentz's method may divide by."""
    return torch.where(value.abs() < _TINY, _TINY, value)
