"""Variational Bayesian last layers (Harrison, Willes and Snoek 2024, arXiv:2404.11599) of the authors' package.

Its discriminative classification layer on standardised features: a Gaussian posterior over the weights, trained with
the authors' Jensen bound, KL at 1/N.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from bndl_hf.baselines.classifiers import LogProbsClassifier
from bndl_hf.model.predictive import paired_p_value
from bndl_hf.uncertainty import negative_log_likelihood

CITATION = """@inproceedings{harrison2024variational,
  title     = {Variational {Bayesian} Last Layers},
  author    = {Harrison, James and Willes, John and Snoek, Jasper},
  booktitle = {International Conference on Learning Representations (ICLR)},
  year      = {2024},
  url       = {https://arxiv.org/abs/2404.11599}
}"""

# Numbers of a dense posterior's factors; beyond it the covariance is diagonal.
_LARGEST_DENSE = 100_000
_NUM_DRAWS = 100
_ROWS = 1024
_BATCH_SIZE = 512


class VariationalLastLayer(LogProbsClassifier):
    """The VBLL head, trained; of all its passes the one that does best on held-out rows.

    Args:
        features: h = f(x), [N, D].
        labels: [N], in 0 .. C - 1.
        eval_features, eval_labels: held-out rows, [M, D] and [M].
        seed: of initialisation, order and the draws of the predictive.
        num_steps: of AdamW; more where that is less than ten passes.
        learning_rate: of AdamW, constant; weight decay 1e-4 and gradients clipped at 1.
        parameterization: of each class's covariance, "dense", "diagonal" or "lowrank" (a diagonal and three directions,
            the package's default); None: dense where its factors hold at most 100,000 numbers, else diagonal.

    Raises:
        ImportError: the package vbll is missing.
        ValueError: for an unknown parameterization.
    """

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        eval_features: Tensor,
        eval_labels: Tensor,
        seed: int = 0,
        num_steps: int = 2000,
        learning_rate: float = 3e-3,
        parameterization: str | None = None,
    ) -> None:
        if parameterization not in (None, "dense", "diagonal", "lowrank"):
            raise ValueError(
                f"parameterization={parameterization!r} is unknown; choose 'dense', 'diagonal', 'lowrank' or None."
            )
        try:
            from vbll.layers import DiscClassification
            from vbll.utils.distributions import Normal
        except ImportError as error:
            raise ImportError('Variational last layers need vbll; install "bndl-hf[benchmarks]".') from error
        torch.manual_seed(seed)
        N, D = features.shape
        C = int(max(labels.max(), eval_labels.max())) + 1
        self.seed, self.weights_per_class = seed, float(D)
        self.mean, self.std = features.float().mean(0), features.float().std(0).clamp_min(1e-6)
        if parameterization is None:
            parameterization = "dense" if C * D * D <= _LARGEST_DENSE else "diagonal"

        class Layer(DiscClassification):
            """The package's, with its [B, C, D] product of features and covariances written as a matrix product."""

            def logit_predictive(self, x: Tensor) -> Normal:
                """l ~ N(W x, x^T Cov[W_c] x + noise), [B, C]."""
                weights, noise = self.W(), self.noise()
                if parameterization == "diagonal":
                    variance = x.square() @ weights.var.T
                elif parameterization == "lowrank":  # x^T (diag(v_c) + F_c F_c^T) x
                    along = torch.einsum("bd,cdr->bcr", x, weights.cov_factor)
                    variance = x.square() @ weights.cov_diag.T + along.square().sum(dim=-1)
                else:  # |L_c^T x|^2
                    variance = torch.einsum("bd,cde->bce", x, weights.chol_covariance).square().sum(dim=-1)
                return Normal(x @ weights.mean.T, (variance + noise.var).sqrt())

        self.layer = Layer(
            D, C, regularization_weight=1 / N, parameterization=parameterization, prior_scale=1.0, wishart_scale=0.1
        )
        optimizer = torch.optim.AdamW(self.layer.parameters(), lr=learning_rate, weight_decay=1e-4)
        inputs = self._standardised(features)
        steps_per_pass = math.ceil(N / _BATCH_SIZE)
        num_steps = max(num_steps, 10 * steps_per_pass)
        check_every = max(num_steps // 40, 1)
        best_loss, best_state, step = math.inf, copy.deepcopy(self.layer.state_dict()), 0
        while step < num_steps:
            for rows in torch.randperm(N).split(_BATCH_SIZE):
                loss = self.layer(inputs[rows]).train_loss_fn(labels[rows].long())
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.layer.parameters(), 1.0)
                optimizer.step()
                step += 1
                if step % check_every == 0:
                    held_out = negative_log_likelihood(self.probs(eval_features), eval_labels)
                    if held_out < best_loss:
                        best_loss, best_state = held_out, copy.deepcopy(self.layer.state_dict())
        self.layer.load_state_dict(best_state)

    def log_probs(self, features: Tensor) -> Tensor:
        """log of the mean softmax of 100 draws of the logits, [B, C]."""
        return torch.cat([self._given_draws(rows)[0] for rows in features.split(_ROWS)])

    def ood_scores(self, features: Tensor) -> dict[str, Tensor]:
        """Largest probability, entropy, and the mutual information of label and logits."""
        information = torch.cat([self._given_draws(rows)[1] for rows in features.split(_ROWS)])
        return {**super().ood_scores(features), "mutual_information": information}

    @torch.no_grad()
    def p_value(self, features: Tensor) -> Tensor:
        """Of the exact mean and variance of the gap between the two top classes, for 20 draws, [B]."""
        logits = self.layer.logit_predictive(self._standardised(features))
        means, top = logits.mean.topk(2, dim=-1)
        variances = logits.covariance_diagonal.gather(1, top).sum(dim=-1)  # the classes' weights are independent
        return paired_p_value((means[:, 0] - means[:, 1]) / variances.sqrt(), 20)

    @torch.no_grad()
    def _given_draws(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """log of the mean softmax, [B, C], and the mutual information, [B], nats."""
        logits = self.layer.logit_predictive(self._standardised(features))
        C = logits.mean.shape[-1]
        noise = torch.randn(_NUM_DRAWS, 1, C, generator=torch.Generator().manual_seed(self.seed))
        draws = (logits.mean + logits.covariance_diagonal.sqrt() * noise).log_softmax(dim=-1)  # [S, B, C]
        log_probs = draws.logsumexp(dim=0) - math.log(_NUM_DRAWS)
        entropy = torch.special.entr(log_probs.exp()).sum(-1)
        return log_probs, entropy - torch.special.entr(draws.exp()).sum(-1).mean(0)

    def _standardised(self, features: Tensor) -> Tensor:
        return (features.float() - self.mean) / self.std
