"""How few loadings a decision consists of, and how few would be enough: the paper's 1-sparsity and its curve
(Sec. 5.1.2).

pruning.py makes a smaller model of what is found here.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bndl_hf.interpretability.checks import check_labels, check_matrix, check_non_negative, decision_layer_of
from bndl_hf.model.posterior_head import SPARSITY_THRESHOLD

# Rows judged at a time: bounds the memory of a sweep.
_BATCH_SIZE = 4096


@dataclass(frozen=True)
class SparsityReport:
    """What there is in a decision layer.

    Attributes:
        sparsity: share of the loadings above `threshold`, a fraction in [0, 1]: smaller is sparser.
        factors_per_class: loadings above it of each class, [C].
        classes_per_factor: loadings above it of each factor, [K].
        is_dead: factors no class has a loading for, or that no image of the given scores shows, [K] bool.
        is_unused: the first half of that, [K] bool.
        threshold: 1e-5, the paper's.
        num_images: images whose scores were looked at, 0 without any.
    """

    sparsity: float
    factors_per_class: Tensor
    classes_per_factor: Tensor
    is_dead: Tensor
    is_unused: Tensor
    threshold: float
    num_images: int

    def __str__(self) -> str:
        K, counts = len(self.classes_per_factor), self.factors_per_class
        unused, dead = int(self.is_unused.sum()), int(self.is_dead.sum())
        silent = f", {dead - unused} more are silent on all {self.num_images:,} images" if self.num_images else ""
        return (
            f"{self.sparsity:.1%} of {K * len(counts):,} loadings are above {self.threshold:g}: "
            f"{int(counts.min())} to {int(counts.max())} a class, {counts.double().mean().item():.1f} on average.\n"
            f"{K - dead} of {K} factors are alive: {unused} have no loading{silent}."
        )


@dataclass(frozen=True)
class SparsitySweep:
    """Accuracy and likelihood of a layer whose smallest loadings were set to zero, for each density asked for.

    `vars(sweep)` is a curve for `bndl_hf.plots.sparsity_frontier_plot`.

    Attributes:
        density: [P] shares of loadings asked for.
        sparsity: [P] shares that are left, fractions; every class keeps one loading at least.
        factors_per_class: [P] loadings left for each class, on average.
        accuracy: [P] fractions.
        negative_log_likelihood: [P] mean of the exact predictive, nats.
    """

    density: list[float]
    sparsity: list[float]
    factors_per_class: list[float]
    accuracy: list[float]
    negative_log_likelihood: list[float]


@torch.no_grad()
def sparsity_report(model: nn.Module, scores: Tensor | None = None) -> SparsityReport:
    """Count loadings and factors of a decision layer.

    Args:
        model: a BNDL model or its decision layer.
        scores: [N, K] factor scores (`model(pixel_values).factor_scores`); with them a factor that no image shows is
            dead too.

    Raises:
        ValueError: no decision layer; scores of another width, negative, NaN or empty.

    Example:
        >>> report = sparsity_report(model, scores)  # prints as a table
    """
    is_there = decision_layer_of(model).factor_loadings.abs() > SPARSITY_THRESHOLD  # [K, C]
    is_unused = ~is_there.any(dim=1)
    is_dead = is_unused
    if scores is not None:
        check_matrix(scores, "scores", "N, K", len(is_there))
        check_non_negative(scores, "scores")
        is_dead = is_unused | ~(scores > 0).any(dim=0).to(is_unused.device)
    return SparsityReport(
        sparsity=is_there.double().mean().item(),
        factors_per_class=is_there.sum(dim=0),
        classes_per_factor=is_there.sum(dim=1),
        is_dead=is_dead,
        is_unused=is_unused,
        threshold=SPARSITY_THRESHOLD,
        num_images=0 if scores is None else len(scores),
    )


@torch.no_grad()
def sparsity_sweep(model: nn.Module, features: Tensor, labels: Tensor, densities: Sequence[float]) -> SparsitySweep:
    """The sparsity-accuracy curve of a trained layer (Sec. 5.1.2): its smallest loadings go, nothing is retrained.

    Departure: the paper trains anew for each threshold c_phi. A layer that was trained to the density at which it is
    judged does better than what this sweep makes of a denser one (`scripts/benchmarks/frontier.py` has that curve).
    Where a factor's concentration is read off its loadings ("per_factor", Eq. 10) it changes with them.

    Args:
        model: a BNDL model or its decision layer; it is left as it is.
        features: [N, D] what the layer reads: `model.extract_features(pixel_values)`.
        labels: [N] true classes.
        densities: shares of the loadings to keep, each in (0, 1].

    Raises:
        ValueError: no decision layer, or one with negative weights; features or labels that do not fit it; no density,
            or one out of range.

    Example:
        >>> sweep = sparsity_sweep(model, features, labels, [0.01, 0.03, 0.1])
        >>> figure = sparsity_frontier_plot({"pruned after training": vars(sweep)})
    """
    layer = decision_layer_of(model)
    check_non_negative(layer.factor_loadings, "factor_loadings")  # a dense layer's are of either sign
    check_matrix(features, "features", "N, D", len(layer.feature_scale))
    check_labels(labels, len(features), layer.config.num_labels)
    if not len(densities) or not all(0 < density <= 1 for density in densities):
        raise ValueError(f"densities={list(densities)} must be one share of the loadings or more, each in (0, 1].")
    sweep = SparsitySweep(list(densities), [], [], [], [])
    for density in densities:
        pruned = copy.deepcopy(layer).eval()
        pruned.prune_smallest(density)
        correct, likelihood = 0, 0.0
        for rows, truth in zip(features.split(_BATCH_SIZE), labels.split(_BATCH_SIZE), strict=True):
            truth = truth.to(rows.device)
            correct += int((pruned.predict(rows).predicted_labels == truth).sum())
            likelihood += pruned(rows, truth).nll.item() * len(rows)
        sparsity = pruned.sparsity()
        sweep.sparsity.append(sparsity)
        sweep.factors_per_class.append(sparsity * layer.raw_loadings.shape[0])
        sweep.accuracy.append(correct / len(labels))
        sweep.negative_log_likelihood.append(likelihood / len(labels))
    return sweep
