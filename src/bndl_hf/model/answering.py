"""The whole answer to images as values that JSON can hold: what pipelines, the endpoint's handler and a Space say.

`ImageAnswers` is the server's side of it: images as bytes from anybody (untrusted_images.py), one backbone pass for
prediction and evidence, few images in memory at a time whatever the number of requests.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

from .evaluation_view import evaluation_view
from .factor_names import factor_names
from .predictive import BNDLPrediction
from .untrusted_images import ImageLimits, read_untrusted_image
from .verdicts import SURE, VERDICTS, VerdictRule, reason_of

Result = TypeVar("Result")

METHODS = ("exact", "monte_carlo")
# What an answer says of the logit it explains, under the names of Evidence.
EVIDENCE = ("factors", "contributions", "contribution_std", "share", "rest", "bias", "total", "target")
_UNCERTAINTY = ("total", "aleatoric", "epistemic", "flip_probability", "fisher_statistic")


class ImageAnswers:
    """Answers to images that anybody may send.

    Any number of threads may call it. Images are decoded and computed in `workers` threads of its own; the callers wait
    with nothing but their bytes. Each thread that computes keeps megabytes of its own: with 200 of them an
    efficientnet-lite0 took 2.2 GB, with two .54 GB.

    Args:
        model: a `BNDLForImageClassification`.
        processor: its image processor.
        limits: of one image; None takes those of `ImageLimits`.
        max_images: of one request.
        workers: threads, and so images in work at a time.

    Example:
        >>> answers = ImageAnswers(model, processor)
        >>> answer = answers([open("parrot.png", "rb").read()])[0]
        >>> label, verdict, reason = answer["label"], answer["verdict"], answer["reason"]
    """

    def __init__(
        self, model: Any, processor: Any, limits: ImageLimits | None = None, max_images: int = 64, workers: int = 2
    ) -> None:
        self.model, self.processor = model.eval(), processor
        self.limits, self.max_images = limits or ImageLimits(), max_images
        self.names = factor_names(model)  # once: labels of a thousand factors take a while
        self._workers = ThreadPoolExecutor(workers, thread_name_prefix="bndl-answers")

    def __call__(
        self, images: Sequence[Any], top_k: int = 5, method: str = "exact", risk: float | None = None
    ) -> list[dict[str, Any]]:
        """One answer an image; see `answer_images` for what is in it.

        Args:
            images: bytes, base64 text or PIL images (`read_untrusted_image`).
            top_k: how many classes `scores` names, 1 or more.
            method: "exact" or "monte_carlo".
            risk: accepted share of errors among the sure, in (0, 1); None takes the stored one.

        Raises:
            ValueError: a parameter out of range, too many images, or one that cannot be read; of several it is named by
                its number.
            TypeError: something that cannot be an image.
        """
        self.check(top_k, method, risk)
        if not 1 <= len(images) <= self.max_images:
            raise ValueError(f"{len(images)} images in one request; send 1 to {self.max_images}.")
        answers = []
        for number, image in enumerate(images):
            try:
                answers.append(self.read_and_answer(image, top_k, method, risk)[1])
            except (TypeError, ValueError) as error:
                if len(images) == 1:
                    raise
                raise type(error)(f"Image {number + 1} of {len(images)}: {error}") from error
        return answers

    def read_and_answer(
        self, image: Any, top_k: int = 5, method: str = "exact", risk: float | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """The image as it was read, RGB, and its answer.

        Raises:
            ValueError, TypeError: as a call.
        """
        return self.at_work(self._read_and_answer, image, top_k, method, risk)

    def at_work(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """What `function(*arguments)` returns or raises, computed in one of the workers."""
        return self._workers.submit(function, *arguments).result()

    def _read_and_answer(self, image: Any, top_k: int, method: str, risk: float | None) -> tuple[Any, dict[str, Any]]:
        picture = read_untrusted_image(image, self.limits)
        inputs = self.processor(images=picture, return_tensors="pt").to(self.model.device)
        (answer,) = answer_images(self.model, inputs, top_k=top_k, method=method, risk=risk, names=self.names)
        return picture, answer

    def check(self, top_k: int, method: str, risk: float | None) -> None:
        """Raise ValueError for parameters that do not fit, before any image is looked at."""
        if not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1:
            raise ValueError(f"top_k={top_k!r} must be a whole number, 1 or more: how many classes are named.")
        if method not in METHODS:
            raise ValueError(f"method={method!r} is unknown; choose one of {', '.join(METHODS)}.")
        if risk is not None:
            rule_at(self.model.decision_layer.config.verdict, risk)


@torch.no_grad()
def answer_images(
    model: Any,
    inputs: Mapping[str, Tensor],
    *,
    top_k: int = 5,
    num_parts: int = 5,
    method: str = "exact",
    risk: float | None = None,
    names: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Everything a model says of some images, in one backbone pass, as values JSON can hold.

    Args:
        model: a `BNDLForImageClassification`.
        inputs: what its image processor made, `pixel_values` [B, channels, height, width] among them.
        top_k: classes in `scores`.
        num_parts: factors in `evidence`.
        method: "exact", or "monte_carlo" with the configuration's number of draws, seed 0.
        risk: accepted share of errors among the sure, in (0, 1): moves the threshold along the stored risk curve.
        names: a label for each of the K factors; None makes them.

    Returns:
        B dictionaries: `label`, `probability`; `verdict` ("sure", "torn", "unfamiliar") and `reason`, a text, None
        where no decisions were fitted; `sentence`, all of this in words; `is_answered`; `prediction_set`, labels, most
        probable first, None likewise; `scores`, [{"label", "score"}]; `uncertainty` in nats (`total`, `aleatoric`,
        `epistemic`), `flip_probability` and `fisher_statistic` (None without familiarity); `evidence` (see
        `evidence_entry`); `p_value` and `is_certain`, the paper's test.

    Raises:
        ValueError: an unknown method, or a risk out of range or without fitted decisions.
    """
    model = evaluation_view(model)
    layer, id2label = model.decision_layer, model.config.id2label
    features = model.extract_features(**inputs)  # [B, D]
    generator = torch.Generator(device=features.device).manual_seed(0) if method == "monte_carlo" else None
    prediction = layer.predict(features, method, None, generator)
    if risk is not None:
        prediction = at_risk(prediction, risk, is_free=layer.config.abstain_below is None)
    count = min(num_parts, model.config.num_factors)
    evidence = layer.explain(features, prediction.predicted_labels, count)
    parts = {name: getattr(evidence, name).cpu() for name in EVIDENCE}
    sentences = prediction.describe(id2label)
    probs, labels = prediction.probs.cpu(), [str(id2label[c]) for c in range(prediction.probs.shape[1])]
    answers = []
    for b, row in enumerate(probs.tolist()):
        order = probs[b].argsort(descending=True).tolist()
        in_set = None if prediction.prediction_sets is None else prediction.prediction_sets[b].tolist()
        verdict = None if prediction.verdict is None else VERDICTS[int(prediction.verdict[b])]
        values = {name: getattr(prediction, name) for name in _UNCERTAINTY}
        answers.append(
            {
                "label": labels[order[0]],
                "probability": row[order[0]],
                "verdict": verdict,
                "reason": None if verdict is None else reason_of(row, labels, verdict, prediction.rule, in_set),
                "sentence": sentences[b],
                "is_answered": bool(prediction.is_answered[b]),
                "prediction_set": None if in_set is None else [labels[c] for c in order if in_set[c]],
                "scores": [{"label": labels[c], "score": row[c]} for c in order[:top_k]],
                "uncertainty": {name: None if value is None else value[b].item() for name, value in values.items()},
                "evidence": evidence_entry(model, parts, b, names),
                "p_value": prediction.p_value[b].item(),
                "is_certain": bool(prediction.is_certain[b]),
            }
        )
    return answers


