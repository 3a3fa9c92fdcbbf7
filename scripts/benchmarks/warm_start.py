"""What a few images add to a head that knows its classes already: its posterior, beside one temperature.

    python scripts/benchmarks/warm_start.py --model_name_or_path MODEL --dataset_name VALIDATION_IMAGES

The classifier's own last layer is warm-started as a decision layer. One half of the images, drawn anew with every seed,
fits what each method has to fit and chooses what it has to choose; the other half is reported. Finished runs are kept.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoImageProcessor

from bndl_hf import BNDLDecisionLayer, BNDLForImageClassification
from bndl_hf.data import DataArguments, collate, load_image_dataset
from bndl_hf.data.columns import column_values
from bndl_hf.data.image_dataset import read_splits
from bndl_hf.model.mean_field import Recalibration
from bndl_hf.training import BNDLTrainingArguments, fit_posterior
from bndl_hf.training.features import cached_features
from bndl_hf.training.logistic_regression import folds
from bndl_hf.uncertainty import fit_temperature, summarize
from bndl_hf.utils.command_line import run
from common import Arguments, finish_runs, mean_over_seeds, parse, table

FIGURES = ("accuracy", "negative_log_likelihood", "expected_calibration_error", "area_under_risk_coverage")
# Precisions of the Gaussian prior around the old weights, in features whose mean square norm is 1.
PRECISIONS = (300.0, 30.0, 10.0, 3.0)
NUM_FOLDS = 3
RIVAL = "temperature"


@dataclass(kw_only=True)
class WarmStartArguments(Arguments):
    """Which classifier, which images, how many halves."""

    model_name_or_path: str = field(metadata={"help": "Hub id or folder of an image classifier."})
    dataset_name: str = field(metadata={"help": "Images of the classes it knows, which it was not trained on."})
    test_split: str | None = field(default=None, metadata={"help": "Their split. Found: 'test', else 'validation'."})
    right_labels_column: str | None = field(
        default=None, metadata={"help": "Column with the list of all classes that are right, as ImageNet ReaL has it."}
    )
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4], metadata={"help": "Of the halves."})
    densities: list[float] = field(
        default_factory=lambda: [1.0, 0.9, 0.7], metadata={"help": "Shares of the loadings beside the chosen one."}
    )
    feature_cache_dir: str | None = field(default=None, metadata={"help": "Keep the features here."})
    output: str = field(default="outputs/bench/warm_start.json", metadata={"help": "JSON file, rewritten after a run."})


@dataclass
class Images:
    """Features [N, D], labels [N], classes that are right [N, C] (None: unknown)."""

    features: Tensor
    labels: Tensor
    right: Tensor | None

    def at(self, rows: Tensor) -> Images:
        """Some of them."""
        return Images(self.features[rows], self.labels[rows], None if self.right is None else self.right[rows])


def read(arguments: WarmStartArguments) -> tuple[BNDLDecisionLayer, Images]:
    """The warm-started layer, and the images through its backbone."""
    model = BNDLForImageClassification.from_backbone_pretrained(arguments.model_name_or_path, warm_start=True)
    processor = AutoImageProcessor.from_pretrained(arguments.model_name_or_path)
    data = DataArguments(dataset_name=arguments.dataset_name, test_split=arguments.test_split)
    dataset = load_image_dataset(data, evaluation_only=True)
    with tempfile.TemporaryDirectory() as scratch:
        settings = BNDLTrainingArguments(
            output_dir=scratch,
            feature_cache_dir=arguments.feature_cache_dir,
            feature_batch_size=64,
            disable_tqdm=arguments.quiet,
            report_to="none",
        )
        rows = cached_features(model, dataset.with_pixel_values("test", processor), settings, processor, collate)
    right = None
    if arguments.right_labels_column is not None:
        splits = read_splits(arguments.dataset_name, None)
        split = arguments.test_split or ("test" if "test" in splits else "validation")
        lists = column_values(splits[split], arguments.right_labels_column)
        right = torch.zeros(len(rows), model.config.num_labels, dtype=torch.bool)
        for row, classes in enumerate(lists):
            right[row, classes] = True
    return model.decision_layer.cpu(), Images(rows.features, rows.labels, right)


# ---- methods: a layer and the images to fit on, to log-probabilities of new features ----

Answer = Callable[[Tensor], Tensor]


def mean_logits(layer: BNDLDecisionLayer, features: Tensor) -> Tensor:
    """Those of the old head, but for a constant an image."""
    with torch.no_grad():
        logits = layer.scores(features).mean @ layer.factor_loadings + layer.bias
    return logits - logits.mean(1, keepdim=True)


def one_temperature(layer: BNDLDecisionLayer, images: Images) -> tuple[Answer, dict[str, float]]:
    """The rival: the old head's logits over one temperature (Guo et al. 2017)."""
    fitted = fit_temperature(layer.predict(images.features), images.labels, variance_scale=0.0)
    found = {"temperature": fitted.temperature}
    return lambda x: (mean_logits(layer, x) / fitted.temperature).log_softmax(-1), found


