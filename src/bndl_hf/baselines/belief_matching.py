"""Belief matching (Joo, Chung and Seo 2020): a linear head whose outputs are logarithms of Dirichlet concentrations.

q(pi | h) = Dirichlet(alpha) with alpha = exp(h W + b). It is trained on minus the evidence lower bound, whose terms are
closed: psi(alpha_0) - psi(alpha_y) + lambda KL(Dirichlet(alpha) || Dirichlet(1)), alpha_0 the sum of alpha. The
predictive is the Dirichlet's mean, alpha / alpha_0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bndl_hf.baselines.own_losses import expected_loss
from bndl_hf.baselines.point_mass import DenseDecisionLayer
from bndl_hf.model.logit_posterior import LogitPosterior, pick
from bndl_hf.model.loss import negative_elbo
from bndl_hf.model.mean_field import Recalibration
from bndl_hf.model.outputs import BNDLImageClassifierOutput
from bndl_hf.model.predictive import BNDLPrediction, paired_p_value, predict_from_draws

CITATION = """@inproceedings{joo2020being,
  title     = {Being {Bayesian} about Categorical Probability},
  author    = {Joo, Taejong and Chung, Uijung and Seo, Min-Gwan},
  booktitle = {International Conference on Machine Learning (ICML)},
  year      = {2020},
  url       = {https://arxiv.org/abs/2002.07965}
}"""


class BeliefMatchingDecisionLayer(DenseDecisionLayer):
    """A dense layer of log-concentrations; `kl_local_weight` of the configuration is lambda.

    The random logits of an image are log pi with pi ~ Dirichlet(alpha). `logits_mean` of an exact prediction is
    log alpha, what explanations add up to and a temperature divides, and has no variance; p-value, flip probability and
    the two parts of the entropy are those of log pi and pi, the latter exact. A Monte-Carlo prediction has draws of
    log pi, and their moments.

    Example:
        >>> config = BNDLConfig(feature_dim=8, num_labels=3, projection="none", kl_local_weight=0.01)
        >>> prediction = BeliefMatchingDecisionLayer(config).eval().predict(torch.randn(5, 8))
        >>> bool((prediction.epistemic > 0).all())
        True
    """

    def output_of(self, random: LogitPosterior, labels: Tensor | None) -> BNDLImageClassifierOutput:
        """While training `logits` are log alpha, `nll` is the expected one and `kl_local` the Dirichlet's."""
        if not self.training:
            return super().output_of(random, labels)
        log_alpha = random.mean
        loss = nll = kl_local = kl_global = None
        if labels is not None:
            nll = self.likelihood_loss(log_alpha, labels)
            kl_local, kl_global = kl_to_uniform(log_alpha).mean(), log_alpha.new_zeros(())
            loss = negative_elbo(nll, kl_local, kl_global, self.config)
        return BNDLImageClassifierOutput(
            loss, log_alpha, nll, kl_local, kl_global, logits_mean=log_alpha, factor_scores=random.scores.mean
        )

    def likelihood_loss(
        self, logits: Tensor, labels: Tensor, class_weights: Tensor | None = None, label_smoothing: float = 0.0
    ) -> Tensor:
        """While training minus E_q[log pi_y] = psi(alpha_0) - psi(alpha_y); in evaluation mode minus log E_q[pi_y]."""
        if not self.training:
            return super().likelihood_loss(logits, labels, class_weights, label_smoothing)
        return expected_loss(expected_log_probs(logits), labels, class_weights, label_smoothing)

    def prediction_of(
        self,
        random: LogitPosterior,
        method: str,
        num_samples: int,
        recalibration: Recalibration,
        generator: torch.Generator | None,
    ) -> BNDLPrediction:
        """Closed forms of the Dirichlet, or the logarithms of its draws."""
        threshold, log_alpha = self.config.certainty_threshold, random.mean
        evidence = random.scores.mean.sum(dim=-1)
        if method != "exact":
            draws = sample_log_dirichlet(log_alpha, num_samples, generator)
            return predict_from_draws(draws, evidence, threshold, recalibration)
        tempered = log_alpha / recalibration.temperature
        probs = tempered.softmax(dim=-1)
        total = torch.special.entr(probs).sum(dim=-1)
        epistemic = torch.minimum(mutual_information(tempered), total)
        top, runner_up = random.top_two
        gap_mean, gap_std = gap_of_logs(pick(log_alpha, top), pick(log_alpha, runner_up))
        gap_ratio = torch.where(gap_mean == 0, 0.0, gap_mean / (recalibration.spread * gap_std))
        p_value = paired_p_value(gap_ratio, num_samples)
        return BNDLPrediction(
            probs=probs,
            predicted_labels=probs.argmax(dim=-1),
            logits_mean=log_alpha,
            logits_variance=torch.zeros_like(log_alpha),
            gap_variance=torch.zeros_like(log_alpha),
            evidence=evidence,
            gap_ratio=gap_ratio,
            p_value=p_value,
            flip_probability=torch.special.ndtr(-gap_ratio).to(probs.dtype),
            is_certain=p_value < threshold,
            total=total,
            aleatoric=total - epistemic,
            epistemic=epistemic,
            is_answered=torch.ones_like(top, dtype=torch.bool),
        )


# Beyond these a Dirichlet is a corner, or a point, to float32.
_LOWEST, _HIGHEST = -40.0, 40.0


def expected_log_probs(log_alpha: Tensor) -> Tensor:
    """E[log pi_c] = psi(alpha_c) - psi(alpha_0) of pi ~ Dirichlet(alpha) for log alpha [B, C], [B, C], nats."""
    alpha = _alpha(log_alpha)
    return (torch.digamma(alpha) - torch.digamma(alpha.sum(dim=-1, keepdim=True))).to(log_alpha.dtype)


def kl_to_uniform(log_alpha: Tensor) -> Tensor:
    """KL(Dirichlet(alpha) || Dirichlet(1)) for log alpha [B, C], [B], nats."""
    # log Gamma(alpha_0) - sum_c log Gamma(alpha_c) - log Gamma(C) + sum_c (alpha_c - 1) (psi(alpha_c) - psi(alpha_0))
    alpha = _alpha(log_alpha)
    total = alpha.sum(dim=-1, keepdim=True)
    normaliser = torch.lgamma(total).squeeze(-1) - torch.lgamma(alpha).sum(dim=-1) - math.lgamma(alpha.shape[-1])
    expected = ((alpha - 1) * (torch.digamma(alpha) - torch.digamma(total))).sum(dim=-1)
    return (normaliser + expected).to(log_alpha.dtype)


def mutual_information(log_alpha: Tensor) -> Tensor:
    """H(E[pi]) - E[H(pi)] of pi ~ Dirichlet(alpha) for log alpha [B, C], [B], nats >= 0 (Malinin and Gales 2018)."""
    # E[H(pi)] = psi(alpha_0 + 1) - sum_c alpha_c / alpha_0 psi(alpha_c + 1)
    alpha = _alpha(log_alpha)
    probs = alpha / alpha.sum(dim=-1, keepdim=True)
    expected = torch.digamma(alpha.sum(dim=-1) + 1) - (probs * torch.digamma(alpha + 1)).sum(dim=-1)
    return (torch.special.entr(probs).sum(dim=-1) - expected).clamp_min(0).to(log_alpha.dtype)


def gap_of_logs(log_alpha: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Mean psi(alpha_a) - psi(alpha_b) and standard deviation of log pi_a - log pi_b, of the shape of log alpha_a."""
    # pi are Gamma(alpha) numbers over their sum, which drops out: the variance is psi'(alpha_a) + psi'(alpha_b).
    a, b = _alpha(log_alpha), _alpha(other)
    mean, variance = torch.digamma(a) - torch.digamma(b), torch.polygamma(1, a) + torch.polygamma(1, b)
    return mean.to(log_alpha.dtype), variance.sqrt().to(log_alpha.dtype)


def sample_log_dirichlet(log_alpha: Tensor, num_samples: int, generator: torch.Generator | None = None) -> Tensor:
    """S draws of log pi, pi ~ Dirichlet(exp(log_alpha)) for log alpha [B, C], [S, B, C].

    Small concentrations make numbers that no float holds, so their logarithms are drawn: a Gamma(a) number is a
    Gamma(a + 1) number times u^(1/a), u uniform.
    """
    alpha = _alpha(log_alpha).expand(num_samples, *log_alpha.shape)
    gamma = torch._standard_gamma(alpha + 1, generator=generator)  # torch.distributions takes no generator
    uniform = torch.rand(alpha.shape, generator=generator, device=alpha.device, dtype=alpha.dtype)
    log_gamma = gamma.log() + uniform.clamp_min(torch.finfo(alpha.dtype).tiny).log() / alpha
    return log_gamma.log_softmax(dim=-1).to(log_alpha.dtype)


def _alpha(log_alpha: Tensor) -> Tensor:
    """In float64: log Gamma of large concentrations is a small difference of large numbers."""
    return log_alpha.clamp(_LOWEST, _HIGHEST).double().exp()
