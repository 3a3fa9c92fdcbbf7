"""What the exported graph computes: everything `predict`, `explain` and `class_maps` say of an image in closed form.

One module, pixel values in and named tensors out. What was fitted on held-out images (temperature, variance scale,
familiarity) is part of it; what compares its numbers with thresholds (verdict, prediction sets, p-value) is not: that
is for whoever reads the outputs. Read onnx_file.py next: it makes a file of it.
"""

from __future__ import annotations

from torch import Tensor, nn

from bndl_hf.interpretability.maps.evidence_maps import pooled_average
from bndl_hf.interpretability.maps.feature_trace import main_tensor, trace_features
from bndl_hf.interpretability.maps.position_features import PositionFeatures, norm_scale, position_features
from bndl_hf.model.decisions import Decisions
from bndl_hf.model.evidence import explain_logit
from bndl_hf.model.logit_posterior import LogitPosterior, pick
from bndl_hf.model.modeling_bndl import BNDLForImageClassification
from bndl_hf.model.predictive import predict_exactly
from bndl_hf.model.weibull import WeibullPosterior


class AnswerGraph(nn.Module):
    """A BNDL classifier whose `forward` gives a dictionary of tensors, in the order of `outputs`.

    Args:
        model: in evaluation mode.
        example: [B, channels, height, width]; on it is found out which map of the image the features average.
        top_k: how many parts of the top class's logit to name.
    """

    loading_mean: Tensor  # E[Phi], [K, C], made once: pruned ones are zeros here
    loading_concentration: Tensor  # [K, C], or [K, 1] where it is the same for all classes

    def __init__(self, model: BNDLForImageClassification, example: Tensor, top_k: int) -> None:
        super().__init__()
        self.model, self.top_k = model, top_k
        loadings = model.decision_layer.loading_posterior()
        k = loadings.concentration
        self.register_buffer("loading_mean", loadings.mean.detach())
        self.register_buffer("loading_concentration", (k[:, :1] if (k == k[:, :1]).all() else k).detach().clone())
        # A projection of two layers is not linear: its maps are approximations.
        is_linear = not isinstance(model.decision_layer.projection, nn.Sequential)
        self.averaged = position_features(trace_features(model, example)) if is_linear else None

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, in their order."""
        names = ["probs", "logits_mean", "logits_variance", "gap_mean", "gap_variance"]
        names += ["total", "aleatoric", "epistemic"]
        names += ["fisher_statistic"] if self.model.decision_layer.familiarity is not None else []
        names += ["factors", "contributions", "rest", "bias"]
        return (*names, "class_map") if self.averaged is not None else tuple(names)

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """All outputs for pixel values [B, channels, height, width]."""
        features, hidden_state = self._features(pixel_values)
        layer = self.model.decision_layer
        loadings = WeibullPosterior(self.loading_mean, self.loading_concentration)
        random = LogitPosterior(layer.score_posterior(features), loadings, layer.bias)
        prediction = predict_exactly(random, 2, 0.0, Decisions.of(layer.config).recalibration)  # p_value is not used
        top, runner_up = random.top_two
        evidence = explain_logit(random, None, self.top_k)
        names = ("probs", "logits_mean", "logits_variance", "total", "aleatoric", "epistemic")
        found = {name: getattr(prediction, name) for name in names}
        found |= {name: getattr(evidence, name) for name in ("factors", "contributions", "rest", "bias")}
        found["gap_mean"] = pick(prediction.logits_mean, top) - pick(prediction.logits_mean, runner_up)
        found["gap_variance"] = pick(prediction.gap_variance, runner_up)
        if layer.familiarity is not None:
            found["fisher_statistic"] = layer.familiarity(features, prediction.logits_mean)[1]
        if hidden_state is not None:
            found["class_map"] = self._class_map(random, features, hidden_state, evidence.target)
        return {name: found[name] for name in self.outputs}

    def _features(self, pixel_values: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features [B, D], and the map of the image that they average."""
        if self.averaged is None:
            return self.model.extract_features(pixel_values), None
        kept: list[Tensor | None] = []
        hook = self.averaged.module.register_forward_hook(lambda _, __, output: kept.append(main_tensor(output)))
        try:
            features = self.model.extract_features(pixel_values)
        finally:
            hook.remove()
        return features, kept[-1]

    def _class_map(self, random: LogitPosterior, features: Tensor, hidden_state: Tensor, target: Tensor) -> Tensor:
        """Evidence for the top class by position, [B, h, w], in units of the logit; `class_maps(...).evidence`."""
        averaged = self.averaged
        assert averaged is not None
        values = averaged.grid.positions(hidden_state).float()  # [B, P, D']
        mean = values.mean(dim=1)
        scale = mean.new_ones(mean.shape) if averaged.norm is None else norm_scale(averaged.norm, mean)
        found = PositionFeatures(
            features.float(), values, averaged.grid, averaged.columns, scale, averaged.module, averaged.norm
        )
        coefficients = random.loadings.mean.T[target][:, None]  # [B, 1, K]
        evidence = pooled_average(self.model.decision_layer, found, random.scores.mean, coefficients)
        return evidence[:, 0].unflatten(-1, (averaged.grid.height, averaged.grid.width))