def evidence_entry(
    model: Any, evidence: Mapping[str, Tensor], b: int = 0, names: Sequence[str] | None = None
) -> dict[str, Any]:
    """Of what one image's logit consists: {"label", "total", "bias", "rest", "factors": [{"factor", "name",
    "contribution", "std", "share"}]}, factors largest first.

    Args:
        model: whose classes and factors are named.
        evidence: the fields `EVIDENCE` of `Evidence`, each [B] or [B, k].
        b: which image.
        names: a label for each of the K factors; None makes those that are needed.
    """
    factors = evidence["factors"][b].tolist()
    labels = factor_names(model, factors) if names is None else [names[factor] for factor in factors]
    columns = (evidence[name][b].tolist() for name in ("contributions", "contribution_std", "share"))
    return {
        "label": model.config.id2label[evidence["target"][b].item()],
        **{name: evidence[name][b].item() for name in ("total", "bias", "rest")},
        "factors": [
            {"factor": factor, "name": name, "contribution": part, "std": std, "share": share}
            for factor, name, part, std, share in zip(factors, labels, *columns, strict=True)
        ],
    }


def rule_at(verdict: Mapping[str, Any] | None, risk: float) -> VerdictRule:
    """The stored rule with another accepted risk.

    Args:
        verdict: as the configuration keeps it.
        risk: in (0, 1). Where the held-out images cannot promise it, the rule has no threshold and nothing is sure.

    Raises:
        ValueError: there is no stored rule, or the risk is out of range.
    """
    if verdict is None:
        raise ValueError(
            f"risk={risk!r} moves the threshold of sure answers, and this model has none; leave risk out, or fit "
            "decisions first (bndl_hf.uncertainty.fit_decisions)."
        )
    rule = VerdictRule.from_dict(verdict)
    return dataclasses.replace(rule, threshold=rule.threshold_at(risk), risk=float(risk))


def at_risk(prediction: BNDLPrediction, risk: float, is_free: bool = True) -> BNDLPrediction:
    """`prediction` with the verdicts of another accepted risk.

    Args:
        prediction: of a model with fitted decisions.
        risk: in (0, 1).
        is_free: what is answered is what is sure; False leaves `is_answered` to the threshold that decided it.

    Raises:
        ValueError: as `rule_at`.
    """
    rule = rule_at(None if prediction.rule is None else prediction.rule.to_dict(), risk)
    verdict = rule.verdicts(prediction.probs, prediction.is_familiar)
    is_answered = verdict == SURE if is_free else prediction.is_answered
    return dataclasses.replace(prediction, rule=rule, verdict=verdict, is_answered=is_answered)


__all__ = ["EVIDENCE", "METHODS", "ImageAnswers", "answer_images", "at_risk", "evidence_entry", "rule_at"]
