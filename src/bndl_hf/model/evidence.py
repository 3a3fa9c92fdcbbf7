"""The exact additive explanation: every logit is a sum of non-negative parts theta_k Phi_kc plus a bias (Eq. 5).

Why this class: the parts of its logit. Why this class and not that one: the parts of the gap between their logits,
signed. How sure each part is: scores and loadings are independent under q, so the variance of a part is exact too.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .logit_posterior import LogitPosterior


@dataclass
class Decomposition:
    """A number per image as the sum of its largest parts, the rest and a bias, at the posterior mean.

    Attributes:
        factors: indices of the k largest parts by absolute value, [B, k], largest first.
        contributions: the parts of those factors, [B, k], logit units.
        contribution_std: standard deviation of each of them, [B, k].
        rest, rest_std: sum of all other factors' contributions and its standard deviation, [B].
        bias: [B].
        total, total_std: contributions + rest + bias, and its standard deviation, [B].
        target: the class a that is explained, [B].
    """

    factors: Tensor
    contributions: Tensor
    contribution_std: Tensor
    rest: Tensor
    rest_std: Tensor
    bias: Tensor
    total: Tensor
    total_std: Tensor
    target: Tensor

    def describe(self, id2label: Mapping[int, str], names: Sequence[str] | None = None) -> list[str]:
        """Each decomposition as a sentence: "cat 9.31 = 4.10 fins (factor 3) + 2.00 ... + 3.11 all others + 0.10 bias".

        Args:
            id2label: names of the classes (`model.config.id2label`).
            names: a label for each of the K factors (`bndl_hf.interpretability.factor_names`); None leaves numbers.

        Returns:
            B sentences.
        """
        return [self._sentence(b, id2label, names) for b in range(len(self.factors))]

    def _sentence(self, b: int, id2label: Mapping[int, str], names: Sequence[str] | None) -> str:
        parts = [
            (part, f"factor {k}" if names is None else f"{names[k]} (factor {k})")
            for k, part in zip(self.factors[b].tolist(), self.contributions[b].tolist(), strict=True)
            if part
        ]
        parts += [(self.rest[b].item(), "all others"), (self.bias[b].item(), "bias")]
        words = " ".join(f"{'-' if part < 0 else '+'} {abs(part):.2f} {word}" for part, word in parts).removeprefix(
            "+ "
        )
        return f"{self._subject(b, id2label)} {self.total[b].item():.2f} = {words}"

    def _subject(self, b: int, id2label: Mapping[int, str]) -> str:
        return str(id2label[int(self.target[b])])


@dataclass
class Contrast(Decomposition):
    """Why class a and not class b: the parts of the gap between their logits.

    `contributions` are E[theta_k] (E[Phi_ka] - E[Phi_kb]), of either sign: above zero they speak for a, below for b.
    `bias` is b_a - b_b and `total` is E[l_a - l_b].

    Attributes:
        against: the class b, [B].
    """

    against: Tensor

    def _subject(self, b: int, id2label: Mapping[int, str]) -> str:
        return f"{id2label[int(self.target[b])]} over {id2label[int(self.against[b])]}"


@dataclass
class Evidence(Decomposition):
    """Why a class: the parts of its logit.

    `contributions` are E[theta_k] E[Phi_kc], never negative; `total` is the mean logit.

    Attributes:
        share: contributions as fractions of what all factors together add, [B, k], in [0, 1]; zero where they add
            nothing. The bias is not part of it: it is the same for every image.
        contrast: why `target` and not another class, where one was asked for.
    """

    share: Tensor
    contrast: Contrast | None = None


def explain_logit(
    random: LogitPosterior,
    target: Tensor | int | None,
    top_k: int | None = None,
    against: Tensor | int | str | None = None,
) -> Evidence:
    """Split the target class's mean logit into its largest non-negative parts, the rest and the bias.

    Args:
        random: the random logits of B images.
        target: class per image [B], one class for all, or None for each image's top class.
        top_k: how many parts to name, 1 .. K; None names five, or all of fewer.
        against: also say why `target` and not this class: one per image [B], one for all, or "runner_up", the class
            with the largest mean logit of the others.

    Raises:
        ValueError: for a class or a `top_k` out of range, or a class against itself.
    """
    scores, loadings, bias = random.scores, random.loadings, random.bias
    B = scores.mean.shape[0]
    K, C = loadings.mean.shape
    top_k = min(5, K) if top_k is None else top_k
    if not isinstance(top_k, numbers.Integral) or isinstance(top_k, bool) or not 1 <= top_k <= K:
        raise ValueError(f"top_k={top_k!r} must lie between 1 and the number of factors, {K}, and be a whole number.")
    logits = scores.mean @ loadings.mean + bias
    target = logits.argmax(dim=-1) if target is None else _classes(target, "target", B, C, bias.device)
    phi, phi_variance = loadings.mean.T[target], loadings.variance.T[target]  # [B, K]
    # Var[theta Phi] = E[theta^2] E[Phi^2] - E[theta]^2 E[Phi]^2, without the difference of two large numbers
    variance = scores.mean.square() * phi_variance + scores.variance * (phi.square() + phi_variance)
    parts = scores.mean * phi
    contributions, factors = parts.topk(top_k, dim=-1)
    whole = parts.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(parts.dtype).tiny)
    rest, rest_std = _rest(parts, variance, factors)
    return Evidence(
        factors=factors,
        contributions=contributions,
        contribution_std=variance.gather(1, factors).sqrt(),
        share=contributions / whole,
        rest=rest,
        rest_std=rest_std,
        bias=bias[target],
        total=contributions.sum(dim=-1) + rest + bias[target],
        total_std=variance.sum(dim=-1).sqrt(),
        target=target,
        contrast=None if against is None else _contrast(random, logits, target, against, top_k),
    )


def _contrast(
    random: LogitPosterior, logits: Tensor, target: Tensor, against: Tensor | int | str, top_k: int
) -> Contrast:
    """Split the gap of two classes' mean logits [B, C]; the arguments are those of `explain_logit`, `target` [B]."""
    scores, loadings, bias = random.scores, random.loadings, random.bias
    if isinstance(against, str):
        if against != "runner_up":
            raise ValueError(f"against={against!r} is unknown; pass 'runner_up', a class, or one for each image.")
        against = logits.scatter(1, target[:, None], -torch.inf).argmax(dim=-1)
    B, C = logits.shape
    against = _classes(against, "against", B, C, logits.device)
    if (same := against == target).any():
        raise ValueError(
            f"against={int(against[same][0])} is the class explained itself for {int(same.sum())} of {len(same)} "
            "images; pass 'runner_up', or another class for each."
        )
    phi = loadings.mean.T[target] - loadings.mean.T[against]  # [B, K]
    phi_variance = loadings.variance.T[target] + loadings.variance.T[against]
    # theta is shared, Phi_ka and Phi_kb are independent:
    # Var = E[theta^2] (Var Phi_ka + Var Phi_kb + (E Phi_ka - E Phi_kb)^2) - (E theta (E Phi_ka - E Phi_kb))^2
    variance = scores.mean.square() * phi_variance + scores.variance * (phi.square() + phi_variance)
    signed = scores.mean * phi
    factors = signed.abs().topk(top_k, dim=-1).indices
    parts = signed.gather(1, factors)
    rest, rest_std = _rest(signed, variance, factors)
    bias_gap = bias[target] - bias[against]
    return Contrast(
        factors=factors,
        contributions=parts,
        contribution_std=variance.gather(1, factors).sqrt(),
        rest=rest,
        rest_std=rest_std,
        bias=bias_gap,
        total=parts.sum(dim=-1) + rest + bias_gap,
        total_std=variance.sum(dim=-1).sqrt(),
        target=target,
        against=against,
    )


def _rest(parts: Tensor, variance: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """Sum and standard deviation of the parts [B, K] that are not among `factors` [B, k]: factors are independent."""
    rest, rest_variance = (values.scatter(1, factors, 0.0).sum(dim=-1) for values in (parts, variance))
    return rest, rest_variance.sqrt()


def _classes(classes: Tensor | int, name: str, B: int, C: int, device: torch.device) -> Tensor:
    """One class index per image, [B]; ValueError that calls the argument `name` where they do not fit."""
    try:
        classes = torch.as_tensor(classes, device=device)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{name}={classes!r} must be the number of a class, or one for each image.") from error
    if classes.shape not in ((), (B,)):
        raise ValueError(f"{name} has shape {list(classes.shape)}; pass one class, or one for each of {B} images.")
    if classes.dtype.is_floating_point or classes.dtype == torch.bool:
        raise ValueError(f"{name} has dtype {classes.dtype}; a class is a whole number. Pass {name}.long().")
    if not ((classes >= 0) & (classes < C)).all():
        raise ValueError(f"{name}={classes.tolist()} must hold classes between 0 and {C - 1}.")
    return classes.expand(B).long()
