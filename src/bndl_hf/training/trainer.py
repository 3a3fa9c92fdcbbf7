"""`BNDLTrainer`: transformers' Trainer, with the negative ELBO as its loss and every term of it in the log (Sec. 3.4).

It trains a whole `BNDLForImageClassification`, or a `BNDLDecisionLayer` alone on features; with a frozen backbone and
`cache_features=True` it turns the first into the second. Evaluations report accuracy beside how far the probabilities
can be trusted. elbo.py has the terms, features.py the cache, checkpoints.py what makes saving and resuming safe,
publishing.py the way to the Hub.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import EvalPrediction, Trainer, TrainerState
from transformers.trainer_utils import EvalLoopOutput, TrainOutput

from bndl_hf.model.decision_layer import BNDLDecisionLayer, BNDLImageClassifierOutput
from bndl_hf.model.elbo import negative_elbo
from bndl_hf.model.modeling_bndl import BNDLForImageClassification
from bndl_hf.training.adapters import check_adapters, has_adapters, hold_statistics, trained_decision_layer
from bndl_hf.training.arguments import BNDLTrainingArguments
from bndl_hf.training.checkpoints import SafeCheckpoints
from bndl_hf.training.elbo import ELBOTerms, kl_warmup
from bndl_hf.training.eval_prediction import BNDLEvalPrediction
from bndl_hf.training.features import HEAD_DEFAULTS, FeatureDataset, cached_features, keep_batch
from bndl_hf.training.publishing import PublishingTrainer
from bndl_hf.uncertainty import pavpu_from_p_value, summarize

# Images from which the spread of the features is measured before end-to-end training; a standard deviation from 2,048
# images is within 2 % of its value.
NUM_SCALE_IMAGES = 2048


class BNDLTrainer(SafeCheckpoints, PublishingTrainer, Trainer):
    """Trainer of BNDL classifiers.

    Takes what `transformers.Trainer` takes. `model` is a `BNDLForImageClassification` reading {"pixel_values",
    "labels"}, a peft model around one (docs/peft.md), or a `BNDLDecisionLayer` reading {"features", "labels"}. Beside
    the loss it logs `nll`, `kl_local`, `kl_global` (nats) and `sparsity`; evaluations add accuracy, nll, ece, brier,
    aurc and pavpu (exact; with `num_eval_samples` also sampled). A `compute_metrics` of your own gets the logits as
    always, with `probs` and `p_value` beside them (`BNDLEvalPrediction`), and adds to them.

    Raises:
        ValueError: when the number of training images is unknown, no factor is active, or an argument does not fit.
    """

    model: BNDLForImageClassification | BNDLDecisionLayer
    args: BNDLTrainingArguments
    # The loss is a mean over the batch, so the Trainer divides it by the accumulation steps.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: BNDLForImageClassification | BNDLDecisionLayer,
        args: BNDLTrainingArguments | None = None,
        compute_metrics: Any = None,
        **kwargs: Any,
    ) -> None:
        args = BNDLTrainingArguments() if args is None else args
        self._metrics_of_user = compute_metrics
        self._terms = ELBOTerms()
        self._generator: torch.Generator | None = None
        super().__init__(model=model, args=args, compute_metrics=self._judge, **kwargs)
        if not isinstance(self.model, BNDLDecisionLayer):
            # peft trains a copy of the layer, which came with a copy of its configuration.
            self.decision_layer.config = self.model.config
        config = self.decision_layer.config
        if has_adapters(self.model):
            check_adapters(self.model, args)
        for name in ("kl_local_weight", "kl_global_weight"):
            if getattr(args, name) is not None:
                setattr(config, name, getattr(args, name))
        if args.freeze_backbone:
            if isinstance(model, BNDLDecisionLayer):
                raise ValueError(
                    "freeze_backbone=True, but the model is a decision layer alone, which has no backbone."
                )
            model.freeze_backbone()

    @property
    def decision_layer(self) -> BNDLDecisionLayer:
        """The layer whose posteriors are trained."""
        return trained_decision_layer(self.accelerator.unwrap_model(self.model))

    # ---- training ----

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> TrainOutput:
        """Train, as `Trainer.train`; before the first step the number of images and the features' spread are noted."""
        if self.args.cache_features and not isinstance(self.model, BNDLDecisionLayer):
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
        if resume_from_checkpoint in (None, False):  # a checkpoint knows the spread, and its factors were alive
            self._prepare_decision_layer()
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _prepare_decision_layer(self) -> None:
        """Measure the features' spread where the configuration wants it, and check that a factor is alive."""
        layer = self.decision_layer
        measure = layer.config.normalize_features and bool((layer.feature_scale == 1).all())
        measure = measure and any(p.requires_grad for p in layer.parameters())  # a frozen layer is as it should be
        features = self._first_features(NUM_SCALE_IMAGES if measure else 1)
        layer.check_inputs(features, None)
        if measure:
            n = torch.tensor([float(len(features))], dtype=torch.float64, device=features.device)
            sums = torch.cat([n, features.double().sum(0), features.double().square().sum(0)])
            sums = self.accelerator.reduce(sums, reduction="sum")
            mean, square = (sums[1:] / sums[0]).chunk(2)
            std = (square - mean.square()).clamp_min(0).sqrt()
            # A feature that hardly moves must not be blown up; one that never moves (but for rounding) keeps its scale.
            moves = std > 1e-6 * mean.abs()
            layer.set_feature_scale(torch.where(moves, 1 / std.clamp_min(1e-2 * std.mean()), 1.0))
        layer.check_active(features)

    @torch.no_grad()
    def _first_features(self, count: int) -> Tensor:
        """Features [n, D] of the first training images, n >= count over all processes if there are as many.

        Every process has its own. In training mode, unless the backbone is frozen: features as the steps to come will
        see them (a new BatchNorm does not normalise yet in evaluation mode, and its features look several times
        narrower than they will be). Statistics and random numbers are as before when it is done.
        """
        features: list[Tensor] = []
        model = self.accelerator.unwrap_model(self.model)
        was_training = model.training
        model.to(self.args.device).train()
        hold_statistics(model)
        buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        with torch.random.fork_rng():
            for batch in self.get_train_dataloader():
                inputs = self._prepare_inputs(batch)
                with self.compute_loss_context_manager():
                    known = inputs.get("features")
                    features.append(model.extract_features(inputs["pixel_values"]).logits if known is None else known)
                if sum(map(len, features)) * self.args.world_size >= count:
                    break
        for buffer, before in buffers:
            buffer.copy_(before)
        model.train(was_training)
        return torch.cat(features).float()

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
        """As `Trainer.create_optimizer`, with the decision layer at its own learning rate."""
        is_users = self.optimizer is not None
        optimizer = super().create_optimizer(model)
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
            if "features" in inputs:
                features = inputs["features"]
            else:
                features = self.accelerator.unwrap_model(model).extract_features(inputs["pixel_values"]).logits
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
