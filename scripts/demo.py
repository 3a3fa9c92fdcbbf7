"""Train a small ResNet with BNDL on handwritten digits, in about a minute, and look at what it knows.

    python scripts/demo.py --output_dir outputs/demo

The digits (8 x 8 pixels) come with scikit-learn, the network starts from random weights, and everything that is printed
is measured on the 359 test images after training.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoModelForImageClassification, HfArgumentParser, ResNetConfig, set_seed
from transformers.trainer_callback import ProgressCallback
from transformers.utils import logging

from bndl_hf import BNDLConfig, BNDLForImageClassification, BNDLTrainer, BNDLTrainingArguments
from bndl_hf.data.decision_images import hold_out_for_decisions
from bndl_hf.data.image_dataset import DataArguments, collate, load_image_dataset, make_image_processor
from bndl_hf.hub import create_model_card
from bndl_hf.interpretability import choose_examples
from bndl_hf.model.factor_names import factor_names
from bndl_hf.model.verdicts import VERDICTS, as_percentage, listed
from bndl_hf.plots import ShownAnswer, verdict_sheet
from bndl_hf.uncertainty import MEASURES, fit_decisions, realised_verdicts, summarize
from bndl_hf.utils.command_line import run
from bndl_hf.utils.results import describe_environment, write_json

IMAGE_SIZE = 32  # pixels; the ResNet's first layers halve an image twice
NUM_FACTORS = 32
NUM_HELD_OUT = 300  # training images that the verdicts are fitted on


@dataclass
class DemoArguments:
    """What the demo can be told; without any of it, it does the right thing."""

    output_dir: str = field(
        default="outputs/demo",
        metadata={"help": "Folder for the model, results.json, README.md and predictions.png; overwritten."},
    )
    seed: int = field(default=0, metadata={"help": "Seed of the weights, the order of the images and their shifts."})
    num_train_epochs: float = field(default=20, metadata={"help": "Passes over the 1,438 training images."})
    max_steps: int = field(
        default=-1, metadata={"help": "Stop after this many steps of 64 images instead; -1: by num_train_epochs."}
    )
    figure: bool = field(default=True, metadata={"help": "Draw predictions.png, which needs matplotlib."})
    page: bool = field(default=True, metadata={"help": "Write page.html, on which a browser answers by itself."})

    def __post_init__(self) -> None:
        if self.num_train_epochs <= 0 or self.max_steps == 0:
            raise ValueError(
                f"num_train_epochs={self.num_train_epochs} with max_steps={self.max_steps} trains nothing; pass a "
                "number above zero."
            )


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Train, judge, save, print; returns what is in results.json."""
    (arguments,) = HfArgumentParser(DemoArguments, description=__doc__).parse_args_into_dataclasses(argv)
    output_dir = prepare(arguments)
    # So small a network gains a tenth from a second thread, and waits for minutes if that one is kept from running.
    torch.set_num_threads(1)
    started = time.perf_counter()
    set_seed(arguments.seed)

    data_arguments = DataArguments("digits")
    data = load_image_dataset(data_arguments)
    data, held_out = hold_out_for_decisions(data, data_arguments, at_least=NUM_HELD_OUT)
    assert held_out is not None
    processor = make_image_processor(IMAGE_SIZE)
    model = build_model(data.label_names)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    print("A small ResNet with a Bayesian non-negative decision layer, trained on handwritten digits")
    print(
        f"{len(data.train):,} training images and {NUM_HELD_OUT} to decide on, {num_parameters:,} parameters, seed "
        f"{arguments.seed}\n",
        flush=True,
    )
    train(model, data.with_pixel_values("train", processor, "shift"), arguments)
    decisions = fit_decisions(
        model,
        [collate(list(held_out.with_pixel_values("validation", processor)))],
        training=[collate(list(data.with_pixel_values("train", processor)))],
        progress=False,
    )
    model.set_decisions(decisions)
    train_seconds = time.perf_counter() - started

    test = collate(list(data.with_pixel_values("test", processor)))
    pixel_values, labels = test["pixel_values"], test["labels"]
    prediction = model.predict(pixel_values)
    strange = shuffled(pixel_values)  # as bright and as sure as the others, and no digits
    on_strange = model.predict(strange)
    with torch.no_grad():
        factor_scores = model(pixel_values).factor_scores  # [B, K]
    loadings = model.decision_layer.factor_loadings.detach()
    parts = factor_scores * loadings.T[prediction.predicted_labels]  # [B, K]
    results: dict[str, Any] = {
        **summarize(prediction.probs, labels, prediction.p_value, model.config.certainty_threshold),
        "verdicts": {
            "fitted": list(decisions.notes),
            **realised_verdicts(prediction, labels, {"shuffled pixels": on_strange}),
        },
        "sparsity": model.decision_layer.sparsity(),
        "num_active_factors": int((loadings > 1e-5).any(dim=1).sum()),
        "median_factors_per_answer": (parts > 0).sum(dim=1).median().item(),
        "num_factors": model.config.num_factors,
        "num_parameters": num_parameters,
        "num_samples": model.config.num_samples,
        "threshold": model.config.certainty_threshold,
        "cost": measure_cost(model, pixel_values),
        "evaluated_on": data.sources["test"],
        "num_images": len(labels),
        "num_training_images": len(data.train),
        "num_held_out": NUM_HELD_OUT,
        "train_seconds": train_seconds,
        "num_train_epochs": arguments.num_train_epochs,
        "max_steps": arguments.max_steps,
        "seed": arguments.seed,
        "environment": describe_environment(),
    }

    chosen = choose_examples(prediction, {"shuffled pixels": on_strange})
    every = {"": pixel_values, "shuffled pixels": strange}
    examples = torch.stack([every[one.dataset][one.row] for one in chosen])  # [6, 3, H, W]
    pictures = save_examples(output_dir / "examples", [one.kind for one in chosen], examples)
    figures = ["predictions.png"] if arguments.figure else []
    for name in figures:
        draw(model, examples, [None if one.dataset else int(labels[one.row]) for one in chosen], output_dir / name)
    model.save_pretrained(output_dir)
    processor.save_pretrained(output_dir)
    write_json(output_dir / "results.json", results)
    card = create_model_card(model, results, dataset_name="digits", figures=figures, model_id="bndl-digits-demo")
    card.save(output_dir / "README.md")
    print(summary(results))
    print("\nThe surest, the most torn and the most unfamiliar of these images and of the same with shuffled pixels:")
    for name, sentence in zip(pictures, model.predict(examples).describe(model.config.id2label), strict=True):
        print(f"  {name + '.png':<18}{sentence}")
    page = write_page(model, processor, pictures, output_dir / "page.html") if arguments.page else ""
    print(ending(arguments.output_dir, figures))
    print(f"\n{page}" if page else "", end="\n" if page else "")
    return results


