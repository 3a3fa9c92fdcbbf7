"""Whether an exported graph answers as its model does, output by output, in onnxruntime.

Compared is what a reader would see: `predict`, `explain` and `class_maps` of the same images, one at a time and three
at once. Where two logits or two parts are equal up to rounding, either order is right: the model is asked about the
class and the factors that the graph chose.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bndl_hf.interpretability.maps.factor_maps import class_maps
from bndl_hf.model.logit_posterior import pick
from bndl_hf.model.modeling_bndl import BNDLForImageClassification

# Images at once: one is what a page asks for, and a batch must not be baked in.
_BATCH_SIZES = (1, 3)


class Session:
    """An exported graph in onnxruntime, on the CPU: pixel values in, {name of the output: tensor} out.

    Args:
        content: the bytes of the file.
    """

    def __init__(self, content: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]

    def __call__(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """All outputs for pixel values [B, channels, height, width], float32."""
        arrays: list[Any] = self._session.run(self._names, {"pixel_values": pixel_values.numpy()})
        return {name: torch.from_numpy(array) for name, array in zip(self._names, arrays, strict=True)}


@torch.no_grad()
def largest_deviations(
    session: Session, model: BNDLForImageClassification, images: Tensor, top_k: int
) -> dict[str, float]:
    """Largest deviation of each output of the graph, over batches of one and of three images.

    Args:
        session: the graph.
        model: what it was exported from, on the CPU in float32.
        images: [N, channels, height, width], N >= 3.
        top_k: how many parts the graph names.

    Returns:
        {output: largest |graph - model| / max(1, largest |model|)}; infinite where shapes differ or a number is NaN.
    """
    largest: dict[str, float] = {}
    for batch_size in _BATCH_SIZES:
        batch = images[-batch_size:].contiguous()
        found = session(batch)
        for name, wanted in _answers(model, batch, found, top_k).items():
            largest[name] = max(largest.get(name, 0.0), _deviation(found[name], wanted))
    return largest


def _answers(
    model: BNDLForImageClassification, images: Tensor, found: dict[str, Tensor], top_k: int
) -> dict[str, Tensor]:
    """What the model says where the graph says `found`; "factors" become the parts that belong to them."""
    prediction = model.predict(images)
    names = ("probs", "logits_mean", "logits_variance", "total", "aleatoric", "epistemic", "fisher_statistic")
    answers = {name: getattr(prediction, name) for name in names if name in found}
    top, runner_up = found["logits_mean"].topk(2, dim=-1).indices.unbind(dim=-1)
    features = model.extract_features(images)
    gap_mean, gap_variance = model.decision_layer(features, answer=lambda random: random.gaps(top))
    answers["gap_mean"], answers["gap_variance"] = -pick(gap_mean, runner_up), pick(gap_variance, runner_up)
    K = model.decision_layer.raw_loadings.shape[0]
    every = model.explain(images, target=top, top_k=K)
    parts = torch.zeros_like(every.contributions).scatter(1, every.factors, every.contributions)  # [B, K]
    answers["contributions"] = every.contributions[:, :top_k]
    answers["rest"] = every.contributions[:, top_k:].sum(dim=-1)
    answers["bias"] = every.bias
    if "class_map" in found:
        answers["class_map"] = class_maps(model, images, target=top).evidence
    answers["factors"] = every.contributions[:, :top_k]
    found["factors"] = parts.gather(1, found["factors"].clamp(0, K - 1))
    return {name: answers[name] for name in found}


def _deviation(found: Tensor, wanted: Tensor) -> float:
    """Largest |found - wanted| / max(1, largest |wanted|)."""
    if found.shape != wanted.shape:
        return float("inf")
    deviation = ((found - wanted).abs().amax() / wanted.abs().amax().clamp_min(1)).item()
    return deviation if deviation == deviation else float("inf")