def equal_variance(layer: BNDLDecisionLayer, images: Images) -> tuple[Answer, dict[str, float]]:
    """A temperature and one Gaussian variance for all weights: a Laplace posterior whose prior outweighs the images."""

    size = layer.scores(images.features).mean.detach().square().sum(1).mean()

    def known(x: Tensor) -> tuple[Any, Tensor]:
        prediction = layer.predict(x)
        variance = layer.scores(x).mean.detach().square().sum(1, keepdim=True) / size  # of every gap, up to a factor
        return prediction, variance.expand_as(prediction.logits_mean)

    prediction, variance = known(images.features)
    prediction = dataclasses.replace(prediction, gap_variance=variance)
    fitted = fit_temperature(prediction, images.labels, variance_scale=None)

    def answer(x: Tensor) -> Tensor:
        prediction, variance = known(x)
        gaps = prediction.logits_mean - prediction.logits_mean.amax(1, keepdim=True)
        return Recalibration(fitted.temperature, fitted.variance_scale).log_probs(gaps, variance)

    return answer, {"temperature": fitted.temperature, "variance_scale": fitted.variance_scale}


def moved(kind: str) -> Callable[[BNDLDecisionLayer, Images], tuple[Answer, dict[str, float]]]:
    """A temperature, and weights (or biases) with a Gaussian prior around the old ones, its precision by folds."""

    def inputs(layer: BNDLDecisionLayer, x: Tensor) -> Tensor:
        return layer.scores(x).mean.detach() if kind == "weights" else torch.ones(len(x), 1)

    def fit(layer: BNDLDecisionLayer, images: Images) -> tuple[Answer, dict[str, float]]:
        x, logits = inputs(layer, images.features), mean_logits(layer, images.features)
        size = x.square().sum(1).mean().sqrt()
        losses = {}
        for precision in PRECISIONS:
            losses[precision] = 0.0
            for part in folds(torch.arange(len(x))[:, None], images.labels, NUM_FOLDS, seed=0):
                fit_on, held = part.features.flatten(), part.held_features.flatten()
                scale, change = _map(x[fit_on] / size, logits[fit_on], part.labels, precision)
                held_logits = scale * logits[held] + x[held] / size @ change
                losses[precision] += F.cross_entropy(held_logits, part.held_labels, reduction="sum").item()
        precision = min(losses, key=lambda one: losses[one])
        scale, change = _map(x / size, logits, images.labels, precision)

        def answer(new: Tensor) -> Tensor:
            return (scale * mean_logits(layer, new) + inputs(layer, new) / size @ change).log_softmax(-1)

        return answer, {"temperature": 1 / scale.item(), "prior_precision": precision}

    return fit


def _map(x: Tensor, logits: Tensor, labels: Tensor, precision: float) -> tuple[Tensor, Tensor]:
    """Scale s and change of the weights W [D, C] of least sum CE(s logits + x W) + precision / 2 |W|^2."""
    gram = x @ x.T
    # The optimum lies in the span of the images: with x x^T = R R^T it is W = x^T R^-T B, and |W| = |B|.
    root = torch.linalg.cholesky(gram.double() + 1e-6 * gram.trace() / len(x) * torch.eye(len(x)).double())
    root = root.float() if x.shape[1] > 1 else x
    log_scale = torch.zeros((), requires_grad=True)
    change = torch.zeros(root.shape[1], logits.shape[1], requires_grad=True)
    search = torch.optim.LBFGS([log_scale, change], max_iter=60, line_search_fn="strong_wolfe", tolerance_change=1e-7)

    def objective() -> Tensor:
        search.zero_grad()
        loss = F.cross_entropy(log_scale.exp() * logits + root @ change, labels)
        loss = loss + precision / (2 * len(x)) * change.square().sum()
        loss.backward()
        return loss

    search.step(objective)
    found = change.detach()
    if x.shape[1] > 1:
        found = x.T @ torch.linalg.solve_triangular(root.T.double(), found.double(), upper=True).float()
    return log_scale.detach().exp(), found