def prepare(arguments: DemoArguments) -> Path:
    """The output folder, known to be writable; everything that could stop the demo is found before it trains.

    Raises:
        ValueError: the folder cannot be written to, or matplotlib is missing.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    if arguments.figure and find_spec("matplotlib") is None:
        raise ValueError(
            "predictions.png needs matplotlib, which is not installed. Install it: pip install bndl-hf[plots]; or pass "
            "--no_figure."
        )
    output_dir = Path(arguments.output_dir)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        probe = output_dir / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"output_dir={arguments.output_dir!r} cannot be written to ({error.strerror}). Pass another folder as "
            "--output_dir."
        ) from error
    return output_dir


def build_model(label_names: list[str]) -> BNDLForImageClassification:
    """A ResNet of two basic blocks, its last layer replaced by BNDL: the default preset with half as many factors.

    With 32 factors five make up 78 % of a typical logit, with 64 only 62 %; accuracy is the same (chosen in `train`).
    """
    backbone_config = ResNetConfig(
        num_channels=3,
        embedding_size=32,
        hidden_sizes=[32, 64],
        depths=[1, 1],
        layer_type="basic",
        id2label=dict(enumerate(label_names)),
        label2id={name: index for index, name in enumerate(label_names)},
    )
    return BNDLForImageClassification(BNDLConfig.from_backbone_config(backbone_config, num_factors=NUM_FACTORS))


def train(model: BNDLForImageClassification, dataset: Any, arguments: DemoArguments) -> None:
    """End to end, backbone and decision layer together. The recipe was chosen on a fifth of the training images."""
    settings = BNDLTrainingArguments(
        output_dir=arguments.output_dir,
        num_train_epochs=arguments.num_train_epochs,
        max_steps=arguments.max_steps,
        per_device_train_batch_size=64,
        learning_rate=3e-3,
        decision_layer_learning_rate=1e-2,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,  # a fraction of all steps
        weight_decay=0.01,
        save_strategy="no",
        logging_steps=10,
        disable_tqdm=False,
        report_to="none",
        seed=arguments.seed,
    )
    trainer = BNDLTrainer(model=model, args=settings, train_dataset=dataset, data_collator=collate)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(LossInProgress)
    trainer.train()
    model.cpu().eval()


class LossInProgress(ProgressCallback):
    """The Trainer's progress bar with the loss in it, instead of a line for every entry of the log."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Show the loss, where there is a bar and a loss."""
        if self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix(loss=f"{logs['loss']:.3f}")


