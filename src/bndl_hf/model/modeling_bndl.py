"""BNDL classifiers for transformers: a wrapped backbone and the Bayesian non-negative decision layer on top of it.

`BNDLForImageClassification` gives logits, losses, predictions with their uncertainty, and exact explanations;
`BNDLModel`, what `AutoModel` loads from the same files, gives the factor scores. Read backbone.py for how the head is
found and taken out, decision_layer.py for the layer that replaces it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from .backbone import build_classifier, detach_head
from .backbone_inputs import backbone_arguments, check_pixel_values, input_names
from .checkpoint_errors import check_all_weights_were_there, explain_loading_errors
from .configuration_bndl import BNDLConfig
from .decision_layer import BNDLDecisionLayer
from .decisions import store_abstention, store_conformal, store_decisions, store_temperature
from .evaluation_view import evaluation_view
from .evidence import Evidence
from .factor_names import store_factor_names
from .familiarity import Familiarity
from .outputs import BNDLImageClassifierOutput, BNDLModelOutput
from .pipeline_bndl import BNDLAnswerPipeline, BNDLImageClassificationPipeline
from .prediction_sets import ConformalPredictor
from .predictive import BNDLPrediction
from .wrapping import load_classifier, split_keywords, wrap_classifier

ModelT = TypeVar("ModelT", bound="BNDLPreTrainedModel")


class BNDLPreTrainedModel(PreTrainedModel):
    """What both models share: the backbone, the decision layer, and how they are made, initialised and saved."""

    config: BNDLConfig
    config_class = BNDLConfig
    main_input_name = "pixel_values"
    input_modalities = "image"
    # The backbone chooses the attention implementation, and reports what it does not support.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # The posterior is float32 whatever the model's dtype (moments and logarithms lose too much below it).
    _keep_in_fp32_modules_strict = ["decision_layer"]  # noqa: RUF012 - transformers declares it so
    # The loss is a mean over the batch; **kwargs-style scaling by the number of items must stay off.
    accepts_loss_kwargs = False

    def __init__(self, config: BNDLConfig) -> None:
        super().__init__(config)
        if config.backbone_config is None or config.head_name is None:
            raise ValueError(
                "The configuration names no backbone_config or head_name; make it with "
                "BNDLConfig.from_backbone_config(...), or use BNDLDecisionLayer for features alone."
            )
        self.backbone = build_classifier(cast(PretrainedConfig, config.backbone_config))  # no dictionary any more
        detach_head(self.backbone, config.head_name)
        self._input_names = input_names(self.backbone)
        self.supports_gradient_checkpointing = self.backbone.supports_gradient_checkpointing
        self.decision_layer = BNDLDecisionLayer(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, BNDLDecisionLayer):  # its Linear children are initialised with it
            module.reset_parameters()

    @classmethod
    def from_backbone_pretrained(
        cls: type[ModelT],
        backbone_name_or_path: str | os.PathLike[str] | PreTrainedModel,
        num_labels: int | None = None,
        warm_start: bool = False,
        head_name: str | None = None,
        backbone_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> ModelT:
        """Wrap a pretrained image classifier: its last layer goes, the decision layer comes.

        Args:
            backbone_name_or_path: Hub id or folder of an `XForImageClassification`, or such a model already loaded,
                which is then changed in place.
            num_labels: C; None keeps the classifier's own labels.
            warm_start: start the decision layer as the exact non-negative equivalent of the head taken out; needs the
                classifier's own labels, in their order. Features of both signs then take 2 D factors, and
                nothing is pruned unless `loading_density` says so.
            head_name: the layer to replace, by its dotted name; None finds the one that makes the logits.
            backbone_kwargs: passed on to the classifier's `from_pretrained` as they are, whatever their names.
            **kwargs: fields of `BNDLConfig`, `id2label` among them; the rest goes to the classifier's
                `from_pretrained` (`revision`, `token`, `dtype`, `device_map`, `attn_implementation`,
                `ignore_mismatched_sizes`, ..., and fields of its own configuration such as `image_size`).

        Raises:
            ValueError: when no single layer makes the logits, warm_start does not fit the labels asked for, or a
                keyword is unknown.
            ImportError: when the classifier needs a package that is not installed (timm, natten).

        Example:
            >>> name = "google/vit-base-patch16-224"
            >>> model = BNDLForImageClassification.from_backbone_pretrained(name, num_labels=10)
        """
        fields, loading = split_keywords(cls.config_class, kwargs)
        classifier = load_classifier(backbone_name_or_path, cls.config_class, loading, backbone_kwargs or {})
        return wrap_classifier(cls, classifier, num_labels, warm_start, head_name, fields)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *args: Any, **kwargs: Any
    ) -> Any:
        """Load as any transformers model.

        Raises:
            ValueError: the weights are damaged, incomplete, or do not fit the configuration or a field passed here;
                or the checkpoint is not a BNDL model's, or was written by a newer version.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        with explain_loading_errors(pretrained_model_name_or_path, kwargs):
            loaded: Any = super().from_pretrained(
                pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
            )
        model, info = loaded
        check_all_weights_were_there(pretrained_model_name_or_path, info, len(model.state_dict()))
        return (model, info) if wants_info else model

    def freeze_backbone(self) -> None:
        """Train the decision layer only; the backbone keeps its weights and stays in evaluation mode."""
        self.backbone.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> BNDLPreTrainedModel:
        """As `nn.Module.train`, but a frozen backbone stays in evaluation mode: its statistics must not move."""
        super().train(mode)
        if not any(p.requires_grad for p in self.backbone.parameters()):
            self.backbone.eval()
        return self

    def extract_features(self, pixel_values: Tensor, **backbone_inputs: Tensor | bool | None) -> Tensor:
        """The features h = f(x) of some images, [B, D]: what the decision layer reads.

        Args:
            pixel_values: as the backbone's image processor makes them, [B, 3, height, width] for most.
            **backbone_inputs: what else its forward reads (SigLIP 2: `pixel_attention_mask`, `spatial_shapes`), and
                `output_attentions`, `output_hidden_states`, `interpolate_pos_encoding`; None is left out.

        Raises:
            ValueError: for pixel values of the wrong shape, or with NaN or infinite entries; for position encodings
                that cannot be interpolated.
            TypeError: for an input the backbone does not read.
        """
        return self._run_backbone(pixel_values, **backbone_inputs)["logits"]

    def _run_backbone(self, pixel_values: Tensor, **backbone_inputs: Tensor | bool | None) -> ModelOutput:
        """The backbone's own output, whose `.logits` are the features, with hidden states and attentions if asked."""
        check_pixel_values(pixel_values, self.backbone.config, self._input_names, self.training)
        arguments = backbone_arguments(self.backbone, self._input_names, backbone_inputs)
        return self.backbone(pixel_values=pixel_values.to(self.backbone.dtype), return_dict=True, **arguments)

    def _set_gradient_checkpointing(self, *args: Any, **kwargs: Any) -> None:
        self.backbone._set_gradient_checkpointing(*args, **kwargs)  # timm's backbones have their own way


