"""Last-layer Laplace (Daxberger et al. 2021, arXiv:2106.14806): a Gaussian around logistic regression's MAP weights.

The precision is the generalised Gauss-Newton matrix of the training rows plus that of the prior, whole where the layer
is small, else its Kronecker factors (Ritter et al. 2018); the predictive is the mean-field (probit) approximation of
MacKay (1992) over every class. As there, the prior's precision is chosen afterwards by held-out likelihood.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bndl_hf.baselines.classifiers import LogProbsClassifier
from bndl_hf.baselines.logistic import LogisticFit
from bndl_hf.uncertainty import negative_log_likelihood

CITATION = """@inproceedings{daxberger2021laplace,
  title     = {{Laplace} Redux: Effortless {Bayesian} Deep Learning},
  author    = {Daxberger, Erik and Kristiadi, Agustinus and Immer, Alexander and Eschenhagen, Runa and Bauer, Matthias
               and Hennig, Philipp},
  booktitle = {Advances in Neural Information Processing Systems (NeurIPS)},
  year      = {2021},
  url       = {https://arxiv.org/abs/2106.14806}
}"""

# Entries (D + 1) C of a weight matrix whose whole precision is inverted: 3,000 take 72 MB and seconds.
_LARGEST_WHOLE = 3000
# Prior precisions tried. Infinity is the MAP head itself, so the choice is never worse than that on the held-out rows.
PRIOR_PRECISIONS = (*(10.0**power for power in range(-3, 7)), math.inf)
_ROWS = 4096


class LaplaceClassifier(LogProbsClassifier):
    """Last-layer Laplace of a logistic regression.

    Args:
        fit: the MAP head.
        features: the rows it was trained on, [N, D].
        eval_features, eval_labels: held-out rows, on which the prior's precision is chosen.
        structure: "full", "kronecker", or None: full where (D + 1) C is at most 3,000.

    Raises:
        ValueError: for an unknown structure.
    """

    def __init__(
        self,
        fit: LogisticFit,
        features: Tensor,
        eval_features: Tensor,
        eval_labels: Tensor,
        structure: str | None = None,
    ) -> None:
        if structure not in (None, "full", "kronecker"):
            raise ValueError(f"structure={structure!r} is unknown; choose 'full', 'kronecker' or None.")
        self.fit = fit
        D, C = fit.weight.shape
        self.weights_per_class = float(D)
        self.structure = structure or ("full" if (D + 1) * C <= _LARGEST_WHOLE else "kronecker")
        self.prior_precision = math.inf
        inputs = self._inputs(features)
        probs = (inputs @ self._weight()).softmax(dim=-1)
        if self.structure == "full":
            self._values, self._vectors = torch.linalg.eigh(gauss_newton(inputs, probs))
        else:
            # A = mean of x x^T, B = sum of diag(p) - p p^T: sum_n (x x^T) kron Lambda_n is taken as A kron B.
            self._input_values, self._input_vectors = torch.linalg.eigh(inputs.T @ inputs / len(inputs))
            curvature = torch.diag(probs.sum(0)) - probs.T @ probs
            self._class_values, self._class_vectors = torch.linalg.eigh(curvature)
        losses = []
        for precision in PRIOR_PRECISIONS:
            self._set_precision(precision)
            losses.append(negative_log_likelihood(self.probs(eval_features), eval_labels))
        self._set_precision(PRIOR_PRECISIONS[losses.index(min(losses))])

    def log_probs(self, features: Tensor) -> Tensor:
        """log softmax of E[l_c] / sqrt(1 + pi / 8 Var[l_c]), [B, C]."""
        return torch.cat([self._log_probs(self._inputs(rows)) for rows in features.split(_ROWS)]).float()

    def variance(self, features: Tensor) -> Tensor:
        """Var[l_c] of features [B, D], [B, C], float64."""
        return self._variance(self._inputs(features))

    def _log_probs(self, inputs: Tensor) -> Tensor:
        mean = inputs @ self._weight()
        return (mean / (1 + math.pi / 8 * self._variance(inputs)).sqrt()).log_softmax(dim=-1)

    def _set_precision(self, precision: float) -> None:
        """Set the prior's precision and, of a whole matrix, each class's block of the covariance, [C, D + 1, D + 1]."""
        self.prior_precision = precision
        if self.structure == "full" and math.isfinite(precision):
            C = self.fit.weight.shape[1]
            vectors = self._vectors.reshape(C, -1, len(self._values))  # [C, D + 1, C (D + 1)]
            self._blocks = (vectors / (self._values.clamp_min(0) + precision)) @ vectors.mT

    def _variance(self, inputs: Tensor) -> Tensor:
        if math.isinf(self.prior_precision):
            return inputs.new_zeros(len(inputs), self.fit.weight.shape[1])
        if self.structure == "full":
            return torch.stack([((inputs @ block) * inputs).sum(-1) for block in self._blocks], dim=-1)
        # The eigenvalues of A kron B + delta are a_i b_j + delta, [D + 1, C].
        joint = torch.outer(self._input_values.clamp_min(0), self._class_values.clamp_min(0))
        in_eigenbasis = (inputs @ self._input_vectors).square()
        return in_eigenbasis @ (1 / (joint + self.prior_precision)) @ self._class_vectors.square().T

    def _inputs(self, features: Tensor) -> Tensor:
        """Standardised features and a one for the bias, [B, D + 1], float64."""
        standardised = (features.double() - self.fit.mean) / self.fit.std
        return torch.cat([standardised, standardised.new_ones(len(features), 1)], dim=-1)

    def _weight(self) -> Tensor:
        return torch.cat([self.fit.weight, self.fit.bias[None]])  # [D + 1, C]


def gauss_newton(inputs: Tensor, probs: Tensor) -> Tensor:
    """sum_n (diag(p_n) - p_n p_n^T) kron (x_n x_n^T): curvature of the cross-entropy of a linear softmax head.

    Args:
        inputs: x, [N, D].
        probs: p, [N, C].

    Returns:
        [C D, C D], classes outermost.
    """
    D, C = inputs.shape[1], probs.shape[1]
    whole = inputs.new_empty(C, D, C, D)
    for c in range(C):
        for other in range(c, C):
            weight = probs[:, c] * (float(c == other) - probs[:, other])
            block = (inputs * weight[:, None]).T @ inputs
            whole[c, :, other], whole[other, :, c] = block, block
    return whole.reshape(C * D, C * D)
