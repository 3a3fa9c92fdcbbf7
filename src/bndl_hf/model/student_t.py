"""Student's t tail probability in closed form, for the p-values of Sec. 5 (PAvPU).

torch has no incomplete beta function, and this file travels with checkpoints that may use torch alone. Read
predictive.py next: it turns logit gaps into the t statistics.
"""

import math

import torch
from torch import Tensor


def student_t_p_value(t: Tensor, degrees_of_freedom: int) -> Tensor:
    """Two-sided p-value P(|T| > |t|) of Student's t distribution with a whole number of degrees of freedom.

    With theta = atan(t / sqrt(n)), P(|T| < t) is a polynomial in cos^2 theta times sin theta, and for odd n an angle
    besides (Abramowitz & Stegun, 26.7.3 and 26.7.4).

    Args:
        t: the statistic, any shape; infinities give 0, NaN gives NaN.
        degrees_of_freedom: n >= 1.

    Returns:
        Tensor in [0, 1] like `t`, float64, within 1e-13: smaller ones are as good as zero.

    Example:
        >>> student_t_p_value(torch.tensor(2.093), 19)  # the 5 % point for 20 draws
        tensor(0.0500, dtype=torch.float64)
    """
    n, t = degrees_of_freedom, t.to(torch.float64).abs()
    theta = torch.atan(t / math.sqrt(n))
    cosine_squared = torch.cos(theta).square()
    # Coefficients 1, 2/3, (2 4)/(3 5), ... of odd n, 1, 1/2, (1 3)/(2 4), ... of even n, up to cos^(n-2) theta
    coefficients = [1.0]
    for j in range(3 if n % 2 else 2, n - 1, 2):
        coefficients.append(coefficients[-1] * (j - 1) / j)
    series = torch.zeros_like(t)
    for coefficient in reversed(coefficients):
        series = series * cosine_squared + coefficient
    if n == 1:
        inside = 2 / math.pi * theta
    elif n % 2:
        inside = 2 / math.pi * (theta + torch.sin(theta) * torch.cos(theta) * series)
    else:
        inside = torch.sin(theta) * series
    return (1 - inside).clamp(0.0, 1.0)