def posterior(density: float | None) -> Callable[[BNDLDecisionLayer, Images], tuple[Answer, dict[str, float]]]:
    """`fit_posterior`."""

    def fit(layer: BNDLDecisionLayer, images: Images) -> tuple[Answer, dict[str, float]]:
        layer = copy.deepcopy(layer)
        fitted = fit_posterior(layer, images.features, images.labels, density=density)
        names = ("temperature", "loading_concentration", "density")
        return lambda x: layer.predict(x).probs.log(), {name: getattr(fitted, name) for name in names}

    return fit


def methods(arguments: WarmStartArguments) -> dict[str, Any]:
    """By name, the rival first."""
    return {
        RIVAL: one_temperature,
        "equal variance": equal_variance,
        "class biases": moved("biases"),
        "weights": moved("weights"),
        "posterior": posterior(None),
        **{f"posterior, density {share:g}": posterior(share) for share in arguments.densities},
    }


# ---- judging ----


def judge(log_probs: Tensor, images: Images) -> dict[str, float]:
    """Figures of the reported half; `real_` ones count every class that is right, on images that have one."""
    probs = log_probs.exp()
    found = summarize(probs, images.labels, 1 - probs.amax(1))  # instead of a p-value, which none of the figures need
    figures = {name: found[name] for name in FIGURES}
    if images.right is not None:
        has_one = images.right.any(1)
        right, log_probs = images.right[has_one], log_probs[has_one]
        figures["real_accuracy"] = right.gather(1, log_probs.argmax(1, keepdim=True)).float().mean().item()
        figures["real_log_loss"] = -log_probs.masked_fill(~right, -math.inf).logsumexp(1).mean().item()
    return figures


def compare(arguments: WarmStartArguments) -> list[dict[str, Any]]:
    """Every method on every seed's halves."""
    layer, images = read(arguments)
    losses: dict[int, Tensor] = {}  # of the rival, by seed

    def one_run(method: str, seed: int) -> dict[str, Any]:
        order = torch.randperm(len(images.labels), generator=torch.Generator().manual_seed(seed))
        fit_on, report = images.at(order[: len(order) // 2]), images.at(order[len(order) // 2 :])

        def log_probs(name: str) -> tuple[Tensor, dict[str, float]]:
            answer, found = every[name](layer, fit_on)
            return answer(report.features).double().log_softmax(-1), found

        if seed not in losses:
            losses[seed] = F.nll_loss(log_probs(RIVAL)[0], report.labels, reduction="none")
        found: dict[str, float] = {}
        if method == "old head":
            answers = mean_logits(layer, report.features).double().log_softmax(-1)
        elif method == "warm start":
            answers = layer.predict(report.features).probs.double().log()
        else:
            answers, found = log_probs(method)
        gain = F.nll_loss(answers, report.labels, reduction="none") - losses[seed]
        return {
            **judge(answers, report),
            "difference": gain.mean().item(),
            "difference_standard_error": gain.std().item() / math.sqrt(len(gain)),
            "fitted": found,
        }

    every = methods(arguments)
    names = ["old head", "warm start", *every]
    settings = {"num_images": len(images.labels), "num_labels": layer.config.num_labels, "num_folds": NUM_FOLDS}
    wanted = [{"method": name, "seed": seed} for seed in arguments.seeds for name in names]
    return finish_runs(arguments, settings, wanted, one_run, summarise)


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Per method the mean over the halves, and the differences in likelihood to one temperature."""
    summary = {}
    for method in dict.fromkeys(one["method"] for one in runs):
        of = [one for one in runs if one["method"] == method]
        numbers = [name for name, value in of[0].items() if isinstance(value, float)]
        summary[method] = {
            **{name: statistics.mean(one[name] for one in of) for name in numbers},
            "differences": [one["difference"] for one in of],
            "density": statistics.mean(one["fitted"].get("density", 1.0) for one in of),
        }
    return {"summary": summary}


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, run, print the table."""
    arguments = parse(WarmStartArguments, __doc__, argv)
    runs = compare(arguments)
    columns = [*FIGURES, *(name for name in ("real_accuracy", "real_log_loss") if name in runs[0]), "difference"]
    print(table(mean_over_seeds(runs, by=("method",), of=columns)))
    print(f"\nWritten to {arguments.output}")


if __name__ == "__main__":
    run(main)
