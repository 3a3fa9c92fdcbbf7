"""`tune_head`: in place of its epochs, a Trainer on cached features searches for a decision layer on held-out rows.

The search is that of tuning.py: the layer which this Trainer would train, with its own arguments, and its convex rival.
All around it stays a Trainer's life: callbacks, one evaluation and one checkpoint with the winner in it, and a log with
an entry that says what was tried (tuning_report.py). The whole search counts as the steps that were planned.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from accelerate.utils import broadcast_object_list
from torch import Tensor
from tqdm.auto import tqdm
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback
from transformers.trainer_utils import IntervalStrategy, SaveStrategy
from transformers.utils import logging

from bndl_hf.model.configuration_bndl import BNDLConfig
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.model.modeling_bndl import BNDLForImageClassification
from bndl_hf.model.posterior_head import PosteriorHead
from bndl_hf.training.arguments import BNDLTrainingArguments
from bndl_hf.training.candidates import Candidate
from bndl_hf.training.class_balance import known_labels
from bndl_hf.training.density import default_config, sparse_layer, wanted_density
from bndl_hf.training.feature_views import FeatureViews
from bndl_hf.training.features import FeatureDataset
from bndl_hf.training.layer_training import enough_epochs, learning_rate_of, train_layer
from bndl_hf.training.logistic_regression import Split
from bndl_hf.training.pruning import LoadingPruner
from bndl_hf.training.trained_layer import Training
from bndl_hf.training.tuning import tune_decision_layer
from bndl_hf.training.tuning_report import ENTRY, TuningReport, tuning_of_checkpoint

logger = logging.get_logger(__name__)

# What a subclass or a callback may do at every step, and a search without steps of its own cannot.
_METHODS = ("compute_loss", "training_step", "create_optimizer", "get_train_dataloader", "_get_train_sampler")
_STEP_EVENTS = ("on_step_begin", "on_step_end", "on_substep_end", "on_pre_optimizer_step", "on_optimizer_step")
# Fields of the configuration that belong to the backbone, not to the decision layer.
_NOT_OF_THE_LAYER = ("backbone_config", "head_name")


class TunedTraining(Trainer):
    """The searching half of `BNDLTrainer`; without `tune_head` it changes nothing."""

    model: Any
    args: Any
    lr_scheduler: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._has_own_optimizer = self.optimizer is not None or self.optimizer_cls_and_kwargs is not None

    @property
    def _plain_class(self) -> type[Trainer]:
        """`BNDLTrainer`, whatever subclass of it this is."""
        return next(kind for kind in type(self).__mro__ if TunedTraining in kind.__bases__)

    def why_not_tuned(self) -> list[str]:
        """What this Trainer is asked to do that a search with `tune_head` cannot do, in words; [] where it can all."""
        reasons = []
        args, plain = self.args, self._plain_class
        if self.compute_loss_func is not None:
            reasons.append("compute_loss_func is a loss of its own")
        changed = [name for name in _METHODS if getattr(type(self), name) is not getattr(plain, name)]
        reasons += [f"{type(self).__name__} has a {name} of its own" for name in changed]
        if self._has_own_optimizer:
            reasons.append("it has an optimizer of its own")
        for name, without in (("class_weights", None), ("weighted_sampler", False), ("label_smoothing_factor", 0.0)):
            if getattr(args, name) != without:
                reasons.append(f"{name}={getattr(args, name)!r}")
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, EarlyStoppingCallback):
                reasons.append("early stopping judges epochs")
            elif _acts_on_steps(callback):
                reasons.append(f"the callback {type(callback).__name__} acts on steps")
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            reasons.append("its weights are sharded over processes")
        return reasons + self._why_not_sparse() + self._why_no_layer_of_its_own() + self._why_none_held_out()

    def _why_not_sparse(self) -> list[str]:
        """What a layer that is made sparse after the search (density.py) has no use for."""
        if not isinstance(self.model, BNDLForImageClassification) or wanted_density(self.model.config) is None:
            return []
        given = {name for name in ("kl_local_weight", "kl_global_weight") if getattr(self.args, name) is not None}
        given |= set(self.args.tune_keeps or ()) - {"preset", "num_factors", "loading_density"}
        given |= {"feature_views"} if self.args.feature_views > 1 else set()
        return [f"{name} is given for the preset {self.model.config.preset!r}" for name in sorted(given)]

    def _why_no_layer_of_its_own(self) -> list[str]:
        if self.model_init is not None or not isinstance(self.model, BNDLForImageClassification):
            return []  # a new model for every training; or one that cannot be trained on cached features
        layer = self.model.decision_layer
        if layer.config.num_training_images is not None:
            return ["its decision layer was trained before"]
        is_warm = layer.config.loading_init == "alive" and layer.raw_bias is not None and bool(layer.raw_bias.any())
        return ["its decision layer is warm-started"] if is_warm else []

    def _why_none_held_out(self) -> list[str]:
        labels = known_labels(self.train_dataset) if self.train_dataset is not None else None
        if labels is None or (self.eval_dataset is not None and not isinstance(self.eval_dataset, dict)):
            return []
        lonely = (labels.bincount() == 1).nonzero().flatten().tolist()
        names = getattr(getattr(self.model, "config", None), "id2label", None) or {}
        name = names.get(lonely[0], lonely[0]) if lonely else None
        return [f"class {name} has one training image, and there are no validation images"] if lonely else []

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> Any:
        """As `Trainer.train`.

        Raises:
            ValueError: `tune_head=True` beside something that a search cannot do.
        """
        if self.args.tune_head and not resume_from_checkpoint and (reasons := self.why_not_tuned()):
            raise ValueError(
                f"tune_head=True, but {'; '.join(reasons)}: the layers that a search compares know nothing of it. "
                "Leave one of them out."
            )
        return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    # ---- a search in place of the first epoch ----

    def _run_epoch(self, model: Any, epoch: int, **kwargs: Any) -> None:  # type: ignore[override]
        if not self.args.tune_head:
            return super()._run_epoch(model=model, epoch=epoch, **kwargs)
        report = self._tune()
        # Departure: transformers counts optimizer steps. Those of a search are not those that were planned.
        state = self.state
        state.global_step, state.epoch = state.max_steps, float(state.num_train_epochs)
        self._initial_global_step = self._globalstep_last_logged = state.global_step
        self.log(report.scalars())
        entry: dict[str, Any] = state.log_history[-1]
        entry[ENTRY] = {**report.to_dict(), "decision_layer": layer_fields(self.model.config)}
        if self.is_world_process_zero():
            logger.info(str(report))
        control = self.control = self.callback_handler.on_epoch_end(self.args, state, self.control)
        control.should_evaluate = self.args.eval_strategy != IntervalStrategy.NO
        control.should_save = self.args.save_strategy not in (SaveStrategy.NO, SaveStrategy.BEST)
        start_time, trial = kwargs["start_time"], kwargs["trial"]
        ignored = kwargs["ignore_keys_for_eval"]
        self._maybe_log_save_evaluate(self._tr_loss, None, model, trial, epoch, ignored, start_time)
        self.control.should_training_stop = True
        return None

    def _tune(self) -> TuningReport:
        """Search, and put the winner into the model."""
        train_dataset, eval_dataset = self.train_dataset, self.eval_dataset
        assert isinstance(train_dataset, FeatureDataset)
        report, held_out = TuningReport(), None
        if isinstance(eval_dataset, FeatureDataset):
            held_out = eval_dataset.features, eval_dataset.labels
        elif eval_dataset is not None:
            report.note("eval_dataset holds several datasets, so folds of the training images are held out.")
        wanted = copy.deepcopy(self.accelerator.unwrap_model(self.model).config)
        wanted.factor_names = None  # of factors that are no longer there
        keep = list(self.args.tune_keeps or ())
        if not wanted.kl_local_weight_is_measured:
            keep.append("kl_local_weight")
        density = wanted_density(wanted)
        # A layer of few factors has a dense one to learn from, and is what the search is for all the same.
        config, keep = (wanted, keep) if density is None else (default_config(wanted), [])
        x, y = train_dataset.features, train_dataset.labels
        views = train_dataset.views if isinstance(train_dataset, FeatureViews) else x[None]
        V = len(views)
        shows = not self.args.disable_tqdm and self.is_world_process_zero()
        with tempfile.TemporaryDirectory() as scratch, tqdm(desc="Tuning", unit=" steps", disable=not shows) as bar:
            progress = _Progress(bar)

            def fit(features: Tensor, labels: Tensor, config: BNDLConfig, epochs: float) -> PosteriorHead:
                images = labels[: len(labels) // V]  # the rows come view by view
                arguments = self._arguments_of_candidate(scratch, len(images), config, epochs)
                dataset = FeatureDataset(features, labels)
                if V > 1:
                    dataset = FeatureViews(features.unflatten(0, (V, -1)), images, self.args.seed)
                return train_layer(self._plain_class, arguments, config, dataset, callbacks=[progress])

            def make_sparse(layer: PosteriorHead, best: Candidate, splits: Sequence[Split]) -> PosteriorHead:
                assert density is not None
                bar.set_description("Tuning, making it sparse")
                return sparse_layer(layer, best.fit, splits, x.float(), wanted, density, self.args.seed)

            train = Training(fit, lambda rows, steps: self._enough_epochs(rows // V, steps), self._min_steps)
            then = None if density is None else make_sparse
            layer = tune_decision_layer(views, y, config, train, held_out, self.args.seed, keep, report, then)
            if density is not None and report.is_memorised:
                layer = train(x, y, wanted)
        if density is not None and not report.is_memorised:
            report.is_made_sparse, report.temperature = True, layer.config.temperature
            per_class = (layer.factor_loadings > 0).float().sum(0).mean()
            report.note(
                f"Made sparse for preset={wanted.preset!r}: {layer.config.num_factors} factors, {per_class:.3g} "
                f"loadings a class, temperature {report.temperature:.3f}."
            )
        return self._put_into_model(layer, report)

    def _put_into_model(self, layer: PosteriorHead, report: TuningReport) -> TuningReport:
        """Make `layer` the decision layer of the model, in every process that of the first one; its report."""
        weights = {name: tensor.cpu() for name, tensor in layer.state_dict().items()}
        shared: list[Any] = [layer_fields(layer.config), weights, report]
        if self.args.world_size > 1:
            broadcast_object_list(shared)  # what the first process found, whatever rounding did to the others
        values, weights, report = shared
        train_dataset: Any = self.train_dataset
        values["num_training_images"] = len(train_dataset)
        replace_decision_layer(self.accelerator.unwrap_model(self.model), values, weights)
        self.optimizer = self.lr_scheduler = None
        self.create_optimizer_and_scheduler(self.state.max_steps)
        self.callback_handler.optimizer, self.callback_handler.lr_scheduler = self.optimizer, self.lr_scheduler
        return report

    @property
    def _min_steps(self) -> int:
        """Optimizer steps of a candidate to begin with; 0 where `max_steps` says how many."""
        return 0 if self.args.max_steps > 0 else self.args.tune_min_steps

    def _enough_epochs(self, num_images: int, min_steps: int) -> float:
        args = self.args
        batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        return enough_epochs(num_images, batch, args.num_train_epochs, min_steps)

    def _arguments_of_candidate(
        self, output_dir: str, num_images: int, config: BNDLConfig, epochs: float
    ) -> BNDLTrainingArguments:
        """This Trainer's arguments, for a training that leaves nothing but its weights."""
        arguments = copy.copy(self.args)
        values = {
            "output_dir": output_dir,
            "num_train_epochs": epochs,
            "tune_head": None,
            "cache_features": False,
            "freeze_backbone": False,
            "activation_checkpointing": False,
            "eval_strategy": IntervalStrategy.NO,
            "eval_on_start": False,
            "logging_strategy": IntervalStrategy.NO,
            "save_strategy": SaveStrategy.NO,
            "load_best_model_at_end": False,
            "push_to_hub": False,
            "report_to": [],
            "disable_tqdm": True,
        }
        plain_rate = BNDLTrainingArguments.decision_layer_learning_rate
        if config.feature_noise > 0 and arguments.decision_layer_learning_rate == plain_rate:
            values["decision_layer_learning_rate"] = learning_rate_of(num_images)
        for name, value in values.items():
            setattr(arguments, name, value)
        return arguments

    # ---- going on from a checkpoint ----

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        tuning = tuning_of_checkpoint(resume_from_checkpoint)
        if tuning is None and self.args.tune_head:
            raise ValueError(
                f"tune_head=True, but {resume_from_checkpoint} is of a training without it; start afresh (--restart), "
                "or leave tune_head out to go on."
            )
        if tuning is not None:
            if self.args.tune_head is False:
                raise ValueError(
                    f"tune_head=False, but {resume_from_checkpoint} holds a tuned decision layer, which is not trained "
                    "on; start afresh (--restart), or leave tune_head out."
                )
            replace_decision_layer(self.accelerator.unwrap_model(self.model), tuning["decision_layer"])
        super()._load_from_checkpoint(resume_from_checkpoint, model)


