"""What images of the model's own kind look like, from training features and held-out ones: `model.set_familiarity`.

Training images say where the classes lie and how wide they are, held-out images what is usual: a model is surer of the
images it was trained on, and they lie nearer to their class means. Nothing is fitted to out-of-distribution images.
Read model/familiarity.py for the score, docs/uncertainty.md for how it compares.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from bndl_hf.model.familiarity import NUM_QUANTILES, Familiarity, tempered_entropy
from bndl_hf.model.predictive import BNDLPrediction

from .validation import check_finite

# Directions with a variance of their own. 16 lost up to .03 AUROC on near images, 128 and all of them gained nothing
# (docs/uncertainty.md).
DEFAULT_RANK = 64
# Fewer held-out images than this say little about what one in a hundred looks like.
MIN_HELD_OUT = 20
# Smallest variance, as a share of the mean one: a direction that never moved in training is not known to stand still.
_SMALLEST_VARIANCE = 1e-3


class _Predicts(Protocol):
    def predict(self, features: Tensor) -> BNDLPrediction: ...


def fit_familiarity(
    layer: _Predicts, features: Tensor, labels: Tensor, held_out_features: Tensor, *, rank: int = DEFAULT_RANK
) -> Familiarity:
    """Class means and covariance of training features, and what distances and entropies are usual for held-out ones.

    Args:
        layer: a decision layer, whose logits the entropies are of.
        features: h of training images, [N, D]; `model.extract_features` gives them.
        labels: their classes, [N]. A class without images gets no mean of its own.
        held_out_features: of images that were not trained on, [M, D], M >= 20; their labels are not needed.
        rank: directions of the covariance with a variance of their own, at most D - 1.

    Returns:
        Familiarity; `set_familiarity` stores it, and `predict` then gives `fisher_statistic` and
        `mahalanobis_distance`.

    Raises:
        ValueError: shapes that do not fit, entries that are not finite, too few held-out images, or images that do not
            differ within their classes.

    Example:
        >>> from bndl_hf import BNDLConfig
        >>> from bndl_hf.model.decision_layer import BNDLDecisionLayer
        >>> layer = BNDLDecisionLayer(BNDLConfig(feature_dim=8, num_labels=3)).eval()
        >>> layer.set_familiarity(fit_familiarity(layer, torch.rand(60, 8), torch.arange(60) % 3, torch.rand(40, 8)))
        >>> prediction = layer.predict(torch.cat([torch.rand(1, 8), torch.full((1, 8), 9.0)]))
        >>> (prediction.fisher_statistic[1] > 10 * prediction.fisher_statistic[0]).item()
        True
    """
    if features.ndim != 2 or labels.shape != features.shape[:1] or not len(labels):
        raise ValueError(
            f"features have shape {list(features.shape)} and labels {list(labels.shape)}; [N, D] and [N] fit, N >= 1."
        )
    if held_out_features.ndim != 2 or held_out_features.shape[1] != features.shape[1]:
        raise ValueError(
            f"held_out_features have shape {list(held_out_features.shape)}; [M, {features.shape[1]}] fits, features of "
            "the same backbone."
        )
    if len(held_out_features) < MIN_HELD_OUT:
        raise ValueError(
            f"{len(held_out_features)} held-out images do not say what is usual; pass {MIN_HELD_OUT} or more that were "
            "not trained on."
        )
    if rank < 1 or features.shape[1] < 2:
        raise ValueError(f"rank={rank} of {features.shape[1]} features; a rank >= 1 of two features or more fits.")
    for values, name in ((features, "features"), (held_out_features, "held_out_features")):
        check_finite(values, name, "Find the image that made them.")
    prediction = layer.predict(held_out_features)
    device = prediction.logits_mean.device
    h, y = features.double().to(device), labels.long().to(device)
    C, D = prediction.logits_mean.shape[1], h.shape[1]
    if not 0 <= y.min() <= y.max() < C:
        raise ValueError(f"labels run from {y.min().item()} to {y.max().item()}; this layer knows 0 to {C - 1}.")
    count = y.bincount(minlength=C).to(h)
    means = torch.zeros(C, D, dtype=h.dtype, device=device).index_add_(0, y, h) / count.clamp_min(1)[:, None]
    means[count == 0] = means[y[0]].clone()  # a second copy of a mean changes no distance to the nearest
    variances, directions = _principal_directions(h - means[y])
    r = min(rank, D - 1)
    noise = variances[r:].mean()
    found = Familiarity(C, D, r).to(device)
    found.class_means.copy_(means)
    found.directions.copy_(directions[:, :r])
    found.shrinkage.copy_(1 - (noise / variances[:r]).sqrt())
    found.noise_std.copy_(noise.sqrt())
    distance = found.mahalanobis_distance(held_out_features.to(device)).double()
    smallest = torch.finfo(torch.float32).tiny
    logs = distance.clamp_min(smallest).log()
    found.log_distance.copy_(torch.stack([logs.mean(), logs.std().clamp_min(1e-6)]))
    levels = torch.linspace(0, 1, NUM_QUANTILES, dtype=torch.float64, device=device)
    found.entropy_quantiles.copy_(tempered_entropy(prediction.logits_mean).double().quantile(levels))
    found.num_held_out.fill_(len(held_out_features))
    return found


def _principal_directions(residuals: Tensor) -> tuple[Tensor, Tensor]:
    """Variances [D], descending, and directions [D, D] of residuals [N, D], the variances shrunk towards their mean.

    Few images of many features: the covariance is shrunk as Ledoit and Wolf (2004) do, whose weight is a closed form of
    the residuals.

    Raises:
        ValueError: all residuals are zero.
    """
    N, D = residuals.shape
    variances, directions = torch.linalg.eigh(residuals.T @ residuals / N)
    variances, directions = variances.flip(0).clamp_min(0), directions.flip(1)
    mean = variances.mean()
    if not mean > 0:
        raise ValueError(
            "Images do not differ from the mean of their class, so there is no unit to measure distances in; pass more "
            "than one image of a class."
        )
    # Ledoit and Wolf (2004), Lemmas 3.2 to 3.4, in the eigenvectors of the covariance S
    spread = (variances - mean).square().mean()  # |S - mean I|^2 / D
    error = (residuals.square().sum(dim=1).square().mean() - variances.square().sum()) / (N * D)  # of S, about
    weight = (error / spread).clamp(0, 1) if spread > 0 else spread.new_ones(())
    shrunk = weight * mean + (1 - weight) * variances
    return shrunk.clamp_min(_SMALLEST_VARIANCE * mean), directions
