"""What the metrics should say, as naive float64 loops over images: slow, obvious, written apart from the library."""

import itertools
import math

import torch


def random_probs(num_images, num_classes, seed, sharpness=2.0):
    """Random probabilities [B, C] (float64) and labels [B] that agree with them more often than by chance."""
    generator = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(num_images, num_classes, generator=generator, dtype=torch.float64)
    probs = logits.softmax(dim=-1)
    return probs, torch.multinomial(probs, 1, generator=generator).squeeze(1)


def calibration_error(confidence, outcome, num_bins):
    """Equal-width bins ((m - 1) / M, m / M]."""
    total = 0.0
    for m in range(num_bins):
        lower, upper = m / num_bins, (m + 1) / num_bins
        inside = [i for i, c in enumerate(confidence) if lower < c <= upper or (m == 0 and c == 0)]
        total += abs(sum(outcome[i] for i in inside) - sum(confidence[i] for i in inside))
    return total / len(confidence)


def area_under_risk_coverage(confidence, correct):
    """Mean over all orders in which confidence does not rise: what random tie-breaking gives on average."""
    areas = []
    for order in itertools.permutations(range(len(confidence))):
        if any(confidence[a] < confidence[b] for a, b in itertools.pairwise(order)):
            continue
        wrong = [1 - correct[i] for i in order]
        areas.append(sum(sum(wrong[:k]) / k for k in range(1, len(wrong) + 1)) / len(wrong))
    return sum(areas) / len(areas)


def auroc(score_in, score_out):
    """Share of (in, out) pairs in the right order, ties counting a half."""
    wins = sum((b > a) + 0.5 * (b == a) for a in score_in for b in score_out)
    return wins / (len(score_in) * len(score_out))


def negative_log_likelihood(probs, labels):
    return sum(-math.log(row[label]) for row, label in zip(probs.tolist(), labels.tolist(), strict=True)) / len(labels)
