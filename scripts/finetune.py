r"""Give an image classifier a Bayesian non-negative decision layer and train it.

    python scripts/finetune.py --model_name_or_path google/vit-base-patch16-224 --dataset_name uoft-cs/cifar10 \
        --freeze_backbone --cache_features --output_dir outputs/vit-cifar10

    accelerate launch scripts/finetune.py --model_name_or_path microsoft/resnet-50 --dataset_name ./images \
        --learning_rate 1e-4 --num_train_epochs 10 --output_dir outputs/resnet

    python scripts/finetune.py --model_type vit --config_overrides '{"hidden_size": 192, "num_hidden_layers": 6}' \
        --image_size 32 --dataset_name uoft-cs/cifar10 --learning_rate 1e-3 --output_dir outputs/vit-small

    python scripts/finetune.py --model_name_or_path google/vit-base-patch16-224 --dataset_name ./images \
        --validation_fraction 0.15 --early_stopping_patience 3 --class_weights balanced --output_dir outputs/vit

The last one holds 15 % of the training images out, stops when three evaluations in a row bring no smaller loss on them,
keeps the best model, and lets every class count the same, however many images it has. Photographs of few kinds (some
hundreds of images) want more epochs: a new decision layer needs some 200 optimizer steps, and the script says so.

With --cache_features the decision layer is chosen, not just trained: on the validation images, or else on folds of the
training images, the layer that training makes, the non-negative equivalent of logistic regression and both as one layer
meet; one is kept, and the same images give its temperature. It takes seconds to minutes; the run prints what was tried,
and results.json has it under "tuning". Flags of the decision layer such as --loading_density or --projection are kept
by every candidate. --tune_head false trains once, as does anything a search knows nothing of (class weights, early
stopping, ...), and the run says so.

With --cache_features --feature_views 4 the cache keeps four views of every training image, the plain one and three
under --augmentation; the backbone runs over each of them once, and an epoch reads one view of every image. Pass
--augmentation crop_flip for photographs: features of strong crops did harm (docs/training.md).

A run that was interrupted goes on from its last whole checkpoint when started again with the same command.
--push_to_hub --hub_model_id alice/vit-bndl publishes every saved checkpoint and, at the end, the model with its
results; scripts/publish.py does it later, and shows beforehand what would be sent.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import CommitInfo
from transformers import (
    AutoConfig,
    EarlyStoppingCallback,
    HfArgumentParser,
    PretrainedConfig,
    set_seed,
)
from transformers.trainer_utils import IntervalStrategy
from transformers.utils import logging

from bndl_hf import BNDLTrainer, BNDLTrainingArguments
from bndl_hf.data.classes import known_classes
from bndl_hf.data.columns import ROW_COLUMN
from bndl_hf.data.decision_images import hold_out_for_decisions
from bndl_hf.data.image_dataset import DataArguments, ImageDataset, collate, load_image_dataset
from bndl_hf.data.pixel_values import RGBImages
from bndl_hf.data.unlabelled import load_unlabelled_images, parse_named
from bndl_hf.hub import create_model_card
from bndl_hf.interpretability import collect_factor_thumbnails
from bndl_hf.training.arguments import HEAD_DEFAULTS
from bndl_hf.training.checkpoint_folders import last_checkpoint
from bndl_hf.training.class_balance import count_classes, describe_classes, known_labels
from bndl_hf.training.deciding import decide, judge_verdicts
from bndl_hf.training.recalibrating import recalibrate
from bndl_hf.training.starting import ModelArguments, build_model
from bndl_hf.training.tuning_report import TuningReport, tuning_entry
from bndl_hf.training.whole_training import suit_whole_training
from bndl_hf.uncertainty import describe_verdicts, images_needed
from bndl_hf.utils.command_line import HelpFormatter, recorded_command, run
from bndl_hf.utils.privacy import public_text
from bndl_hf.utils.results import describe_environment, write_json

logger = logging.get_logger(__name__)

DELTA = 0.05  # chance, over held-out images, that the promise of --decision_risk fails
FINETUNE_DEFAULTS: dict[str, Any] = {
    "output_dir": "outputs/finetune",
    "per_device_train_batch_size": 128,  # the paper's, App. A.1
    "per_device_eval_batch_size": 256,
    "lr_scheduler_type": "cosine",
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "num_eval_samples": 20,  # the paper's S, App. A.1
    "report_to": "none",
    "log_level_replica": "error",  # of several processes one speaks
}


@dataclass
class RunArguments:
    """How the run starts and what it leaves."""

    fit_temperature: bool = field(
        default=True, metadata={"help": "Give the model the temperature of its validation images, where it has any."}
    )
    decision_fraction: float = field(
        default=0.1,
        metadata={
            "help": "Share of the training images held out for the verdicts (sure, torn, unfamiliar), the same of "
            "every class, and at least as many as --decision_risk needs, where there are no validation images; those "
            "serve otherwise. 0: no verdicts without validation images."
        },
    )
    decision_split: str | None = field(default=None, metadata={"help": "A split for the verdicts instead."})
    decision_risk: float = field(
        default=0.02, metadata={"help": "Accepted share of errors among the answers called sure, in (0, 1)."}
    )
    ood_datasets: list[str] = field(
        default_factory=list,
        metadata={"help": "NAME=DATASET ...: images that belong to no class; how many are called unfamiliar?"},
    )
    restart: bool = field(default=False, metadata={"help": "Ignore the checkpoints in output_dir and start afresh."})
    publish_thumbnails: bool = field(
        default=False,
        metadata={
            "help": "Store (and with --push_to_hub publish) thumbnails of the training images that show each factor "
            "most, for figures and pages: small copies of those images, which must be yours to publish."
        },
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Stop after this many evaluations without a better --metric_for_best_model (the loss on the "
            "validation images unless you name another), and keep the best model. Needs validation images."
        },
    )

    def __post_init__(self) -> None:
        if not 0 < self.decision_risk < 1:
            raise ValueError(
                f"--decision_risk {self.decision_risk} is no share of errors in (0, 1); 0.02 accepts one in fifty."
            )
        parse_named(self.ood_datasets)
        if self.early_stopping_patience is not None and self.early_stopping_patience < 1:
            raise ValueError(
                f"--early_stopping_patience {self.early_stopping_patience} would stop before it starts; pass 1 or more."
            )


def parse(argv: list[str]) -> tuple[ModelArguments, DataArguments, BNDLTrainingArguments, RunArguments]:
    """The command line, with defaults that suit fine-tuning (or head-only training, with --cache_features)."""
    parser = HfArgumentParser(
        (ModelArguments, DataArguments, BNDLTrainingArguments, RunArguments),
        usage="finetune.py (--model_name_or_path NAME | --model_type TYPE) --dataset_name NAME [any flag below]",
        description=__doc__,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--no_tune_head", dest="tune_head", action="store_false", help="Same as --tune_head false.")
    parser.set_defaults(**FINETUNE_DEFAULTS, **choosing_defaults(argv), tune_head=None)
    if "--cache_features" in argv:
        ours = {"freeze_backbone": True, "per_device_eval_batch_size": FINETUNE_DEFAULTS["per_device_eval_batch_size"]}
        parser.set_defaults(**{**HEAD_DEFAULTS, **ours})
    if any(flag.split("=")[0] == "--num_train_epochs" for flag in argv):
        parser.set_defaults(tune_min_steps=0)  # so many, then
    return parser.parse_args_into_dataclasses(argv)


def choosing_defaults(argv: list[str]) -> dict[str, Any]:
    """Defaults that go with validation images: evaluate whenever a checkpoint is saved; keep the best where asked."""
    given = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    names = ("validation_fraction", "validation_split", "early_stopping_patience", "save_strategy", "save_steps")
    for name in names:
        given.add_argument(f"--{name}")
    given.add_argument("--load_best_model_at_end", nargs="?", const="True")
    values = vars(given.parse_known_args(argv)[0])
    stops_early = values["early_stopping_patience"] is not None
    keeps_best = stops_early or (values["load_best_model_at_end"] or "false").lower() in ("true", "1", "yes")
    if not (keeps_best or values["validation_fraction"] or values["validation_split"]):
        return {}
    strategy = values["save_strategy"] if values["save_strategy"] in ("steps", "epoch") else "epoch"
    defaults: dict[str, Any] = {"eval_strategy": strategy}
    if strategy == "steps" and values["save_steps"]:
        defaults["eval_steps"] = float(values["save_steps"])
    if stops_early:
        # ... and a run that is resumed has not forgotten for how long there was nothing better.
        defaults.update(load_best_model_at_end=True, restore_callback_states_from_checkpoint=True)
    return defaults


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Train, evaluate on the test split, and write model, processor, results.json and a card."""
    argv = sys.argv[1:] if argv is None else argv
    model_arguments, data_arguments, arguments, run_arguments = parse(argv)
    set_seed(arguments.seed)
    logging.get_logger("bndl_hf").setLevel(arguments.get_process_log_level())
    started = time.perf_counter()

    name = model_arguments.model_name_or_path
    config = None if name is None else AutoConfig.from_pretrained(name)
    names = known_classes(config) if config is not None and config.model_type == "bndl" else None
    with arguments.main_process_first(desc="reading the dataset"):
        dataset = load_image_dataset(data_arguments, label_names=names)
    dataset, decision_images = hold_out_for_decisions(
        dataset,
        data_arguments,
        run_arguments.decision_fraction,
        run_arguments.decision_split,
        images_needed(run_arguments.decision_risk, DELTA),
    )
    if dataset.validation is None and arguments.eval_strategy != "no":
        strategy = IntervalStrategy(arguments.eval_strategy).value
        raise ValueError(
            f"{data_arguments.dataset_name} has no validation images, and --eval_strategy {strategy}, which early "
            "stopping and the best model need, evaluates on them; pass --validation_fraction 0.1 to hold some of the "
            "training images out."
        )
    model, processor = build_model(model_arguments, dataset)
    if not arguments.freeze_backbone:
        suit_whole_training(model, model_arguments.config_fields())
    is_plain = arguments.cache_features and arguments.feature_views == 1
    augmentation = "none" if is_plain else data_arguments.augmentation
    train_dataset = dataset.with_pixel_values("train", processor, augmentation=augmentation)
    if arguments.process_index == 0:
        print(describe_images(dataset, decision_images, train_dataset, model.config))
    if dataset.validation is not None and arguments.eval_strategy == "no":
        arguments.eval_strategy = "epoch"
    trainer = BNDLTrainer(
        model=model,
        args=arguments,
        train_dataset=train_dataset,
        eval_dataset=None if dataset.validation is None else dataset.with_pixel_values("validation", processor),
        data_collator=collate,
        processing_class=processor,
        callbacks=[EarlyStoppingCallback(patience)] if (patience := run_arguments.early_stopping_patience) else None,
    )
    checkpoint = (
        None
        if run_arguments.restart
        else arguments.resume_from_checkpoint or last_checkpoint(str(arguments.output_dir))
    )
    if checkpoint is not None:
        logger.warning(f"Going on from {checkpoint}; pass --restart to start afresh.")
    elif arguments.cache_features:
        decide_on_tuning(trainer, model_arguments)
    train = trainer.train(resume_from_checkpoint=checkpoint)
    train_seconds = time.perf_counter() - started
    tuning = None if (found := tuning_entry(trainer.state.log_history)) is None else TuningReport.of(found)
    if tuning is not None and trainer.is_world_process_zero():
        print(f"\n{tuning}")

    temperature = tuning and tuning.temperature  # a search has fitted its own
    if dataset.validation is not None and tuning is None and run_arguments.fit_temperature:
        temperature = recalibrate(trainer).temperature
    trainer.remove_callback(EarlyStoppingCallback)  # the test images decide nothing
    decisions = None
    if decision_images is not None:
        decisions = decide(
            trainer,
            decision_images.with_pixel_values("validation", processor),
            dataset.with_pixel_values("train", processor),
            risk=run_arguments.decision_risk,
            delta=DELTA,
            recalibrate=run_arguments.fit_temperature,
        )
        temperature = model.config.temperature if decisions.temperature is not None else temperature
    trainer.save_model(_internal_call=True)  # published below, once its results are known

    part = next((p for p in ("test", "validation") if getattr(dataset, p) is not None), None)
    metrics = {}
    if part is not None:
        metrics = trainer.evaluate(dataset.with_pixel_values(part, processor), metric_key_prefix="test")
        metrics = {name.removeprefix("test_"): value for name, value in metrics.items()}
    verdicts: dict[str, Any] = {}
    if decisions is not None:
        ood = {
            other: load_unlabelled_images(source, processor, data_arguments)[0]
            for other, source in parse_named(run_arguments.ood_datasets).items()
        }
        found = {}
        if part == "test":
            found = judge_verdicts(trainer, dataset.with_pixel_values(part, processor), ood)
        verdicts = {"verdicts": {**found, "fitted": list(decisions.notes)}}
    results = {
        **metrics,
        **verdicts,
        "evaluated_on": None if part is None else public_text(dataset.where(part)),
        # Where a run was done before it was started again there is nothing to say of its training.
        "train_seconds": train_seconds if train.training_loss or (tuning and checkpoint is None) else None,
        "train_loss": train.training_loss or None,
        "tuning": None if tuning is None else tuning.to_dict(),
        "temperature": temperature,
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "command": recorded_command("scripts/finetune.py", argv),
        "seed": arguments.seed,
        "environment": {**describe_environment(), "processes": arguments.world_size},
    }
    facts: dict[str, Any] = {
        "base_model": model_arguments.model_name_or_path,
        "dataset_name": data_arguments.dataset_name,
        "split": "validation" if part and dataset.is_held_out(part) else None,  # else that of `evaluated_on`
        "training": trainer.training_facts(),
    }
    if trainer.is_world_process_zero():
        write_json(f"{arguments.output_dir}/results.json", results)
        create_model_card(model, results, **facts).save(f"{arguments.output_dir}/README.md")
    if run_arguments.publish_thumbnails and trainer.is_world_process_zero():
        facts["thumbnails"] = collect_factor_thumbnails(
            trainer.accelerator.unwrap_model(trainer.model).eval(),
            processor,
            dataset.train.with_transform(RGBImages(dataset.image_column, dataset.sources["train"], ROW_COLUMN)),
            image_column=dataset.image_column,
            batch_size=arguments.per_device_eval_batch_size,
            progress=not arguments.disable_tqdm,
        )
        facts["thumbnails"].save(str(arguments.output_dir))
    commit = trainer.push_to_hub(results=results, **facts) if arguments.push_to_hub else None
    if trainer.is_world_process_zero():
        print_summary(results, str(arguments.output_dir))
        if part == "validation" and (arguments.load_best_model_at_end or temperature is not None):
            print("The model or its temperature was chosen on the same images, so the numbers are a little too good.")
    if isinstance(commit, CommitInfo):
        print(f"Published: {commit.commit_url}")
    return results


