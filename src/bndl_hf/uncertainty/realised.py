"""What verdicts came to on images that nothing was fitted on: were promises kept, and how many got an answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from bndl_hf.model.predictive import BNDLPrediction
from bndl_hf.model.verdicts import SURE, TORN, UNFAMILIAR, VerdictRule

from .ood import ood_auroc
from .validation import check_labels


def realised_verdicts(
    prediction: BNDLPrediction,
    labels: Tensor | None = None,
    outsiders: Mapping[str, BNDLPrediction] | None = None,
) -> dict[str, Any]:
    """How the verdicts kept their promise, plain numbers.

    Args:
        prediction: with verdicts (`model.set_decisions`).
        labels: [B] true classes; None leaves out what needs them.
        outsiders: of images that belong to none of the classes, by name.

    Returns:
        As promised: `risk`, `delta`, `coverage`, `familiar`, `num_held_out`, `threshold`. `num_images`; `share_sure`,
        `share_torn`, `share_unfamiliar`, fractions; `num_sure`. With labels `errors_among_sure`, the realised risk, and
        of the torn images `accuracy_torn`, `set_coverage` and `mean_set_size`. With outsiders, by name: `unfamiliar`,
        the share called so, `familiarity_auroc` of Fisher's statistic, `num_outsiders`. A figure of no image is None.

    Raises:
        ValueError: a prediction has no verdicts, or labels do not fit.

    Example:
        >>> model.set_decisions(fit_decisions(model, held_out, progress=False))
        >>> realised_verdicts(model.predict(pixel_values))["share_sure"]
        0.0
    """
    rule, verdict = prediction.rule, _verdict(prediction)
    assert rule is not None
    correct = None
    if labels is not None:
        truth = check_labels(labels, *prediction.probs.shape).cpu()
        correct = prediction.predicted_labels.cpu() == truth
    found = count_verdicts(rule, verdict, correct)
    if labels is not None and prediction.prediction_sets is not None:
        torn = verdict == TORN
        sets = prediction.prediction_sets.cpu()[torn]
        found["set_coverage"] = _mean(sets.gather(1, truth[torn][:, None]))
        found["mean_set_size"] = _mean(sets.sum(dim=1))
    for name, other in (outsiders or {}).items():
        found.setdefault("unfamiliar", {})[name] = _mean(_verdict(other) == UNFAMILIAR)
        found.setdefault("num_outsiders", {})[name] = len(other.probs)
        if prediction.fisher_statistic is not None and other.fisher_statistic is not None:
            auroc = ood_auroc(prediction.fisher_statistic.cpu(), other.fisher_statistic.cpu())
            found.setdefault("familiarity_auroc", {})[name] = auroc
    return found


def count_verdicts(rule: VerdictRule, verdict: Tensor, correct: Tensor | None = None) -> dict[str, Any]:
    """What was promised, how many images got which verdict, and how many of the answers were wrong.

    Args:
        rule: that the verdicts were reached by.
        verdict: [B] indices into `VERDICTS`.
        correct: [B] bool, whether each answer is right; None leaves out what needs it.

    Returns:
        The entries of `realised_verdicts` that need neither sets nor outsiders.
    """
    found: dict[str, Any] = {
        **{"risk": rule.risk, "delta": rule.delta, "coverage": rule.coverage, "familiar": rule.familiar},
        **{"num_held_out": rule.num_held_out, "threshold": rule.threshold, "num_images": len(verdict)},
    }
    for name, code in {"sure": SURE, "torn": TORN, "unfamiliar": UNFAMILIAR}.items():
        found[f"share_{name}"] = (verdict == code).double().mean().item()
    found["num_sure"] = int((verdict == SURE).sum())
    if correct is not None:
        found["errors_among_sure"] = _mean(~correct[verdict == SURE])
        found["accuracy_torn"] = _mean(correct[verdict == TORN])
    return found


def describe_verdicts(found: Mapping[str, Any]) -> list[str]:
    """What verdicts came to, as sentences.

    Args:
        found: of `realised_verdicts`; entries that it lacks are not mentioned.

    Example:
        >>> describe_verdicts({"num_images": 10, "share_sure": 0.8, "share_torn": 0.2, "share_unfamiliar": 0.0})
        ['Of 10 images 80.0% sure; 20.0% torn; 0.0% unfamiliar.']
    """
    lines = []
    if "share_sure" in found:
        errors = found.get("errors_among_sure")
        wrong = "" if errors is None else f", {errors:.1%} of these answers wrong"
        lines.append(
            f"Of {found['num_images']:,} images {found['share_sure']:.1%} sure{wrong}; {found['share_torn']:.1%} torn; "
            f"{found['share_unfamiliar']:.1%} unfamiliar."
        )
    for name, share in found.get("unfamiliar", {}).items():
        lines.append(f"Of {found['num_outsiders'][name]:,} images of {name} {share:.1%} unfamiliar.")
    return lines


def _verdict(prediction: BNDLPrediction) -> Tensor:
    if prediction.verdict is None:
        raise ValueError("The prediction has no verdicts; call model.set_decisions(fit_decisions(...)) first.")
    return prediction.verdict.cpu()


def _mean(values: Tensor) -> float | None:
    return values.double().mean().item() if len(values) else None
