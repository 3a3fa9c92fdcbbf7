"""Pipelines: the standard list of labels and scores with the uncertainty in every entry, and the full answer.

Importing this file makes the task "bndl-image-classification" known and changes no other. "image-classification" stays
transformers' own, which answers for BNDL models too: the softmax of their logits is the predictive. To have the
uncertainty with it, pass `pipeline_class=BNDLImageClassificationPipeline`; a checkpoint loaded with
`trust_remote_code=True` does so by itself. Read decision_layer.py for `predict` and `explain`, which do the work, and
input_images.py for how images are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageClassification, ImageClassificationPipeline
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.pt_utils import KeyDataset

from .answering import EVIDENCE, evidence_entry
from .input_images import DatasetRows, read_image, streamed_rows
from .verdicts import VERDICTS, VerdictRule, reason_of

# What an answer says of its own uncertainty, under the names of BNDLPrediction; the paper's test comes last.
UNCERTAINTY = ("is_answered", "total", "aleatoric", "epistemic", "flip_probability", "p_value", "is_certain")
_PREDICTION_ARGUMENTS = ("method", "num_samples", "seed", "abstain_below")
_EVIDENCE_ARGUMENTS = ("target", "evidence_top_k")


class BNDLImageClassificationPipeline(ImageClassificationPipeline):
    """The standard list of labels and scores, with what is known of the answer's uncertainty in every entry.

    A score is the predictive probability (uncertainty integrated out), unless `function_to_apply` asks for a function
    of the logits, whose softmax it is. Each entry also has `logit_std`, its class's standard deviation in logit units,
    and of the answer as a whole `verdict` ("sure", "torn" or "unfamiliar") and its `reason`, where decisions were
    fitted (`set_decisions`), `is_answered`, `total`, `aleatoric` and `epistemic` in nats, `flip_probability`, and the
    paper's test, `p_value` and `is_certain`. What was fitted on held-out images and stored with the model is applied.

    Besides the standard arguments (`top_k`, `function_to_apply`, `timeout`, `batch_size`) it takes `method`
    ("exact" or "monte_carlo"), `num_samples`, for repeatable draws `seed`, and `abstain_below`, the largest probability
    below which an image is not answered.

    Example:
        >>> classifier = pipeline(
        ...     "image-classification", model="org/vit-bndl", pipeline_class=BNDLImageClassificationPipeline
        ... )
        >>> is_certain = classifier("parrot.png", top_k=1)[0]["is_certain"]
    """

    model: Any  # BNDLForImageClassification, of the installed package or of the code beside the weights

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.model.eval()

    def check_model_type(self, supported_models: object) -> None:
        """Raise a ValueError unless the model is a BNDL model."""
        if getattr(getattr(self.model, "config", None), "model_type", None) != "bndl":
            raise ValueError(
                f"{type(self).__name__} answers with BNDL models, not with {type(self.model).__name__}; wrap it with "
                "BNDLForImageClassification.from_backbone_pretrained(...) and train it, or use transformers' own "
                "pipeline: pipeline('image-classification', ...)."
            )

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        forward = {name: kwargs.pop(name) for name in _PREDICTION_ARGUMENTS if name in kwargs}
        preprocess, _, postprocess = super()._sanitize_parameters(**kwargs)
        return preprocess, forward, postprocess

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Answers for an image, a list, a generator or a dataset of images; see `read_image` for what an image may be.

        Of a `datasets.Dataset` the image column is taken; datasets and generators are answered one by one as they are
        read, batched by `batch_size`. An array or a tensor [B, H, W, c] or [B, c, H, W] is a list of B images.
        """
        if isinstance(inputs, list | tuple) and not inputs:
            return []
        if getattr(inputs, "ndim", 0) == 4:
            inputs = list(inputs)
        column = None
        if isinstance(inputs, KeyDataset) and type(_features(inputs.dataset).get(inputs.key)).__name__ == "Image":
            inputs, column = inputs.dataset, inputs.key
        if hasattr(inputs, "column_names"):  # a datasets.Dataset or IterableDataset, whose rows are dictionaries
            column = column or _image_column(inputs)
            inputs = DatasetRows(inputs, column) if hasattr(inputs, "__len__") else streamed_rows(inputs, column)
        return super().__call__(inputs, **kwargs)

    def preprocess(self, image: Any, timeout: float | None = None) -> Any:
        """Pixel values of one image, read as training reads it.

        Raises:
            ValueError: the image cannot be read; the sentence names it.
        """
        return super().preprocess(read_image(image, timeout))

    def _forward(self, model_inputs: Mapping[str, Tensor], **prediction_arguments: Any) -> dict[str, Tensor]:
        return self._predict(self.model.extract_features(**model_inputs), **prediction_arguments)

    def _predict(
        self,
        features: Tensor,
        method: str = "exact",
        num_samples: int | None = None,
        seed: int = 0,
        abstain_below: float | None = None,
    ) -> dict[str, Tensor]:
        generator = torch.Generator(device=features.device).manual_seed(seed) if method == "monte_carlo" else None
        prediction = self.model.decision_layer.predict(features, method, num_samples, generator, abstain_below)
        names = ["probs", "logits_mean", "logits_variance", *UNCERTAINTY]
        names += [name for name in ("prediction_sets", "verdict") if getattr(prediction, name) is not None]
        return {name: getattr(prediction, name) for name in names}  # each [B] or [B, C], for the unbatching

    def postprocess(
        self, model_outputs: Mapping[str, Tensor], function_to_apply: Any = None, top_k: int | None = 5
    ) -> list[dict[str, Any]]:
        """The `top_k` entries of one image, largest score first."""
        scores = _scores(model_outputs, function_to_apply)
        std = model_outputs["logits_variance"][0].sqrt()
        verdict, answer = self._verdict(model_outputs), _uncertainty(model_outputs)
        return [
            {**entry, **verdict, "logit_std": std[label].item(), **answer}
            for label, entry in self._ranked(scores, top_k).items()
        ]

    def _verdict(self, outputs: Mapping[str, Tensor]) -> dict[str, str]:
        """{"verdict", "reason"} of one image; empty where no decisions were fitted."""
        stored = self.model.decision_layer.config.verdict
        if "verdict" not in outputs or stored is None:
            return {}
        verdict, names = VERDICTS[int(outputs["verdict"][0])], self.model.config.id2label
        sets, rule = outputs.get("prediction_sets"), VerdictRule.from_dict(stored)
        in_set = None if sets is None else sets[0].tolist()
        labels = [str(names[c]) for c in range(outputs["probs"].shape[1])]
        return {"verdict": verdict, "reason": reason_of(outputs["probs"][0].tolist(), labels, verdict, rule, in_set)}

    def _ranked(self, scores: Tensor, top_k: int | None) -> dict[int, dict[str, Any]]:
        """{class: {"label", "score"}} of the `top_k` largest scores; of all without it."""
        count = len(scores) if top_k is None else min(top_k, len(scores))
        values, labels = scores.topk(count)
        names = self.model.config.id2label
        return {i: {"label": names[i], "score": v} for i, v in zip(labels.tolist(), values.tolist(), strict=True)}


