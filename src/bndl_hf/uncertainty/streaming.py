"""The numbers of this package over a test set that does not fit in memory, batch by batch and over several processes.

What is a sum over images streams in a few numbers: accuracy, the proper scores, the calibration bins, PAvPU's four
counts, the bins of every class. What ranks images needs one number an image: the risk-coverage curve, equal-mass bins,
deciles and every AUROC. No probabilities, no logits and no draws are kept. In bytes:

    9 B                     confidence (float64) and whether it was right, for B images
    + 8 B                   if `confidence` is not the largest probability, which the calibration bins need too
    + 8 B for each score    if `scores` are kept, e.g. the eight to ten of `ood_scores`
    + 24 C M                bins of every class (360 kB at C = 1000 classes and M = 15 bins)

so a million images of a thousand classes take 9.4 MB where their probabilities take 4 GB. The functions this agrees
with are in scoring.py, calibration.py, selective.py, pavpu.py, ood.py.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping

import torch
from torch import Tensor

from .calibration import CalibrationBins, bin_equal_mass, bin_equal_width
from .classwise import ClasswiseBins, bin_every_class
from .pavpu import PAvPUCounts
from .scores import StreamingScores, append, check_lengths, joined
from .scoring import BrierDecomposition, log_loss_per_image, squared_error_per_image
from .selective import area_under_risk_coverage, error_detection_auroc, excess_area_under_risk_coverage
from .validation import check_count, check_probs, check_scores


class StreamingMetrics:
    """Accuracy, proper scores, calibration, PAvPU and risk-coverage over batches; `merge` adds another process's share.

    Everything is kept on the CPU, so an accumulator can be pickled, e.g. by `torch.distributed.all_gather_object`.

    Args:
        num_bins: Bins of the calibration errors. 15: Guo et al.'s value, as `expected_calibration_error`.
        classwise: Whether to bin every class's probability too, for the class-wise calibration error and the Brier
            score's decomposition. It looks up B x C bins, most of the time of an update at a thousand classes.

    Raises:
        ValueError: num_bins < 1.

    Example:
        >>> metrics = StreamingMetrics()
        >>> metrics.update(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0, 0]))
        >>> metrics.update(torch.tensor([[0.6, 0.4]]), torch.tensor([0]))
        >>> round(metrics.compute()["accuracy"], 4)
        0.6667
    """

    def __init__(self, num_bins: int = 15, classwise: bool = True):
        check_count(num_bins, "num_bins")
        self.num_bins = num_bins
        self.classwise = classwise
        self.num_classes: int | None = None  # known from the first batch on
        self.num_images = 0
        nothing = torch.zeros(0, dtype=torch.float64)
        self._bins = bin_equal_width(nothing, nothing, num_bins)
        self._classwise_bins: ClasswiseBins | None = None
        self._log_loss_sum = 0.0
        self._brier_sum = 0.0
        self._top = array("d")  # the largest probability
        self._confidence: array[float] | None = None  # another confidence, where one is given
        self._correct = array("b")  # 0 or 1
        self._counts: PAvPUCounts | None = None
        self._scores = StreamingScores()

    def update(
        self,
        probs: Tensor,
        labels: Tensor,
        confidence: Tensor | None = None,
        counts: PAvPUCounts | None = None,
        scores: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Take in one batch. What is given for one batch is given for all.

        Args:
            probs: [B, C] probabilities; C must be that of the earlier batches.
            labels: [B] true classes.
            confidence: [B] what the risk-coverage curve ranks by, e.g. `-prediction.p_value`. Default: the highest
                probability.
            counts: PAvPU counts of this batch, from `pavpu` or `pavpu_from_p_value`; its draws are not kept.
            scores: name -> [B], kept as they are, e.g. `ood_scores(prediction)`: for deciles and AUROCs.

        Raises:
            ValueError: probs not probabilities; labels, confidence, counts or scores of another number of images;
                another number of classes, or other extras, than the earlier batches.
        """
        checked, truth = check_probs(probs, labels)
        self._check_num_classes(checked.shape[1])
        top, predicted = checked.max(dim=-1).values.cpu(), checked.argmax(dim=-1)  # [B]
        ranked_by = None if confidence is None else check_scores(confidence, "confidence")
        if ranked_by is not None:
            check_lengths({"confidence": ranked_by}, len(top))
        if counts is not None and counts.num_images != len(top):
            raise ValueError(
                f"counts has {counts.num_images} images for {len(top)} rows of probs. Pass pavpu(...) of this batch."
            )
        self._check_extras(confidence is not None, counts is not None)
        total_counts = counts if self._counts is None or counts is None else self._counts + counts
        self._scores.update(scores or {}, num_images=len(top))  # the last check: a failed update leaves no trace
        correct = (predicted == truth).cpu()
        self.num_classes = checked.shape[1]
        self.num_images += len(top)
        self._bins = self._bins + bin_equal_width(top, correct.double(), self.num_bins)
        if self.classwise:
            self._add_classwise(bin_every_class(checked, truth, self.num_bins))
        self._log_loss_sum += log_loss_per_image(checked, truth).sum().item()
        self._brier_sum += squared_error_per_image(checked, truth).sum().item()
        append(self._top, top)
        append(self._correct, correct)
        self._counts = total_counts
        if ranked_by is not None:
            self._confidence = array("d") if self._confidence is None else self._confidence
            append(self._confidence, ranked_by)

    def merge(self, other: StreamingMetrics) -> None:
        """Take in what another accumulator has seen (another process, another shard); `other` is left as it is.

        Raises:
            ValueError: `other` has another num_bins, has seen another number of classes, or was given other extras.
        """
        if (other.num_bins, other.classwise) != (self.num_bins, self.classwise):
            raise ValueError(
                f"(num_bins, classwise) = {(other.num_bins, other.classwise)} does not merge into "
                f"{(self.num_bins, self.classwise)}. Use the same everywhere."
            )
        if other.num_images == 0:
            return
        assert other.num_classes is not None
        self._check_num_classes(other.num_classes)
        self._check_extras(other._confidence is not None, other._counts is not None)
        counts = other._counts if self._counts is None or other._counts is None else self._counts + other._counts
        self._scores.merge(other._scores)
        self.num_classes = other.num_classes
        self.num_images += other.num_images
        self._bins = self._bins + other._bins
        if other._classwise_bins is not None:
            self._add_classwise(other._classwise_bins)
        self._log_loss_sum += other._log_loss_sum
        self._brier_sum += other._brier_sum
        self._top.extend(other._top)
        self._correct.extend(other._correct)
        self._counts = counts
        if other._confidence is not None:
            self._confidence = (self._confidence or array("d")) + other._confidence

    @property
    def calibration_bins(self) -> CalibrationBins:
        """Equal-width bins of all images so far, for a reliability diagram."""
        return self._bins

    @property
    def equal_mass_bins(self) -> CalibrationBins:
        """Bins of equally many images each, over all images so far."""
        return bin_equal_mass(joined(self._top), self.correct.double(), self.num_bins)

    @property
    def brier_decomposition(self) -> BrierDecomposition:
        """The Brier score's parts over all images so far; `within_bin` is what the other three leave.

        Raises:
            ValueError: no images yet, or classwise=False.
        """
        if self._classwise_bins is None:
            raise ValueError(
                f"classwise={self.classwise}, num_images={self.num_images}: the parts need the bins of every class. "
                "Use StreamingMetrics(classwise=True) and call update at least once."
            )
        bins = self._classwise_bins
        rest = self._brier_sum / self.num_images - (bins.reliability - bins.resolution + bins.uncertainty)
        return BrierDecomposition(bins.reliability, bins.resolution, bins.uncertainty, within_bin=rest)

    @property
    def pavpu_counts(self) -> PAvPUCounts | None:
        """PAvPU's counts over all images so far; None where no batch came with them."""
        return self._counts

    @property
    def confidence(self) -> Tensor:
        """Confidence of every image so far, [B] float64, in order of arrival."""
        return joined(self._top if self._confidence is None else self._confidence)

    @property
    def correct(self) -> Tensor:
        """Whether each image so far was right, [B] bool, in order of arrival."""
        return joined(self._correct).bool()

    @property
    def scores(self) -> dict[str, Tensor]:
        """The scores handed to `update`, each [B] float64, in order of arrival."""
        return self._scores.scores

    def compute(self) -> dict[str, float]:
        """All numbers so far, named as the functions that compute them at once.

        Returns:
            accuracy, expected_, adaptive_ and (unless classwise=False) classwise_calibration_error,
            area_under_risk_coverage, excess_area_under_risk_coverage, error_detection_auroc, and pavpu where counts
            were given: fractions in [0, 1] (error_detection_auroc is NaN where all images are right or all wrong).
            negative_log_likelihood: nats. brier_score: in [0, 2].

        Raises:
            ValueError: no images yet.
        """
        if self.num_images == 0:
            raise ValueError("num_images=0: nothing was judged yet. Call update(probs, labels) at least once.")
        confidence, correct = self.confidence, self.correct
        values = {
            "accuracy": correct.double().mean().item(),
            "negative_log_likelihood": self._log_loss_sum / self.num_images,
            "brier_score": self._brier_sum / self.num_images,
            "expected_calibration_error": self._bins.expected_calibration_error,
            "adaptive_calibration_error": self.equal_mass_bins.expected_calibration_error,
            "area_under_risk_coverage": area_under_risk_coverage(confidence, correct),
            "excess_area_under_risk_coverage": excess_area_under_risk_coverage(confidence, correct),
            "error_detection_auroc": error_detection_auroc(confidence, correct),
        }
        if self._classwise_bins is not None:
            values["classwise_calibration_error"] = self._classwise_bins.calibration_error
        if self._counts is not None:
            values["pavpu"] = self._counts.pavpu
        return values

    def _add_classwise(self, bins: ClasswiseBins) -> None:
        self._classwise_bins = bins if self._classwise_bins is None else self._classwise_bins + bins

    def _check_num_classes(self, num_classes: int) -> None:
        if self.num_classes not in (None, num_classes):
            raise ValueError(
                f"probs has C={num_classes} classes; earlier batches had {self.num_classes}. "
                "Use one StreamingMetrics for each."
            )

    def _check_extras(self, has_confidence: bool, has_counts: bool) -> None:
        known = {"confidence": self._confidence is not None, "counts": self._counts is not None}
        for name, given in (("confidence", has_confidence), ("counts", has_counts)):
            if self.num_images > 0 and given != known[name]:
                raise ValueError(
                    f"{name} is {'given' if given else 'missing'} here and was {'given' if known[name] else 'missing'} "
                    f"for the {self.num_images} images so far. Pass it for every batch or for none."
                )
