"""NMF whose ReLUs pass the gradient of a GELU, so that no weight is dead for good (Wang et al. 2024).

Forward relu(x), backward the derivative of GELU(x) = x Phi(x) (Hendrycks and Gimpel 2016): close to one where x is
large, and not zero where it is a little below zero, where a plain ReLU stops learning.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from bndl_hf.baselines.nmf import NMFDecisionLayer

CITATION = """@inproceedings{wang2024nonnegative,
  title     = {Non-negative Contrastive Learning},
  author    = {Wang, Yifei and Zhang, Qi and Guo, Yaoyu and Wang, Yisen},
  booktitle = {International Conference on Learning Representations (ICLR)},
  year      = {2024},
  url       = {https://arxiv.org/abs/2403.12459}
}"""

# Here Phi and phi are zero in float32, and with them the gradient.
_OUT_OF_REACH = 20.0


def relu_with_gelu_gradient(x: Tensor) -> Tensor:
    """relu(x) of any shape, whose gradient is GELU's, Phi(x) + x phi(x).

    Example:
        >>> x = torch.tensor([-0.5, 2.0], requires_grad=True)
        >>> relu_with_gelu_gradient(x).sum().backward()
        >>> x.grad
        tensor([0.1325, 1.0852])
    """
    return _ReLUWithGELUGradient.apply(x)


class _ReLUWithGELUGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return F.relu(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        density = torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)
        return gradient * (torch.special.ndtr(x) + x * density)


class NMFGELUDecisionLayer(NMFDecisionLayer):
    """relu(h) @ relu(W) + b as `NMFDecisionLayer`, learning through the gradient of a GELU."""

    def means(self, values: Tensor, threshold: float) -> Tensor:
        """relu(x - c), with the gradient of GELU(x - c)."""
        return relu_with_gelu_gradient(values - threshold)

    @torch.no_grad()
    def zero_loadings(self, is_zero: Tensor) -> None:
        """Set the loadings where `is_zero` [D, C] to zero for good, farther below zero than the gradient reaches."""
        self.raw_loadings.masked_fill_(is_zero, self.config.loading_threshold - _OUT_OF_REACH)