class BNDLAnswerPipeline(BNDLImageClassificationPipeline):
    """`pipeline("bndl-image-classification")`: the full answer to each image, as one dictionary.

    - `label`, `probability`: the most probable class and its predictive probability.
    - `verdict`, `reason`: "sure", "torn" or "unfamiliar" and why, in words, where decisions were fitted
      (`set_decisions`).
    - `prediction_set`: the labels of the conformal prediction set, most probable first, where one was fitted
      (`set_conformal`).
    - `scores`: the `top_k` most probable classes, each {"label", "score"}.
    - `evidence`: what the logit of `target` consists of (a class's name or number; by default the answer's own):
      {"label", "total", "bias", "rest", "factors": [{"factor", "name", "contribution", "std", "share"}]},
      `evidence_top_k` factors, largest first. The name is the user's (`set_factor_names`), else the classes it feeds.
      Contributions, rest and bias add up to the total, the mean logit; std is the contribution's standard deviation,
      share its fraction of all factors' contributions, in [0, 1].
    - `is_answered`; `total`, `aleatoric`, `epistemic` in nats; `flip_probability`; `p_value`, `is_certain`: see
      `BNDLPrediction`.

    Example:
        >>> answer = pipeline("bndl-image-classification", model="org/vit-bndl")("parrot.png", evidence_top_k=3)
        >>> label, factors = answer["label"], [part["factor"] for part in answer["evidence"]["factors"]]
    """

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        evidence = {name: kwargs.pop(name) for name in _EVIDENCE_ARGUMENTS if name in kwargs}
        if isinstance(evidence.get("target"), str):
            evidence["target"] = self._class_number(evidence["target"])
        preprocess, forward, postprocess = super()._sanitize_parameters(**kwargs)
        return preprocess, {**forward, **evidence}, postprocess

    def _class_number(self, label: str) -> int:
        known = {name: number for number, name in self.model.config.id2label.items()}
        if label not in known:
            raise ValueError(f"target={label!r} is not a class of this model; its classes: {', '.join(known)}.")
        return known[label]

    def _forward(
        self,
        model_inputs: Mapping[str, Tensor],
        target: int | None = None,
        evidence_top_k: int = 5,
        **prediction_arguments: Any,
    ) -> dict[str, Tensor]:
        features = self.model.extract_features(**model_inputs)  # [B, D], one backbone pass for both
        outputs = self._predict(features, **prediction_arguments)
        count = min(evidence_top_k, self.model.config.num_factors)
        evidence = self.model.decision_layer.explain(
            features, target=outputs["probs"].argmax(dim=-1) if target is None else target, top_k=count
        )
        return {**outputs, **{f"evidence_{name}": getattr(evidence, name) for name in EVIDENCE}}

    def postprocess(
        self, model_outputs: Mapping[str, Tensor], function_to_apply: Any = None, top_k: int | None = 5
    ) -> Any:
        """The full answer to one image."""
        probs = model_outputs["probs"][0]
        (first,) = self._ranked(probs, 1).values()
        sets = {}
        if "prediction_sets" in model_outputs:
            inside = [i for i in probs.argsort(descending=True).tolist() if model_outputs["prediction_sets"][0, i]]
            sets = {"prediction_set": [self.model.config.id2label[i] for i in inside]}
        return {
            "label": first["label"],
            "probability": first["score"],
            **self._verdict(model_outputs),
            **sets,
            "scores": list(self._ranked(_scores(model_outputs, function_to_apply), top_k).values()),
            "evidence": evidence_entry(self.model, {name: model_outputs[f"evidence_{name}"] for name in EVIDENCE}),
            **_uncertainty(model_outputs),
        }


