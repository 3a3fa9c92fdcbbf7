r"""Active learning: from a hundred labels to a thousand, bought where a head is unsure, or at random.

    python scripts/benchmarks/active.py run --features_dir FEATURES --tasks cifar10_200 --seeds 0 1 2 3 4 \
        --output docs/results/active.json --figure docs/images/active.png

A pool of training rows of a task of tasks.json has no labels but those bought. The first are drawn at random, the same
number of every class; each round trains a head afresh, and buys the rows of the pool with the highest score, all at
once: mutual information (Houlsby et al. 2011, arXiv:1112.5745; `epistemic` of a prediction), entropy, 1 - the largest
probability, or at random. The task's held-out rows are not part of the pool: the temperature of every head comes from
them, and the strength of "logreg".

Heads: "bndl_short", the default layer trained for --max_steps steps without a search, so that hundreds of fits end
soon; and every head of tasks.py by its name, "bndl" being the tuned one, which is better and takes twenty times as
long. Finished runs are kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers.utils import logging

from bndl_hf import BNDLConfig
from bndl_hf.baselines import Classifier, FeatureTask, PosteriorClassifier, current_defaults
from bndl_hf.plots import measure_curves_plot, save_figure
from bndl_hf.training import fit_decision_layer
from bndl_hf.uncertainty import accuracy, expected_calibration_error, negative_log_likelihood
from bndl_hf.utils.command_line import run
from common import finish_runs, mean_over_seeds, parse_command, table
from declared import draw_rows, read_tensors, written
from on_tasks import TaskArguments, curves, fit_tempered, side_by_side

RANDOM = "random"
SHORT = "bndl_short"
STRATEGIES = ("mutual_information", "entropy", "max_probability", RANDOM)
MEASURES = {
    "accuracy": accuracy,
    "negative_log_likelihood": negative_log_likelihood,
    "expected_calibration_error": expected_calibration_error,
}


@dataclass
class RunArguments(TaskArguments):
    """Buy labels round by round, and judge the head of every round."""

    tasks: list[str] = field(default_factory=lambda: ["digits"], metadata={"help": "One task of the file."})
    pairs: list[str] = field(
        default_factory=lambda: [*(f"{SHORT}:{name}" for name in STRATEGIES), "logreg:entropy", "logreg:random"],
        metadata={"help": f"What to compare, each as HEAD:STRATEGY; strategies are {', '.join(STRATEGIES)}."},
    )
    labels: list[int] = field(
        default_factory=lambda: [100, 150, 200, 300, 400, 600, 800, 1000], metadata={"help": "Labels of each round."}
    )
    pool: int = field(default=5000, metadata={"help": "Training rows that labels are bought of, drawn by the seed."})
    max_steps: int = field(default=100, metadata={"help": f"Steps of the training of {SHORT}."})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4], metadata={"help": "Each draws rows of its own."})
    heads: list[str] = field(default_factory=list, init=False)  # of the pairs, those of tasks.py
    figure: str | None = field(default=None, metadata={"help": "PNG file: accuracy and NLL by labels."})
    output: str = field(default="outputs/bench/active.json", metadata={"help": "JSON file, rewritten after a run."})

    def __post_init__(self) -> None:
        if wrong := [pair for pair in self.pairs if pair.partition(":")[2] not in STRATEGIES]:
            raise ValueError(f"--pairs {' '.join(wrong)}: write HEAD:STRATEGY; strategies are {', '.join(STRATEGIES)}.")
        heads = [pair.partition(":")[0] for pair in self.pairs]
        self.heads = [head for head in heads if head != SHORT]
        super().__post_init__()
        if len(self.tasks) != 1:
            raise ValueError(f"--tasks {' '.join(self.tasks)}: one task fits, write a file for each.")
        if sorted(set(self.labels)) != self.labels or self.labels[0] < 1 or self.labels[-1] > self.pool:
            raise ValueError(
                f"--labels {' '.join(map(str, self.labels))}: rising numbers up to --pool {self.pool} fit."
            )


def first_rows(labels: torch.Tensor, count: int, num_labels: int) -> torch.Tensor:
    """The first rows of every class in turn, [count] indices: as many of each as of another, or one fewer.

    Raises:
        ValueError: fewer rows than classes are asked for.
    """
    if count < num_labels:
        raise ValueError(f"--labels starts at {count} rows for {num_labels} classes; one of each is the least.")
    turn = torch.zeros(len(labels), dtype=torch.long)
    for label in range(num_labels):
        of_class = labels == label
        turn[of_class] = torch.arange(int(of_class.sum()))
    return (turn * num_labels + labels).argsort()[:count]


def fit(head: str, task: FeatureTask, seed: int, max_steps: int) -> Classifier:
    """A head of one round, with the temperature of the choosing rows."""
    if head != SHORT:
        return fit_tempered(head, task, seed)
    config = BNDLConfig(feature_dim=task.train[0].shape[1], num_labels=task.num_labels)
    layer = fit_decision_layer(*task.train, config, seed=seed, max_steps=max_steps, disable_tqdm=True)
    trained = PosteriorClassifier(layer)
    trained.fit_temperature(*task.choosing)
    return trained


def buy(
    task: FeatureTask, head: str, strategy: str, seed: int, labels: list[int], max_steps: int
) -> list[dict[str, Any]]:
    """The rounds of one head, strategy and seed.

    Args:
        task: its training rows are the pool.
        head: of tasks.py, or `SHORT`.
        strategy: of `STRATEGIES`.
        seed: of the head and of random purchases.
        labels: how many rows each round has.
        max_steps: of `SHORT`.

    Returns:
        {"labels", and the measures on the reported rows} of every round.
    """
    features, truth = task.train
    bought = first_rows(truth, labels[0], task.num_labels)
    generator, rounds = torch.Generator().manual_seed(seed), []
    for count, following in zip(labels, [*labels[1:], None], strict=True):
        trained = fit(head, replace(task, train=(features[bought], truth[bought])), seed, max_steps)
        probs = trained.probs(task.reporting[0])
        rounds.append({"labels": count, **{name: of(probs, task.reporting[1]) for name, of in MEASURES.items()}})
        if following is None:
            return rounds
        if strategy == RANDOM:
            score = torch.rand(len(truth), generator=generator)
        else:
            score = trained.ood_scores(features)[strategy].double()
        score = score.index_fill(0, bought, -torch.inf)
        bought = torch.cat([bought, score.topk(following - count).indices])
    return rounds


def compare(arguments: RunArguments) -> list[dict[str, Any]]:
    """Every pair and seed that the output file lacks; all runs."""
    ((name, declaration),) = arguments.declarations().items()
    declaration = replace(declaration, train=arguments.pool, per_class=None)
    tensors = read_tensors(declaration, arguments.features_dir)
    wanted = [
        {"task": name, "head": head, "strategy": strategy, "seed": seed}
        for seed in arguments.seeds
        for head, _, strategy in (pair.partition(":") for pair in arguments.pairs)
    ]

    def one_run(task: str, head: str, strategy: str, seed: int) -> dict[str, Any]:
        rows = draw_rows(declaration, tensors, seed).task
        return {"rounds": buy(rows, head, strategy, seed, arguments.labels, arguments.max_steps)}

    settings = {"declaration": written(declaration), "labels": arguments.labels, "max_steps": arguments.max_steps}
    return finish_runs(arguments, {**settings, "defaults": current_defaults()}, wanted, one_run, summarise)


def as_rows(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each run and round."""
    return [
        {"pair": f"{one['head']}, {one['strategy'].replace('_', ' ')}", "seed": one["seed"], **row}
        for one in runs
        for row in one["rounds"]
    ]


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds, by pair and labels."""
    return {"means": mean_over_seeds(as_rows(runs), ("pair", "labels"), tuple(MEASURES))}


def main(argv: list[str] | None = None) -> None:
    """Run the command asked for."""
    arguments: RunArguments = parse_command({"run": RunArguments}, __doc__, argv)
    usual = logging.get_verbosity()
    logging.set_verbosity_error()  # each of hundreds of short trainings would say that it is short
    try:
        runs = compare(arguments)
    finally:
        logging.set_verbosity(usual)
    means = summarise(runs)["means"]
    for measure, words in (("accuracy", "Accuracy"), ("negative_log_likelihood", "NLL, nats,")):
        print(f"\n{words} by labels bought\n\n" + table(side_by_side(means, ("pair",), "labels", measure)))
    if arguments.figure:
        rows = as_rows(runs)
        panels = {
            "accuracy, %": curves(rows, "pair", "labels", "accuracy", scale=100),
            "NLL, nats": curves(rows, "pair", "labels", "negative_log_likelihood"),
        }
        save_figure(measure_curves_plot(panels, "labels", "What a bought label is worth"), arguments.figure)
        print(f"\nFigure: {arguments.figure}")
    print(f"\nWritten to {arguments.output}")


if __name__ == "__main__":
    run(main)
