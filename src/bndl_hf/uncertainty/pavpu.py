"""PAvPU, the paper's headline measure of uncertainty (Sec. 5, Table 1, App. A.1): the share of images that are
accurate and certain, or inaccurate and uncertain. An image is certain when a t-test over S draws tells its two most
probable classes apart.

The number depends on S, on the test and on what is tested, and it tends to plain accuracy as S grows (any gap becomes
significant): these settings are part of its name, so the result carries them. The measure is Mukhoti and Gal's (2018,
arXiv:1811.12709), the t-tests are scipy's; `bndl_hf.model.predictive` has the exact test that needs no draws.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import partial

import torch
from scipy.stats import ttest_ind, ttest_rel
from torch import Tensor

from .validation import (
    as_float64,
    check_choice,
    check_correct,
    check_labels,
    check_logits_samples,
    check_scores,
    check_threshold,
)

TESTS = ("paired", "welch")
VALUES = ("logits", "probabilities")


@dataclass(frozen=True)
class PAvPUCounts:
    """The four counts behind a PAvPU and the settings that are part of its name; counts of different images add up."""

    accurate_certain: int
    accurate_uncertain: int
    inaccurate_certain: int
    inaccurate_uncertain: int
    threshold: float  # certain iff p < threshold
    test: str  # "paired", "welch", or "exact" (moments instead of draws)
    values: str  # what was tested: "logits" or "probabilities"
    num_samples: int | None  # S; None where p-values came without it
    num_zero_spread: int | None  # images whose draws all had the same gap; None where only p-values were seen

    @property
    def num_images(self) -> int:
        """Number of images judged, B."""
        return self.accurate_certain + self.accurate_uncertain + self.inaccurate_certain + self.inaccurate_uncertain

    @property
    def pavpu(self) -> float:
        """(n_ac + n_iu) / n, a fraction in [0, 1]; the paper's table shows it in percent."""
        return (self.accurate_certain + self.inaccurate_uncertain) / self.num_images

    def __add__(self, other: PAvPUCounts) -> PAvPUCounts:
        mine, theirs = ((c.test, c.values, c.threshold, c.num_samples) for c in (self, other))
        if mine != theirs:
            raise ValueError(
                f"Counts of (test, values, threshold, num_samples) = {mine} and {theirs} do not add up. "
                "Judge all batches with the same settings."
            )
        known = self.num_zero_spread is not None and other.num_zero_spread is not None
        return replace(
            self,
            accurate_certain=self.accurate_certain + other.accurate_certain,
            accurate_uncertain=self.accurate_uncertain + other.accurate_uncertain,
            inaccurate_certain=self.inaccurate_certain + other.inaccurate_certain,
            inaccurate_uncertain=self.inaccurate_uncertain + other.inaccurate_uncertain,
            num_zero_spread=(self.num_zero_spread or 0) + (other.num_zero_spread or 0) if known else None,
        )


@dataclass(frozen=True, eq=False)
class GapTest:
    """A t-test for each image between its two most probable classes; tensors on the CPU."""

    p_value: Tensor  # [B], in [0, 1]
    pair: Tensor  # [B, 2] the class with the highest mean softmax, and the second
    zero_spread: Tensor  # [B] bool: the draws did not vary, so p is 0 (a gap) or 1 (a tie) by definition


def pavpu(
    logits_samples: Tensor,
    labels: Tensor,
    threshold: float = 0.05,
    test: str = "paired",
    values: str = "logits",
    predicted: Tensor | None = None,
) -> PAvPUCounts:
    """Patch accuracy vs. patch uncertainty of S posterior draws: (n_ac + n_iu) / n (Sec. 5, App. A.1).

    Departure: the paper names a "two-sample" test, its released code runs the paired one. The two classes of a
    draw share its factor scores, so pairing is the right test and the default; `test="welch"` is the two-sample test
    as written.
    Departure: where all draws are equal the released code gets p = NaN and calls the image certain. Here a gap without
    spread has p = 0 and a tie has p = 1; `num_zero_spread` counts such images.

    Args:
        logits_samples: [S, B, C] logits of S draws, S >= 2 (the paper: 20).
        labels: [B] true classes.
        threshold: An image is certain iff p < threshold, in (0, 1). 0.05: the paper's value, Sec. 5.
        test: "paired" (the two classes of a draw belong together) or "welch" (two samples of unequal variance).
        values: What is compared, "logits" (the released code) or "probabilities".
        predicted: [B] class by which an image counts as accurate. Default: the highest mean softmax. The released code
            takes it from the posterior-mean pass: pass `predicted_labels` of an exact `model.predict` for that.

    Returns:
        PAvPUCounts: counts, `.pavpu` as a fraction in [0, 1], and the settings.

    Raises:
        ValueError: S < 2, draws not finite, labels or predicted out of range or of another length, an unknown setting.

    Example:
        >>> gap = torch.tensor([[3.0, 0.2], [2.5, -0.1], [3.2, 0.1]])  # S=3 draws, B=2 images
        >>> draws = torch.stack([gap, torch.zeros(3, 2)], dim=-1)  # [S, B, C=2]
        >>> counts = pavpu(draws, torch.tensor([0, 1]))
        >>> counts.accurate_certain, counts.inaccurate_uncertain, counts.pavpu
        (1, 1, 1.0)
    """
    check_threshold(threshold)
    outcome = gap_test(logits_samples, test=test, values=values)
    num_samples, num_images, num_classes = torch.as_tensor(logits_samples).shape
    truth = check_labels(labels, num_images, num_classes).cpu()
    if predicted is None:
        judged = outcome.pair[:, 0]
    else:
        judged = check_labels(predicted, num_images, num_classes, name="predicted").cpu()
    counts = pavpu_from_p_value(
        outcome.p_value, judged == truth, threshold, test=test, values=values, num_samples=num_samples
    )
    return replace(counts, num_zero_spread=int(outcome.zero_spread.sum()))