class _Progress(TrainerCallback):
    """Shows the steps of one training on a bar for all of them."""

    def __init__(self, bar: Any) -> None:
        self._bar, self._count = bar, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._count += 1
        self._bar.set_description(f"Tuning, training {self._count}")
        self._bar.reset(total=state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._bar.update()


def _acts_on_steps(callback: TrainerCallback) -> bool:
    """Whether a callback of the user's does something at a step; those of transformers only report."""
    kind = type(callback)
    is_users = not kind.__module__.startswith("transformers.") and not isinstance(callback, LoadingPruner)
    return is_users and any(getattr(kind, name) is not getattr(TrainerCallback, name) for name in _STEP_EVENTS)


def layer_fields(config: BNDLConfig) -> dict[str, Any]:
    """The fields of a configuration that its decision layer is made and answers with."""
    base = {f.name for f in fields(BNDLConfig.__bases__[0])}
    names = [f.name for f in fields(BNDLConfig) if f.name not in base and f.name not in _NOT_OF_THE_LAYER]
    return {name: getattr(config, name) for name in names}


def replace_decision_layer(
    model: BNDLForImageClassification, values: dict[str, Any], weights: dict[str, Tensor] | None = None
) -> None:
    """Give a model another decision layer, its configuration following.

    Args:
        model: keeps its backbone, its labels and their order.
        values: of `layer_fields`.
        weights: of the new layer; None leaves them as they start.
    """
    for name, value in values.items():
        setattr(model.config, name, value)
    layer = BNDLDecisionLayer(model.config)
    if weights is not None:
        layer.load_state_dict(weights, strict=True)
    model.decision_layer = layer.to(model.decision_layer.raw_loadings.device).train(model.training)
