"""`BNDLTrainer`: transformers' Trainer, with the negative ELBO as its loss and every term of it in the log (Sec. 3.4).

It trains a whole `BNDLForImageClassification`, or a decision layer alone on features; with a frozen backbone and
`cache_features=True` the whole model on features that were computed once. Evaluations report accuracy beside how far
the probabilities can be trusted. loss_terms.py has the terms, preparation.py what is measured first, pruning.py the
sparsity, class_balance.py the imbalance, cached_training.py the training on cached features, tuned_training.py the
search among layers, checkpoints.py what makes saving and resuming safe, publishing.py the way to the Hub.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput, TrainOutput
from transformers.utils import logging

from bndl_hf.model.backbone_inputs import features_of
from bndl_hf.model.loss import add_up, elbo_terms
from bndl_hf.model.modeling_bndl import BNDLForImageClassification
from bndl_hf.model.outputs import BNDLImageClassifierOutput
from bndl_hf.model.posterior_head import PosteriorHead
from bndl_hf.training.adapters import check_adapters, has_adapters, hold_statistics, trained_decision_layer
from bndl_hf.training.arguments import BNDLTrainingArguments
from bndl_hf.training.cached_training import training_on_features
from bndl_hf.training.checkpoints import SafeCheckpoints, end_of_training, last_checkpoint
from bndl_hf.training.class_balance import BalancedSampler, all_labels
from bndl_hf.training.collating import collate_rows
from bndl_hf.training.evaluating import EvaluationJudge
from bndl_hf.training.failures import LossWatch, Place, batch_norm_errors_in_words, loss_not_finite
from bndl_hf.training.feature_views import TurnViews
from bndl_hf.training.loss_terms import ELBOTerms, kl_warmup
from bndl_hf.training.preparation import check_training_set, note_training_images, prepare_decision_layer
from bndl_hf.training.pruning import LoadingPruner, warn_if_not_pruned
from bndl_hf.training.publishing import HubPublishing
from bndl_hf.training.tuned_training import TunedTraining

logger = logging.get_logger(__name__)

# A new decision layer learns little in fewer optimizer steps.
_FEW_STEPS = 200


class BNDLTrainer(TunedTraining, SafeCheckpoints, HubPublishing, Trainer):
    """Trainer of BNDL classifiers; takes what `transformers.Trainer` takes, in its order.

    It logs `nll`, `kl_scores` and `kl_loadings` (nats an image, weighted), which add up to `loss`, and `sparsity`.
    Evaluations log `eval_loss`, the negative log-likelihood, and the measures of `bndl_hf.uncertainty.summarize` (with
    `num_eval_samples` also a sampled PAvPU), whatever metrics of your own you add.

    Args:
        model: a `BNDLForImageClassification` reading {"pixel_values", "labels"}, a peft model around one
            (docs/peft.md), or a decision layer (`PosteriorHead`) reading {"features", "labels"}; None with
            `model_init`.
        args: `BNDLTrainingArguments`.
        data_collator: makes a batch of rows; None takes rows of tensors and (image, label) pairs.
        compute_loss_func: called with (outputs, labels, num_items_in_batch=), its value takes the place of the negative
            log-likelihood; while training the weighted KL terms are added to it. `num_items_in_batch` is the number of
            images in this batch, so that a mean over them and a sum divided by it are both right, also where gradients
            are accumulated (Departure: transformers passes the images of a whole step).
        compute_metrics: gets a `BNDLEvalPrediction`: logits whose softmax is the predictive, labels, and beside them
            `probs` and `p_value`.
        train_dataset, eval_dataset, processing_class, model_init, callbacks, optimizers, optimizer_cls_and_kwargs,
            preprocess_logits_for_metrics: as in `Trainer`.

    Raises:
        TypeError: for arguments that are not `BNDLTrainingArguments`.
        ValueError: for a model that is not a BNDL model, or an argument that does not fit it.
    """

    model: Any  # a BNDLForImageClassification, a PosteriorHead, or a PeftModel around the first
    args: BNDLTrainingArguments
    compute_metrics: Any
    # The loss is a mean over the batch, so the Trainer divides it by the accumulation steps.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: BNDLForImageClassification | PosteriorHead | nn.Module | None = None,
        args: BNDLTrainingArguments | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        model_init: Callable[..., Any] | None = None,
        compute_loss_func: Callable[..., Tensor] | None = None,
        compute_metrics: Callable[..., dict[str, Any]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        optimizer_cls_and_kwargs: tuple[Any, dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[[Tensor, Tensor], Any] | None = None,
    ) -> None:
        args = BNDLTrainingArguments() if args is None else args
        if not isinstance(args, BNDLTrainingArguments):
            raise TypeError(
                f"args is a {type(args).__name__}; BNDLTrainer needs BNDLTrainingArguments, which take the same values "
                "and a few more: from bndl_hf import BNDLTrainingArguments."
            )
        if args.n_gpu > 1:
            logger.warning(
                f"One process sees {args.n_gpu} accelerators and trains on the first; start one process for each with "
                "`accelerate launch` or `torchrun` to use all."
            )
            args._n_gpu = 1
        self._terms = ELBOTerms()
        self._class_weights: Tensor | None = None
        self._judge: EvaluationJudge | None = None
        self._losses, self._batch_of_step = LossWatch(), 0
        self._warns_of_few_steps = False
        super().__init__(
            model,
            args,
            collate_rows if data_collator is None else data_collator,
            train_dataset,
            eval_dataset,
            processing_class,
            model_init,
            compute_loss_func,
            compute_metrics,
            [LoadingPruner(args.pruning_start, args.pruning_end), TurnViews(), *(callbacks or [])],
            optimizers,
            optimizer_cls_and_kwargs,
            preprocess_logits_for_metrics,
        )
        self._set_up_model()

    @property
    def decision_layer(self) -> PosteriorHead:
        """The layer whose posteriors are trained."""
        return trained_decision_layer(self._unwrapped(self.model))

    def _unwrapped(self, model: Any) -> Any:
        """The model in its wrappers, if any; accelerate looks for packages on the disk at every call."""
        is_bare = isinstance(model, (PosteriorHead, BNDLForImageClassification))
        return model if is_bare else self.accelerator.unwrap_model(model)

    def _set_up_model(self) -> None:
        """What the arguments say about the model; `model_init` makes a new one for every training."""
        model: Any = self.accelerator.unwrap_model(self.model)
        if not isinstance(model, PosteriorHead) and not hasattr(model, "decision_layer"):
            raise ValueError(
                f"The model is a {type(model).__name__}, which has no Bayesian decision layer; make one of it with "
                "BNDLForImageClassification.from_backbone_pretrained(model)."
            )
        if isinstance(model, PosteriorHead):
            if self.args.activation_checkpointing:
                raise ValueError("gradient_checkpointing=True, but a decision layer alone has no layers to recompute.")
            vars(model)["main_input_name"] = "features"  # what `include_for_metrics` means by inputs
        else:
            # peft trains a copy of the layer, which came with a copy of its configuration.
            self.decision_layer.config = model.config
        if has_adapters(model):
            check_adapters(model, self.args)
        config = self.decision_layer.config
        for name in ("kl_local_weight", "kl_global_weight"):
            if getattr(self.args, name) is not None:
                setattr(config, name, getattr(self.args, name))
        config.kl_local_weight_is_measured &= self.args.kl_local_weight is None
        if self.args.freeze_backbone:
            if isinstance(model, PosteriorHead):
                raise ValueError(
                    "freeze_backbone=True, but the model is a decision layer alone, which has no backbone."
                )
            model.freeze_backbone()

    # ---- training ----

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """The training itself; by now the model is the one of this training, with the weights of its checkpoint."""
        self._set_up_model()
        resumes = kwargs.get("resume_from_checkpoint") is not None
        check_training_set(self.train_dataset)
        with training_on_features(self) if self.args.cache_features else nullcontext():
            self._class_weights = note_training_images(self)
            self._warns_of_few_steps = prepare_decision_layer(self, resumes) and not self.args.tune_head
            self._losses, self._batch_of_step = LossWatch(), 0
            output = super()._inner_training_loop(*args, **kwargs)
            self._stop_for(self._losses.finish())
        best = self.state.best_global_step if self.args.load_best_model_at_end else None
        step = self.state.global_step if best is None else best
        warn_if_not_pruned(self.decision_layer, step, self.args.pruning_end, self.state.max_steps)
        return output

    def _init_training_state(
        self,
        max_steps: int,
        num_update_steps_per_epoch: int,
        num_train_epochs: int,
        resume_from_checkpoint: str | None,
        trial: Any,
    ) -> tuple[int, int]:
        """Where training begins: the epochs behind it, and the batches of this one.

        Departure: at every start of a run that is done, or was stopped early, transformers trains a little more.
        """
        start = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
        )
        end = None if resume_from_checkpoint is None else end_of_training(self, max_steps)
        if end is None:
            return start
        if self.is_world_process_zero():
            logger.warning(end)
        return num_train_epochs, 0

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """As `Trainer.create_scheduler`, which is told how many steps there will be."""
        if self._warns_of_few_steps and num_training_steps < _FEW_STEPS and self.is_world_process_zero():
            epochs = self.args.num_train_epochs
            wanted = f"max_steps={_FEW_STEPS}"
            if self.args.max_steps <= 0:
                wanted = f"num_train_epochs={round(epochs * _FEW_STEPS / num_training_steps)}"
            logger.warning(
                f"The new decision layer is trained for few optimizer steps ({num_training_steps}): pass {wanted} or a "
                f"smaller per_device_train_batch_size (now {self.args.per_device_train_batch_size}) for about "
                f"{_FEW_STEPS}."
            )
        self._warns_of_few_steps = False
        return super().create_scheduler(num_training_steps, optimizer)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        if not self.args.weighted_sampler:
            return super()._get_train_sampler(train_dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return BalancedSampler(all_labels(self.train_dataset if train_dataset is None else train_dataset), seed)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """As `Trainer.training_step`.

        Raises:
            ValueError: the loss is NaN or infinite, or a BatchNorm got a single image.
        """
        with batch_norm_errors_in_words(self.args.per_device_train_batch_size):
            loss = super().training_step(model, inputs, num_items_in_batch)
        self._batch_of_step += 1
        place = Place(self.state.global_step + 1, self._batch_of_step, self.state.epoch or 0.0)
        self._stop_for(self._losses.add(loss, place, self.accelerator.scaler is not None))
        if self.accelerator.sync_gradients:
            self._batch_of_step = 0
        return loss

    def _stop_for(self, found: tuple[float, Place] | None) -> None:
        if found is not None:
            kept = last_checkpoint(str(self.args.output_dir))
            raise loss_not_finite(*found, self.accelerator.unwrap_model(self.model), kept)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor | tuple[Tensor, BNDLImageClassifierOutput]:
        """Negative ELBO of the batch while training, its KL terms warmed up; its likelihood term alone otherwise.

        Class weights and label smoothing change the likelihood while training; an evaluation gives the plain one.
        """
        if model.training:
            hold_statistics(self._unwrapped(model))
        output = model(**inputs)
        loss = self._likelihood(output, inputs["labels"], model.training)
        if model.training:
            scale = kl_warmup(self.state.global_step, self.state.max_steps, self.args.kl_warmup_ratio)
            terms = elbo_terms(loss, output.kl_local, output.kl_global, self.decision_layer.config, scale)
            self._terms.add(terms, output.nll, len(inputs["labels"]))
            loss = add_up(terms)
        return (loss, output) if return_outputs else loss

    def _likelihood(self, output: Any, labels: Tensor, training: bool) -> Tensor:
        """Mean over the batch of the term that says how well the labels are predicted."""
        if self.compute_loss_func is not None:
            return self.compute_loss_func(output, labels, num_items_in_batch=len(labels))
        smoothing = self.args.label_smoothing_factor
        if training and (self._class_weights is not None or smoothing):
            return self.decision_layer.likelihood_loss(output.logits, labels, self._class_weights, smoothing)
        return output.nll

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, with the terms that add up to the training loss before it, and the sparsity of the loadings behind."""
        if "loss" in logs:
            is_ours = type(self).compute_loss is BNDLTrainer.compute_loss
            logs = self._terms.pop_before(logs, self.accelerator, is_ours)
            logs["sparsity"] = self.decision_layer.sparsity()
        super().log(logs, *args, **kwargs)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As `Trainer.create_optimizer`, with the decision layer at its own learning rate.

        An optimizer of your own, or a class with its arguments, keeps the rates you gave it.
        """
        is_users = self.optimizer is not None or self.optimizer_cls_and_kwargs is not None
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

    def hyperparameter_search(self, *args: Any, compute_objective: Any = None, **kwargs: Any) -> Any:
        """As `Trainer.hyperparameter_search`.

        Departure: the default objective is always `eval_loss`. transformers adds up all metrics, and accuracy plus
        calibration errors says nothing.
        """
        if compute_objective is None and len(args) < 2:
            compute_objective = _evaluation_loss
        if compute_objective is not None:
            kwargs["compute_objective"] = compute_objective
        return super().hyperparameter_search(*args, **kwargs)

    # ---- evaluation ----

    @torch.no_grad()
    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Any, Tensor | None]:
        """As `Trainer.prediction_step`: loss, logits (with `ignore_keys`, all else of the output too) and labels."""
        inputs = self._prepare_inputs(inputs)
        labels = inputs.get("labels")
        loss: Any = None
        with self.compute_loss_context_manager(), self._features_read() as features:
            if labels is None:
                output: Any = model(**inputs)
            else:
                loss, output = self.compute_loss(model, copy.copy(inputs), return_outputs=True)
                loss = loss.detach().mean()
        if self._judge is not None and labels is not None:
            if not features:  # a loss of the user's own that goes around the decision layer
                features.append(features_of(self.accelerator.unwrap_model(model), inputs))
            self._judge.add(features[0], labels)
        if prediction_loss_only:
            return loss, None, None
        if ignore_keys is None:
            return loss, output["logits"], labels
        kept = tuple(value for name, value in output.items() if name not in {*ignore_keys, "loss"})
        return loss, kept[0] if len(kept) == 1 else kept, labels

    @contextmanager
    def _features_read(self) -> Iterator[list[Tensor]]:
        """A list that fills with the features the decision layer reads within the block."""
        features: list[Tensor] = []
        hook = self.decision_layer.register_forward_pre_hook(lambda _, inputs: features.extend(inputs[:1]))
        try:
            yield features
        finally:
            hook.remove()

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """As `Trainer.evaluation_loop`, with measures of trust beside your own metrics; yours win where names meet."""
        # Draws of its own: an evaluation repeats, and training goes on as if there had been none.
        generator = torch.Generator(self.args.device).manual_seed(self.args.seed + self.args.process_index)
        judge = EvaluationJudge(self.decision_layer, self.args, lambda kept: self.gather_function(kept), generator)
        self._judge = None if self.args.prediction_loss_only else judge
        metrics_of_user = self.compute_metrics
        if metrics_of_user is not None:
            self.compute_metrics = lambda prediction, **more: metrics_of_user(judge.with_trust(prediction), **more)
        try:
            output = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
        finally:
            self.compute_metrics, self._judge = metrics_of_user, None
        measures, logged = judge.measures(), output.metrics
        assert logged is not None
        if measures and self.compute_loss_func is None and type(self).compute_loss is BNDLTrainer.compute_loss:
            # transformers' mean of batches weighs a short last batch, and padding in several processes, too much.
            logged[f"{metric_key_prefix}_loss"] = measures["nll"]
        for name, value in measures.items():
            logged.setdefault(f"{metric_key_prefix}_{name}", value)
        return output


def _evaluation_loss(metrics: dict[str, float]) -> float:
    return metrics["eval_loss"]