def measure_cost(model: BNDLForImageClassification, pixel_values: Tensor, repeats: int = 10) -> dict[str, float]:
    """Median processor seconds for all images: the ResNet with a dense last layer, predict, and predict with draws."""
    dense = AutoModelForImageClassification.from_config(model.config.backbone_config).eval()
    dense.load_state_dict(model.backbone.state_dict(), strict=False)  # all but the last layer
    runs: dict[str, Callable[[], Any]] = {
        "dense": lambda: dense(pixel_values),
        "exact": lambda: model.predict(pixel_values),
        "monte_carlo": lambda: model.predict(pixel_values, method="monte_carlo"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with torch.no_grad():
        for repeat in tqdm(range(repeats + 1), desc="Timing", leave=False):
            for name, run in runs.items():  # in turn, so that a busy machine slows all three alike
                start = time.process_time()
                run()
                if repeat:  # the first one warms up
                    seconds[name].append(time.process_time() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        **{f"{name}_seconds": median for name, median in medians.items()},
        **{f"{name}_ratio": median / medians["dense"] for name, median in medians.items()},
    }


def shuffled(pixel_values: Tensor) -> Tensor:
    """The same pixels [B, 3, H, W] in another place, the same for all images and channels."""
    places = torch.randperm(pixel_values[0, 0].numel(), generator=torch.Generator().manual_seed(0))
    return pixel_values.flatten(2)[..., places].view_as(pixel_values)


def save_examples(folder: Path, kinds: list[str], pixel_values: Tensor) -> dict[str, Path]:
    """One PNG file for each image [B, 3, H, W]: sure_1.png, torn_1.png, unfamiliar_1.png, ..."""
    folder.mkdir(exist_ok=True)
    files: dict[str, Path] = {}
    for kind, image in zip(kinds, grey(pixel_values), strict=True):
        word = {"surest": "sure", "most torn": "torn", "most unfamiliar": "unfamiliar"}[kind]
        name = f"{word}_{1 + sum(other.startswith(word) for other in files)}"
        files[name] = folder / f"{name}.png"
        Image.fromarray((255 * image).round().to(torch.uint8).numpy()).save(files[name])
    return files


def grey(pixel_values: Tensor) -> Tensor:
    """Brightness in [0, 1] of pixel values [B, 3, H, W]: the processor's mean and standard deviation of 0.5 undone."""
    return (pixel_values[:, 0] * 0.5 + 0.5).clamp(0, 1)


def draw(model: BNDLForImageClassification, pixel_values: Tensor, truth: list[int | None], path: Path) -> None:
    """What the model says of the examples [B, 3, H, W]: its verdict, and the parts of its answer."""
    prediction = model.predict(pixel_values)
    evidence = model.explain(pixel_values, target=prediction.predicted_labels, top_k=4)
    names, id2label = factor_names(model), model.config.id2label
    assert prediction.verdict is not None
    assert prediction.prediction_sets is not None
    answers = []
    for i, image in enumerate(grey(pixel_values)):
        verdict, top = VERDICTS[prediction.verdict[i]], int(prediction.predicted_labels[i])
        order = prediction.probs[i].argsort(descending=True).tolist()
        between = [str(id2label[c]) for c in order if prediction.prediction_sets[i, c]]
        notes = [f"between {listed(between)}"] if verdict == "torn" and len(between) > 1 else []
        known = truth[i]
        notes.append("no digit: shuffled pixels" if known is None else f"truly {id2label[known]}")
        parts = zip(evidence.factors[i].tolist(), evidence.contributions[i].tolist(), strict=True)
        answers.append(
            ShownAnswer(
                image.numpy(),
                str(id2label[top]),
                as_percentage(prediction.probs[i, top].item()),
                verdict,
                notes,
                [(factor, names[factor], part) for factor, part in parts],
                evidence.rest[i].item(),
                evidence.bias[i].item(),
            )
        )
    verdict_sheet(answers, columns=3).savefig(path)


def write_page(model: BNDLForImageClassification, processor: Any, pictures: dict[str, Path], path: Path) -> str:
    """The page that answers in the browser, or why there is none, as a line to print."""
    if find_spec("onnxscript") is None or find_spec("onnxruntime") is None:
        return "No page: it needs pip install bndl-hf[export]."
    from bndl_hf.export import export_page

    examples = {name.replace("_", " "): str(file) for name, file in pictures.items()}
    page = export_page(model, processor, examples, path, single_file=True, title="Which digit is it, and how sure?")
    needs = "" if page.is_runtime_embedded else " (it loads its runtime from a CDN: no npm was found here)"
    return f"Try it in a browser, it opens by double click: {path} ({page.size / 1e6:.1f} MB){needs}"


def summary(results: dict[str, Any]) -> str:
    """Everything that was measured, on one screen."""
    n, K, cost = results["num_images"], results["num_factors"], results["cost"]
    verdicts = results["verdicts"]
    errors, strange = verdicts["errors_among_sure"], verdicts["unfamiliar"]["shuffled pixels"]
    wrong = "" if errors is None else f", {errors:.1%} of these answers wrong"

    def line(label: str, value: Any, meaning: str) -> str:
        return f"  {label:<26}{value:>8}  {meaning}"

    def measured(name: str) -> str:
        return line(MEASURES[name].label, MEASURES[name].write(results[name]), MEASURES[name].describe())

    def timing(what: str, name: str) -> str:
        return line(what, f"{1e3 * cost[f'{name}_seconds']:.1f} ms", f"{cost[f'{name}_ratio']:.2f} times")

    return "\n".join(
        [
            f"\nOn {n} test images, with one exact prediction each",
            *map(measured, ("accuracy", "negative_log_likelihood", "expected_calibration_error")),
            f"\nDoes it keep its promise: at most {as_percentage(verdicts['risk'])} of sure answers wrong?",
            line("Sure", f"{verdicts['share_sure']:.1%}", "of the images" + wrong),
            line(
                "Torn",
                f"{verdicts['share_torn']:.1%}",
                f"between {verdicts['mean_set_size'] or 0:.1f} classes on average",
            ),
            line(
                "Unfamiliar", f"{verdicts['share_unfamiliar']:.1%}", f"{strange:.1%} of the same with shuffled pixels"
            ),
            "\nWhat a decision is made of: non-negative parts",
            line("Active factors", results["num_active_factors"], f"of {K}"),
            line("Factors per answer", results["median_factors_per_answer"], f"of {K}, the median"),
            measured("sparsity"),
            f"\nWhat uncertainty costs (processor time for {n} images at once, median of 10)",
            timing("Dense last layer", "dense"),
            timing("BNDL, exact", "exact"),
            timing(f"BNDL, {results['num_samples']} draws", "monte_carlo"),
        ]
    )


def ending(output_dir: str, figures: list[str]) -> str:
    """Where things are, and three lines to go on with."""
    files = ", ".join([*figures, "examples/", "results.json", "README.md"])
    return (
        f"\nModel, processor, {files} are in {output_dir}"
        + "\n\nLoad it:"
        + "\n  import bndl_hf; from transformers import AutoImageProcessor, AutoModelForImageClassification"
        + f'\n  model = AutoModelForImageClassification.from_pretrained("{output_dir}")'
        + f'\n  processor = AutoImageProcessor.from_pretrained("{output_dir}")'
    )


if __name__ == "__main__":
    run(main)
