"""Last-layer Laplace of the package laplace-torch (Daxberger et al. 2021, arXiv:2106.14806), around our MAP head.

`LaplaceClassifier` (laplace.py) is the same posterior in closed form; a test compares both. What differs here is the
prior's precision: the package's own choice, by marginal likelihood, which needs no held-out rows.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from bndl_hf.baselines.classifiers import LogProbsClassifier
from bndl_hf.baselines.logistic import LogisticFit

CITATION = """@inproceedings{daxberger2021laplace,
  title     = {{Laplace} Redux: Effortless {Bayesian} Deep Learning},
  author    = {Daxberger, Erik and Kristiadi, Agustinus and Immer, Alexander and Eschenhagen, Runa and Bauer, Matthias
               and Hennig, Philipp},
  booktitle = {Advances in Neural Information Processing Systems (NeurIPS)},
  year      = {2021},
  url       = {https://arxiv.org/abs/2106.14806}
}"""

_STRUCTURES = {"full": "full", "kronecker": "kron"}  # our name and the package's
# Entries (D + 1) C of a weight matrix whose whole precision is inverted, as in laplace.py.
_LARGEST_WHOLE = 3000
_LARGEST_BLOCK = 20_000_000  # numbers of the Jacobians of the rows that are predicted at a time
_BATCH_SIZE = 500  # of the whole matrix, which is a sum over rows


class LaplaceTorchClassifier(LogProbsClassifier):
    """The package's Laplace of a logistic regression, with its probit ("glm") predictive.

    The bias is the weight of an input that is always one, so that the Kronecker factors are of weights and bias
    together, as in `LaplaceClassifier`.

    Args:
        fit: the MAP head.
        features: the rows it was trained on, [N, D].
        labels: [N], in 0 .. C - 1.
        structure: of the Gauss-Newton matrix, "full" (where (D + 1) C is at most 3,000) or "kronecker".
        prior_precision: of every weight, > 0; None: that of the largest marginal likelihood.

    Raises:
        ImportError: the package laplace-torch is missing.
        ValueError: for an unknown structure, and a whole matrix that is too large.
    """

    def __init__(
        self,
        fit: LogisticFit,
        features: Tensor,
        labels: Tensor,
        structure: str = "kronecker",
        prior_precision: float | None = None,
    ) -> None:
        D, C = fit.weight.shape
        if structure not in _STRUCTURES:
            raise ValueError(f"structure={structure!r} is unknown; choose 'full' or 'kronecker'.")
        if structure == "full" and (D + 1) * C > _LARGEST_WHOLE:
            raise ValueError(
                f"The whole matrix of {(D + 1) * C} weights is too large (at most {_LARGEST_WHOLE}); pass "
                "structure='kronecker'."
            )
        try:
            from laplace import Laplace
        except ImportError as error:
            raise ImportError(
                "Laplace heads of the package need laplace-torch; docs/peers.md says how it is installed."
            ) from error
        self.fit, self.weights_per_class = fit, float(D)
        layer = nn.Linear(D + 1, C, bias=False, dtype=torch.float64)
        with torch.no_grad():
            layer.weight.copy_(torch.cat([fit.weight, fit.bias[None]]).T)
        self.posterior = Laplace(
            nn.Sequential(layer),
            "classification",
            subset_of_weights="last_layer",
            hessian_structure=_STRUCTURES[structure],
            prior_precision=1.0 if prior_precision is None else prior_precision,
            last_layer_name="0",
        )
        # Sums of batches' Kronecker factors are not those of all rows: they come as one batch.
        rows = TensorDataset(self._inputs(features), labels.long())
        self.posterior.fit(DataLoader(rows, batch_size=_BATCH_SIZE if structure == "full" else len(rows)))
        if prior_precision is None:
            with warnings.catch_warnings():  # it says to predict as here: probit
                warnings.filterwarnings("ignore", "By default `link_approx` is `probit`", UserWarning)
                self.posterior.optimize_prior_precision(pred_type="glm", method="marglik")
        self.prior_precision = float(self.posterior.prior_precision)
        self._rows = max(1, _LARGEST_BLOCK // (C * C * (D + 1)))

    def log_probs(self, features: Tensor) -> Tensor:
        """log of the probit predictive, [B, C]."""
        blocks = self._inputs(features).split(self._rows)
        probs = torch.cat([self.posterior(rows, pred_type="glm", link_approx="probit") for rows in blocks])
        return probs.clamp_min(torch.finfo(torch.float64).tiny).log().float()

    def variance(self, features: Tensor) -> Tensor:
        """Var[l_c] of features [B, D], [B, C], float64."""
        found = []
        for rows in self._inputs(features).split(self._rows):
            jacobians, _ = self.posterior.backend.last_layer_jacobians(rows)
            found.append(self.posterior.functional_variance(jacobians).diagonal(dim1=-2, dim2=-1).detach())
        return torch.cat(found)

    def _inputs(self, features: Tensor) -> Tensor:
        """Standardised features and a one for the bias, [B, D + 1], float64."""
        standardised = (features.double() - self.fit.mean) / self.fit.std
        return torch.cat([standardised, standardised.new_ones(len(features), 1)], dim=-1)
