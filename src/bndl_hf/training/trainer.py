"""`BNDLTrainer`: transformers' Trainer, with the negative ELBO as its loss and every term of it in the log (Sec. 3.4).

It trains a whole `BNDLForImageClassification`, or a `BNDLDecisionLayer` alone on features; with a frozen backbone and
`cache_features=True` it turns the first into the second. Evaluations report accuracy beside how far the probabilities
can be trusted. elbo.py has the terms, preparation.py what is measured first, pruning.py the sparsity, features.py
the cache, checkpoints.py what makes saving and resuming safe, publishing.py the way to the Hub.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import EvalPrediction, Trainer, TrainerState
from transformers.trainer_utils import EvalLoopOutput, TrainOutput

from bndl_hf.model.backbone_inputs import features_of
from bndl_hf.model.loss import negative_elbo
from bndl_hf.model.modeling_bndl import BNDLForImageClassification
from bndl_hf.model.outputs import BNDLImageClassifierOutput
from bndl_hf.model.posterior_head import PosteriorHead
from bndl_hf.training.adapters import check_adapters, has_adapters, hold_statistics
from bndl_hf.training.arguments import HEAD_DEFAULTS, BNDLTrainingArguments
from bndl_hf.training.checkpoints import SafeCheckpoints
from bndl_hf.training.eval_prediction import BNDLEvalPrediction
from bndl_hf.training.features import FeatureDataset, cached_features, keep_batch
from bndl_hf.training.loss_terms import ELBOTerms, kl_warmup
from bndl_hf.training.preparation import PreparingTrainer
from bndl_hf.training.pruning import LoadingPruner, warn_if_not_pruned
from bndl_hf.training.publishing import PublishingTrainer
from bndl_hf.uncertainty import pavpu_from_p_value, summarize


class BNDLTrainer(SafeCheckpoints, PreparingTrainer, PublishingTrainer, Trainer):
    """Trainer of BNDL classifiers.

    Takes what `transformers.Trainer` takes. `model` is a `BNDLForImageClassification` reading {"pixel_values",
    "labels"}, a peft model around one (docs/peft.md), or a `BNDLDecisionLayer` reading {"features", "labels"}. Beside
    the loss it logs `nll`, `kl_local`, `kl_global` (nats) and `sparsity`; evaluations add accuracy, nll, ece, brier,
    aurc and pavpu (exact; with `num_eval_samples` also sampled). A `compute_metrics` of your own gets the logits as
    always, with `probs` and `p_value` beside them (`BNDLEvalPrediction`), and adds to them.

    Raises:
        ValueError: when the number of training images is unknown, no factor is active, or an argument does not fit.
    """

    model: BNDLForImageClassification | PosteriorHead
    args: BNDLTrainingArguments
    # The loss is a mean over the batch, so the Trainer divides it by the accumulation steps.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: BNDLForImageClassification | PosteriorHead,
        args: BNDLTrainingArguments | None = None,
        compute_metrics: Any = None,
        **kwargs: Any,
    ) -> None:
        args = BNDLTrainingArguments() if args is None else args
        self._metrics_of_user = compute_metrics
        self._terms = ELBOTerms()
        self._generator: torch.Generator | None = None
        self._pruned_after: Any = None
        super().__init__(model=model, args=args, compute_metrics=self._judge, **kwargs)
        if not isinstance(self.model, PosteriorHead):
            # peft trains a copy of the layer, which came with a copy of its configuration.
            self.decision_layer.config = self.model.config
        config = self.decision_layer.config
        if has_adapters(self.model):
            check_adapters(self.model, args)
        for name in ("kl_local_weight", "kl_global_weight"):
            if getattr(args, name) is not None:
                setattr(config, name, getattr(args, name))
        config.kl_local_weight_is_measured &= args.kl_local_weight is None
        if args.freeze_backbone:
            if isinstance(model, PosteriorHead):
                raise ValueError(
                    "freeze_backbone=True, but the model is a decision layer alone, which has no backbone."
                )
            model.freeze_backbone()

    # ---- training ----

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> TrainOutput:
        """Train, as `Trainer.train`; before the first step the number of images and the features' spread are noted."""
        if self.args.cache_features and not isinstance(self.model, PosteriorHead):
            return self._train_on_cached_features(resume_from_checkpoint, **kwargs)
        config = self.decision_layer.config
        try:
            config.num_training_images = len(self.train_dataset)
        except TypeError as error:
            if config.num_training_images is None:
                raise ValueError(
                    "train_dataset has no length, so N of the ELBO (Eq. 12) is unknown; set "
                    "model.config.num_training_images."
                ) from error
        self.prepare_decision_layer(resumes=resume_from_checkpoint not in (None, False))
        output = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        warn_if_not_pruned(self.decision_layer)
        return output

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **_: Any
    ) -> Tensor | tuple[Tensor, BNDLImageClassifierOutput]:
        """Negative ELBO of the batch, its KL terms warmed up while training."""
        if model.training:
            hold_statistics(self.accelerator.unwrap_model(model))
        output = model(**inputs)
        scale = 1.0
        if model.training:
            scale = kl_warmup(self.state.global_step, self.state.max_steps, self.args.kl_warmup_ratio)
            self._terms.add(output, len(inputs["labels"]))
        loss = negative_elbo(output.nll, output.kl_local, output.kl_global, self.decision_layer.config, scale)
        return (loss, output) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, adding the ELBO's terms and the sparsity to every entry that carries the training loss."""
        if "loss" in logs:
            logs = {**logs, **self._terms.pop_means(self.accelerator), "sparsity": self.decision_layer.sparsity()}
        super().log(logs, *args, **kwargs)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As `Trainer.create_optimizer`, with the decision layer at its own learning rate and pruned after steps."""
        is_users = self.optimizer is not None
        optimizer = super().create_optimizer(model)
        steps = getattr(optimizer, "optimizer", optimizer)  # inside accelerate's wrapper, from a second train() on
        if self.decision_layer.raw_loadings.requires_grad and self._pruned_after is not steps:
            pruner = LoadingPruner(self.decision_layer, self.args.pruning_start, self.args.pruning_end)
            steps.register_step_post_hook(lambda *_: pruner.after_step(self.state.global_step, self.state.max_steps))
            self._pruned_after = steps
        rate = self.args.decision_layer_learning_rate
        if rate is not None and not is_users:
            ours = {id(p) for p in self.decision_layer.parameters()}
            for group in list(optimizer.param_groups):
                split = [p for p in group["params"] if id(p) in ours]
                if split and len(split) < len(group["params"]):
                    group["params"] = [p for p in group["params"] if id(p) not in ours]
                    optimizer.add_param_group({**group, "params": split, "lr": rate})
                elif split:
                    group["lr"] = rate
        return optimizer

    def _train_on_cached_features(self, resume_from_checkpoint: str | bool | None, **kwargs: Any) -> TrainOutput:
        """Run the backbone once over every image and train the decision layer on what it says."""
        model = self.model
        if not isinstance(model, BNDLForImageClassification):
            raise ValueError(f"cache_features=True needs a BNDLForImageClassification, not a {type(model).__name__}.")

        def cached(dataset: Any, name: str) -> FeatureDataset:
            return cached_features(model, dataset, self.args, self.processing_class, self.data_collator, name)

        train_dataset = cached(self.train_dataset, "train")
        eval_dataset: Any = None if self.args.eval_strategy == "no" else self.eval_dataset
        if isinstance(eval_dataset, dict):
            eval_dataset = {name: cached(dataset, name) for name, dataset in eval_dataset.items()}
        elif eval_dataset is not None:
            eval_dataset = cached(eval_dataset, "eval")
        head = BNDLTrainer(
            model=model.decision_layer,
            args=self._head_arguments(),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            data_collator=keep_batch,
            compute_metrics=self._metrics_of_user,
            optimizers=(self.optimizer, self.lr_scheduler),
        )
        head.callback_handler.callbacks = self.callback_handler.callbacks
        output = head.train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        self.state: TrainerState = head.state
        model.config.num_training_images = len(train_dataset)
        return output

    def _head_arguments(self) -> BNDLTrainingArguments:
        arguments = copy.copy(self.args)
        arguments.freeze_backbone = arguments.cache_features = False
        arguments.dataloader_num_workers = 0
        arguments.per_device_eval_batch_size = HEAD_DEFAULTS["per_device_eval_batch_size"]
        return arguments

    # ---- evaluation ----

    @torch.no_grad()
    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Any, Tensor | None]:
        """One backbone pass: loss, (logits, probabilities, exact p-value[, sampled p-value]) and labels of a batch."""
        inputs = self._prepare_inputs(inputs)
        layer, labels = self.decision_layer, inputs.get("labels")
        with self.compute_loss_context_manager():
            features = features_of(self.accelerator.unwrap_model(model), inputs)
            output = layer(features, labels)
            if prediction_loss_only:
                return output.loss, None, None
            exact = layer.predict(features)
            answers = [output.logits, exact.probs, exact.p_value]
            if self.args.num_eval_samples:
                sampled = layer.predict(
                    features,
                    method="monte_carlo",
                    num_samples=self.args.num_eval_samples,
                    generator=self._generator,
                )
                answers.append(sampled.p_value)
        return output.loss, tuple(answers), labels

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """As `Trainer.evaluation_loop`; `predictions` are the logits [N, C]."""
        # Draws of its own: an evaluation repeats, and training goes on as if there had been none.
        self._generator = torch.Generator(self.args.device).manual_seed(self.args.seed + self.args.process_index)
        output = super().evaluation_loop(*args, **kwargs)
        if isinstance(output.predictions, tuple):
            output = output._replace(predictions=output.predictions[0])
        return output

    def _judge(self, prediction: EvalPrediction) -> dict[str, float]:
        """Accuracy, and how far the probabilities can be trusted; then the user's own metrics."""
        logits, probs, p_value, *sampled = prediction.predictions
        threshold = self.decision_layer.config.certainty_threshold
        labels = torch.from_numpy(prediction.label_ids)
        metrics = summarize(torch.from_numpy(probs), labels, torch.from_numpy(p_value), threshold)
        if sampled:
            correct = torch.from_numpy(probs).argmax(dim=-1) == labels
            counts = pavpu_from_p_value(torch.from_numpy(sampled[0]), correct, threshold)
            metrics[f"pavpu_{self.args.num_eval_samples}_draws"] = counts.pavpu
        metrics["sparsity"] = self.decision_layer.sparsity()
        if self._metrics_of_user is not None:
            metrics.update(self._metrics_of_user(BNDLEvalPrediction(logits, prediction.label_ids, probs, p_value)))
        return metrics
