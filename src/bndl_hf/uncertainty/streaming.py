"""The numbers of this package over a test set that does not fit in memory, batch by batch and over several processes.

Sums do not remember images, so accuracy, the proper scores and the calibration bins need a handful of numbers whatever
the size of the test set. Ranking does: a risk-coverage curve needs every image's confidence and whether it was right,
9 bytes an image (450 kB for ImageNet's 50,000). No probabilities and no logits are kept. The functions this agrees
with are in scoring.py, calibration.py, selective.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .calibration import CalibrationBins, bin_equal_width
from .scoring import brier_per_image, nll_per_image
from .selective import area_under_risk_coverage, error_detection_auroc, excess_area_under_risk_coverage
from .validation import check_count, check_probs, check_scores


class StreamingMetrics:
    """Accuracy, proper scores, calibration and risk-coverage over batches; `merge` adds another process's share.

    Everything is kept on the CPU, so an accumulator can be pickled, e.g. by `torch.distributed.all_gather_object`.

    Args:
        num_bins: Equal-width bins of the calibration error. 15: Guo et al.'s value, as `expected_calibration_error`.

    Raises:
        ValueError: num_bins < 1.

    Example:
        >>> metrics = StreamingMetrics()
        >>> metrics.update(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0, 0]))
        >>> metrics.update(torch.tensor([[0.6, 0.4]]), torch.tensor([0]))
        >>> round(metrics.compute()["accuracy"], 4)
        0.6667
    """

    def __init__(self, num_bins: int = 15):
        check_count(num_bins, "num_bins")
        self.num_bins = num_bins
        self.num_classes: int | None = None  # known from the first batch on
        self.num_images = 0
        nothing = torch.zeros(0, dtype=torch.float64)
        self._bins = bin_equal_width(nothing, nothing, num_bins)
        self._nll_sum = 0.0
        self._brier_sum = 0.0
        self._confidence: list[Tensor] = []  # float64 vectors, one for each batch
        self._correct: list[Tensor] = []  # bool vectors, one for each batch

    def update(self, probs: Tensor, labels: Tensor, confidence: Tensor | None = None) -> None:
        """Take in one batch.

        Args:
            probs: [B, C] probabilities; C must be that of the earlier batches.
            labels: [B] true classes.
            confidence: [B] what the risk-coverage curve ranks by, e.g. `-prediction.p_value`. Default: the highest
            probability.

        Raises:
            ValueError: probs not probabilities, labels or confidence of another length, another number of classes.
        """
        checked, truth = check_probs(probs, labels)
        self._check_num_classes(checked.shape[1])
        top, predicted = checked.max(dim=-1).values.cpu(), checked.argmax(dim=-1)  # [B]
        ranked_by = top if confidence is None else check_scores(confidence, "confidence")
        if len(ranked_by) != len(top):
            raise ValueError(
                f"confidence has {len(ranked_by)} values for {len(top)} images. Pass one for each row of probs."
            )
        correct = (predicted == truth).cpu()
        self.num_classes = checked.shape[1]
        self.num_images += len(top)
        self._bins = self._bins + bin_equal_width(top, correct.double(), self.num_bins)
        self._nll_sum += nll_per_image(checked, truth).sum().item()
        self._brier_sum += brier_per_image(checked, truth).sum().item()
        self._confidence.append(ranked_by)
        self._correct.append(correct)

    def merge(self, other: StreamingMetrics) -> None:
        """Take in what another accumulator has seen (another process, another shard); `other` is left as it is.

        Raises:
            ValueError: `other` has another num_bins, or has seen another number of classes.
        """
        if other.num_bins != self.num_bins:
            raise ValueError(
                f"num_bins={other.num_bins} does not merge into num_bins={self.num_bins}. Use one num_bins everywhere."
            )
        if other.num_classes is not None:
            self._check_num_classes(other.num_classes)
            self.num_classes = other.num_classes
        self.num_images += other.num_images
        self._bins = self._bins + other._bins
        self._nll_sum += other._nll_sum
        self._brier_sum += other._brier_sum
        self._confidence += other._confidence
        self._correct += other._correct

    @property
    def calibration_bins(self) -> CalibrationBins:
        """Equal-width bins of all images so far, for a reliability diagram."""
        return self._bins

    @property
    def confidence(self) -> Tensor:
        """Confidence of every image so far, [B] float64, in order of arrival."""
        return torch.cat([torch.zeros(0, dtype=torch.float64), *self._confidence])

    @property
    def correct(self) -> Tensor:
        """Whether each image so far was right, [B] bool, in order of arrival."""
        return torch.cat([torch.zeros(0, dtype=torch.bool), *self._correct])

    def compute(self) -> dict[str, float]:
        """All numbers so far, named as the functions that compute them at once.

        Returns:
            accuracy, expected_calibration_error, area_under_risk_coverage, excess_area_under_risk_coverage,
            error_detection_auroc: fractions in [0, 1] (the last is NaN where all images are right or all wrong).
            negative_log_likelihood: nats. brier_score: in [0, 2].

        Raises:
            ValueError: no images yet.
        """
        if self.num_images == 0:
            raise ValueError("num_images=0: nothing was judged yet. Call update(probs, labels) at least once.")
        confidence, correct = self.confidence, self.correct
        return {
            "accuracy": correct.double().mean().item(),
            "negative_log_likelihood": self._nll_sum / self.num_images,
            "brier_score": self._brier_sum / self.num_images,
            "expected_calibration_error": self._bins.expected_calibration_error,
            "area_under_risk_coverage": area_under_risk_coverage(confidence, correct),
            "excess_area_under_risk_coverage": excess_area_under_risk_coverage(confidence, correct),
            "error_detection_auroc": error_detection_auroc(confidence, correct),
        }

    def _check_num_classes(self, num_classes: int) -> None:
        if self.num_classes not in (None, num_classes):
            raise ValueError(
                f"probs has C={num_classes} classes; earlier batches had {self.num_classes}. "
                "Use one StreamingMetrics for each."
            )
