"""Training on cached features: for a while a Trainer reads features instead of images, and all else of it is as it was.

The same Trainer object trains the same model with the user's callbacks, optimizer, loss function and sampler; only its
datasets hold features, and the model takes them: `model(features=..., labels=...)` is its decision layer's answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers import Trainer

from bndl_hf.model.modeling_bndl import BNDLForImageClassification
from bndl_hf.training.collating import FeatureBatch
from bndl_hf.training.feature_views import cached_views
from bndl_hf.training.features import FeatureDataset, cached_features


@contextmanager
def training_on_features(trainer: Trainer) -> Iterator[None]:
    """Within the block, `trainer` trains and evaluates on the features of its datasets, computed first where needed.

    Raises:
        ValueError: the model has no backbone, or a dataset cannot be cached (see `cached_features`).
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    if not isinstance(model, BNDLForImageClassification):
        raise ValueError(f"cache_features=True needs a BNDLForImageClassification, not a {type(model).__name__}.")
    collate: Any = trainer.data_collator
    arguments: Any = trainer.args

    def cached(dataset: Any, name: str) -> FeatureDataset:
        compute = cached_views if name == "train" and arguments.feature_views > 1 else cached_features
        return compute(model, dataset, arguments, trainer.processing_class, collate, name)

    train_dataset: Any = cached(trainer.train_dataset, "train")
    eval_dataset: Any = trainer.eval_dataset
    if arguments.eval_strategy == "no" and not arguments.eval_on_start and not arguments.tune_head:
        pass  # a callback that evaluates all the same does so on images
    elif isinstance(eval_dataset, dict):
        eval_dataset = {name: cached(dataset, name) for name, dataset in eval_dataset.items()}
    elif eval_dataset is not None:
        eval_dataset = cached(eval_dataset, "eval")

    in_memory = {  # reading rows of a tensor needs no worker
        "dataloader_num_workers": 0,
        "dataloader_persistent_workers": False,
        "dataloader_prefetch_factor": None,
        "dataloader_multiprocessing_context": None,
    }
    with (
        _attributes(
            trainer,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            data_collator=lambda rows: rows if isinstance(rows, FeatureBatch) else collate(rows),
        ),
        _attributes(trainer.args, **in_memory),
        _reading_features(model),
    ):
        try:
            yield
        finally:
            # Accelerate may have wrapped the forward that goes now; the next evaluation prepares the model again.
            trainer.accelerator.free_memory()


@contextmanager
def _attributes(owner: Any, **values: Any) -> Iterator[None]:
    before = {name: getattr(owner, name) for name in values}
    try:
        for name, value in values.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


@contextmanager
def _reading_features(model: BNDLForImageClassification) -> Iterator[None]:
    """Within the block `model` also takes features; images as ever."""
    plain, of_its_own = model.forward, model.__dict__.get("forward")

    def forward(
        pixel_values: Any = None,
        labels: Tensor | None = None,
        *args: Any,
        features: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        if features is None:
            return plain(pixel_values, labels, *args, **kwargs)
        output = model.decision_layer(features, labels)
        return output if kwargs.get("return_dict") is not False else output.to_tuple()

    model.__dict__.update(forward=forward, main_input_name="features")
    try:
        yield
    finally:
        del model.__dict__["forward"], model.__dict__["main_input_name"]
        if of_its_own is not None:
            model.__dict__["forward"] = of_its_own