def decide_on_tuning(trainer: BNDLTrainer, model_arguments: ModelArguments) -> None:
    """Tune the decision layer unless told otherwise, by a flag or by something that a search cannot do."""
    arguments = trainer.args
    reasons: list[str] = []
    if arguments.tune_head is not False:
        arguments.tune_keeps = sorted({*(arguments.tune_keeps or ()), *model_arguments.config_fields()})
    if arguments.tune_head is None:
        reasons = trainer.why_not_tuned()
        arguments.tune_head = not reasons
    if reasons and trainer.is_world_process_zero():
        print(f"The decision layer is trained, not tuned (--tune_head), because {'; '.join(reasons)}.")


def describe_images(
    dataset: ImageDataset, decision_images: ImageDataset | None, train_dataset: Any, config: PretrainedConfig
) -> str:
    """How many images there are to learn from, of which classes, and how many to choose and to judge on."""
    labels = known_labels(train_dataset)
    assert labels is not None
    decisions = None if decision_images is dataset or decision_images is None else decision_images.validation
    parts = {"validation": dataset.validation, "decision": decisions, "test": dataset.test}
    held_out = [f"{len(part)} {name} images" for name, part in parts.items() if part is not None]
    line = describe_classes(count_classes(labels, len(dataset.label_names)), config)
    return line + (f" (and {', '.join(held_out)})" if held_out else "")


def print_summary(results: dict[str, Any], output_dir: str) -> None:
    """What was measured and where it lies."""
    speed = ("_per_second", "_time", "runtime", "epoch")
    again = ("loss", "nll")  # negative_log_likelihood under two more names, as a training log has it
    measured = {
        n: value
        for n, value in results.items()
        if isinstance(value, float) and not n.endswith(speed) and n not in again
    }
    print(f"\nOn {results['evaluated_on']}:" if results["evaluated_on"] else "\nNo split to evaluate on.")
    for name, value in measured.items():
        print(f"  {name:<{max(map(len, measured))}}  {value:.4f}")
    if verdicts := results.get("verdicts"):
        print("\nVerdicts:\n" + "\n".join(f"  {line}" for line in [*verdicts["fitted"], *describe_verdicts(verdicts)]))
    print(f"Model, processor, results.json and README.md are in {output_dir}")


if __name__ == "__main__":
    try:
        run(main)
    except KeyboardInterrupt:  # the Trainer has said how to go on
        raise SystemExit(130) from None