class BNDLModel(BNDLPreTrainedModel):
    """Images to factor scores: the non-negative representation the classifier decides on."""

    _auto_class = "AutoModel"  # `save_pretrained` puts this file and its siblings beside the weights

    def forward(
        self,
        pixel_values: Tensor,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        interpolate_pos_encoding: bool | None = None,
        return_dict: bool | None = None,
        **backbone_inputs: Tensor | bool | None,
    ) -> BNDLModelOutput | tuple[Tensor, ...]:
        """Factor scores E[theta] [B, K] of pixel values [B, 3, height, width], and their concentrations.

        `backbone_inputs` is what else the backbone reads; see `extract_features`.
        """
        backbone = self._run_backbone(
            pixel_values,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            interpolate_pos_encoding=interpolate_pos_encoding,
            **backbone_inputs,
        )
        scores = self.decision_layer(backbone["logits"], answer=lambda random: random.scores)
        output = BNDLModelOutput(
            factor_scores=scores.mean,
            concentration=scores.concentration.expand_as(scores.mean),
            hidden_states=backbone.get("hidden_states"),
            attentions=backbone.get("attentions"),
        )
        return output if return_dict is not False else output.to_tuple()


class BNDLForImageClassification(BNDLPreTrainedModel):
    """An image classifier that knows how sure it is and of what its decision consists."""

    _auto_class = (
        "AutoModelForImageClassification"  # `save_pretrained` puts this file and its siblings beside the weights
    )

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        interpolate_pos_encoding: bool | None = None,
        return_dict: bool | None = None,
        **backbone_inputs: Tensor | bool | None,
    ) -> BNDLImageClassifierOutput | tuple[Tensor, ...]:
        """Logits [B, C] of pixel values [B, 3, height, width]; with labels [B] also the loss and its terms.

        In evaluation mode the softmax of the logits is `predict(...).probs`. `backbone_inputs` is what else the
        backbone reads; see `extract_features`.
        """
        backbone = self._run_backbone(
            pixel_values,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            interpolate_pos_encoding=interpolate_pos_encoding,
            **backbone_inputs,
        )
        output = self.decision_layer(backbone["logits"], labels)
        output.hidden_states = backbone.get("hidden_states")
        output.attentions = backbone.get("attentions")
        return output if return_dict is not False else output.to_tuple()

    @torch.no_grad()
    def predict(
        self,
        pixel_values: Tensor,
        method: str = "exact",
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
        abstain_below: float | None = None,
        **backbone_inputs: Tensor | bool | None,
    ) -> BNDLPrediction:
        """Answer and uncertainty of each image, in one backbone pass whatever `num_samples` is.

        Args:
            pixel_values: [B, 3, height, width].
            method: "exact" (closed forms, deterministic) or "monte_carlo" (S draws of the decision layer).
            num_samples: S; None takes the configuration's (20, the paper's). The exact p-value is for S draws too.
            generator: source of the draws, for repeatable Monte-Carlo predictions.
            abstain_below: `is_answered` is largest probability >= this; None takes the configuration's.
            **backbone_inputs: what else the backbone reads, see `extract_features`; so that
                `model.predict(**processor(images, return_tensors="pt"))` fits every backbone.

        Raises:
            ValueError: for an unknown method, fewer than 2 draws, or abstain_below outside [0, 1].
        """
        model = evaluation_view(self)
        features = model.extract_features(pixel_values, **backbone_inputs)
        return model.decision_layer.predict(features, method, num_samples, generator, abstain_below)

    @torch.no_grad()
    def explain(
        self,
        pixel_values: Tensor,
        target: Tensor | int | None = None,
        top_k: int | None = None,
        against: Tensor | int | str | None = None,
        **backbone_inputs: Tensor | bool | None,
    ) -> Evidence:
        """The parts each image's logit consists of, exactly, and how sure each is: factors, contributions, rest, bias.

        Args:
            pixel_values: [B, 3, height, width].
            target: class to explain per image [B], one class for all, or None for the top class.
            top_k: number of parts to name; None: five, or all of fewer.
            against: a class, one per image [B], or "runner_up": `contrast` then says why the target and not that one.
            **backbone_inputs: what else the backbone reads, see `extract_features`.

        Raises:
            ValueError: for a class or a `top_k` out of range, or a class against itself.
        """
        model = evaluation_view(self)
        features = model.extract_features(pixel_values, **backbone_inputs)
        return model.decision_layer.explain(features, target, top_k, against)

    def set_temperature(self, temperature: Any, variance_scale: float | None = None) -> None:
        """Recalibrate: predictions, logits and loss in evaluation mode use T and v from now on; saved with the model.

        The training objective does not change. Stored prediction sets and abstention thresholds were fitted on other
        probabilities: they are dropped, with a warning.

        Args:
            temperature: what `bndl_hf.uncertainty.fit_temperature` returned, or a number T in [0.001, 1000]; 1 changes
                nothing.
            variance_scale: v in [0, 1e6] beside a number T; None is 1, which changes nothing.

        Raises:
            ValueError: for values out of range.

        Example:
            >>> model.set_temperature(fit_temperature(prediction, labels))
        """
        store_temperature(self._configurations(), temperature, variance_scale)

    def set_abstention(self, threshold: Any) -> None:
        """Decline to answer below this largest probability; saved with the model.

        Args:
            threshold: what `bndl_hf.uncertainty.fit_abstention` returned for the largest probability, a number in
                [0, 1], or None to answer always.

        Raises:
            ValueError: for a threshold that is not a probability.
        """
        store_abstention(self._configurations(), threshold)

    def set_conformal(self, predictor: ConformalPredictor | Mapping[str, Any] | None) -> None:
        """Answer with prediction sets too (`BNDLPrediction.prediction_sets`); saved with the model.

        Args:
            predictor: what `bndl_hf.uncertainty.fit_conformal` returned, its `to_dict()`, or None to stop.

        Raises:
            ValueError: it is randomised (a model answers the same image the same way twice), or was fitted on another
                number of classes.
        """
        store_conformal(self._configurations(), predictor)

    def set_familiarity(self, familiarity: Familiarity | None) -> None:
        """Let predictions say how familiar an image is (`BNDLPrediction.fisher_statistic`); saved with the model.

        Args:
            familiarity: what `bndl_hf.uncertainty.fit_familiarity` returned, or None to stop.

        Raises:
            ValueError: it was fitted on features of another width, or on another number of classes.
        """
        self.decision_layer.set_familiarity(familiarity)
        self.config.familiarity_rank = self.decision_layer.config.familiarity_rank

    def set_factor_names(self, names: Mapping[int, str] | None) -> None:
        """Name factors: figures, galleries, pages and answers say these words beside the number; saved with the model.

        A factor without a name is called by the classes it feeds (`bndl_hf.interpretability.factor_names`).

        Args:
            names: {423: "fins"}, which replace all names there were; None or {} takes them away.

        Raises:
            ValueError: the model has no such factor, or a name is not one line of text.

        Example:
            >>> model.set_factor_names({0: "fins"})
        """
        store_factor_names(self._configurations(), names)

    def set_decisions(self, decisions: Any) -> None:
        """Give verdicts (`BNDLPrediction.verdict`): sure, torn or unfamiliar, with their reasons; saved with the model.

        Temperature, familiarity, prediction sets and thresholds are stored at once, as they were fitted together.

        Args:
            decisions: what `bndl_hf.uncertainty.fit_decisions` returned, or None for no verdicts and no prediction
                sets; temperature and familiarity then stay.

        Raises:
            ValueError: it was fitted on features of another width, or on another number of classes.

        Example:
            >>> model.set_decisions(fit_decisions(model, held_out, progress=False))
        """
        store_decisions(self.decision_layer, self._configurations(), decisions)

    def _configurations(self) -> list[BNDLConfig]:
        """The model's configuration and the decision layer's, which may be another object (a layer put in, peft)."""
        return [self.config, self.decision_layer.config]


__all__ = [
    "BNDLAnswerPipeline",
    "BNDLForImageClassification",
    "BNDLImageClassificationPipeline",
    "BNDLModel",
    "BNDLPreTrainedModel",
]