def _scores(outputs: Mapping[str, Tensor], function_to_apply: Any) -> Tensor:
    """[C] of one image: the predictive probabilities, or the asked-for function of the logits `forward` returns."""
    if function_to_apply is None:
        return outputs["probs"][0]
    log_probs, name = outputs["probs"][0].log(), getattr(function_to_apply, "value", function_to_apply)
    logits = log_probs - log_probs.max()  # the top class is the reference of the gaps
    return {"softmax": logits.softmax(-1), "sigmoid": logits.sigmoid(), "none": logits}[name]


def _uncertainty(outputs: Mapping[str, Tensor]) -> dict[str, float | bool]:
    return {name: outputs[name][0].item() for name in UNCERTAINTY}


def _features(dataset: Any) -> dict[str, Any]:
    """{column: feature} of a `datasets.Dataset`; empty for any other."""
    return getattr(dataset, "features", None) or {}


def _image_column(dataset: Any) -> str:
    """Name of the one column of a `datasets.Dataset` that holds images."""
    features = _features(dataset)
    found = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
    if len(found) != 1:
        raise ValueError(
            f"The dataset has the columns {', '.join(map(str, dataset.column_names or features))}, of which "
            f"{len(found)} hold images; pass KeyDataset(dataset, column) of transformers.pipelines.pt_utils."
        )
    return found[0]


if "bndl-image-classification" not in PIPELINE_REGISTRY.get_supported_tasks():
    PIPELINE_REGISTRY.register_pipeline(
        "bndl-image-classification", BNDLAnswerPipeline, pt_model=AutoModelForImageClassification, type="image"
    )

__all__ = ["BNDLAnswerPipeline", "BNDLImageClassificationPipeline"]