def pavpu_from_p_value(
    p_value: Tensor,
    correct: Tensor,
    threshold: float = 0.05,
    test: str = "exact",
    values: str = "logits",
    num_samples: int | None = None,
) -> PAvPUCounts:
    """PAvPU from p-values that are known already, such as those of the exact prediction, which needs no draws.

    Args:
        p_value: [B] in [0, 1], e.g. `model.predict(pixel_values).p_value`.
        correct: [B] whether the prediction is right, booleans or 0/1.
        threshold: An image is certain iff p < threshold, in (0, 1). 0.05: the paper's value, Sec. 5.
        test: Name of the test that made the p-values, repeated in the result.
        values: Name of what was tested, repeated in the result.
        num_samples: Number of draws the p-values stand for (`config.num_samples`), repeated in the result.

    Returns:
        PAvPUCounts with `num_zero_spread` None: p-values do not tell.

    Raises:
        ValueError: p-values empty, NaN or outside [0, 1], correct of another length, threshold outside (0, 1).

    Example:
        >>> p_value, correct = torch.tensor([0.001, 0.4, 0.3, 0.02]), torch.tensor([True, True, False, False])
        >>> pavpu_from_p_value(p_value, correct).pavpu
        0.5
    """
    check_threshold(threshold)
    checked = check_scores(p_value, "p_value")
    for extreme in (checked.min().item(), checked.max().item()):
        if not 0 <= extreme <= 1:
            raise ValueError(
                f"p_value holds {extreme:.4g}; p-values lie in [0, 1]. Pass prediction.p_value, not the t statistic."
            )
    accurate = check_correct(correct, len(checked)) == 1
    certain = checked < threshold
    return PAvPUCounts(
        accurate_certain=int((accurate & certain).sum()),
        accurate_uncertain=int((accurate & ~certain).sum()),
        inaccurate_certain=int((~accurate & certain).sum()),
        inaccurate_uncertain=int((~accurate & ~certain).sum()),
        threshold=threshold,
        test=test,
        values=values,
        num_samples=num_samples,
        num_zero_spread=None,
    )


def gap_test(logits_samples: Tensor, test: str = "paired", values: str = "logits") -> GapTest:
    """Two-sided t-test, for each image, between the S draws of its two most probable classes (Sec. 5, App. A.1).

    Args:
        logits_samples: [S, B, C] logits of S draws, S >= 2.
        test: "paired": scipy's `ttest_rel`. "welch": scipy's `ttest_ind` of unequal variances.
        values: "logits" or "probabilities".

    Returns:
        GapTest: `p_value` [B] in [0, 1], `pair` [B, 2], `zero_spread` [B]. Equal mean softmax: the lower class index
            comes first.

    Raises:
        ValueError: S < 2, draws not finite, an unknown setting.

    Example:
        >>> gap_test(torch.tensor([[[1.0, 0.0]], [[3.0, 0.0]]])).p_value  # t = 2 at one degree of freedom
        tensor([0.2952], dtype=torch.float64)
    """
    check_choice(test, "test", TESTS)
    check_choice(values, "values", VALUES)
    draws = check_logits_samples(logits_samples)
    pair = _most_probable_pair(draws)  # [B, 2]
    first, second = _values_of_pair(draws, pair, values).unbind(dim=-1)  # [S, B] each
    # A computed variance of equal draws is rounding noise instead of zero: such images are found by comparing.
    if test == "paired":
        zero_spread = _is_constant(first - second)
        compare = partial(ttest_rel, axis=0)
    else:
        zero_spread = _is_constant(first) & _is_constant(second)
        compare = partial(ttest_ind, axis=0, equal_var=False)
    p_value = (first[0] == second[0]).double()  # [B] right where the draws are all as the first
    varied = ~zero_spread
    with warnings.catch_warnings():  # of draws that hardly vary: whatever their spread is rounded to, p is close to 0
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)
        p_value[varied] = torch.from_numpy(compare(first[:, varied].numpy(), second[:, varied].numpy()).pvalue)
    return GapTest(p_value=p_value, pair=pair.cpu(), zero_spread=zero_spread)


def _most_probable_pair(draws: Tensor) -> Tensor:
    """The two classes with the highest mean softmax, [B, 2]; draw by draw, to hold B * C float64 and not S * B * C."""
    total_probs = as_float64(draws[0]).softmax(dim=-1)  # [B, C], S times the mean
    for draw in draws[1:]:
        total_probs += as_float64(draw).softmax(dim=-1)
    first = total_probs.argmax(dim=-1, keepdim=True)  # argmax, unlike topk, promises the first of equal classes
    second = total_probs.scatter(-1, first, -1.0).argmax(dim=-1, keepdim=True)
    return torch.cat([first, second], dim=-1)


def _values_of_pair(draws: Tensor, pair: Tensor, values: str) -> Tensor:
    """Logits or probabilities of the pair in every draw, [S, B, 2], float64 on the CPU."""
    if values == "logits":
        return draws.gather(-1, pair.to(draws.device).expand(len(draws), -1, -1)).cpu().to(torch.float64)
    return torch.stack([as_float64(draw).softmax(dim=-1).gather(-1, pair).cpu() for draw in draws])


def _is_constant(samples: Tensor) -> Tensor:
    """Whether all draws of [S, B] are equal, [B]."""
    return (samples == samples[0]).all(dim=0)
