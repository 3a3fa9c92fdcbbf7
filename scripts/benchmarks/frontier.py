"""How sparse a decision layer may be: what the tuned layer teaches to sparse ones, against an elastic-net path.

    python scripts/benchmarks/frontier.py --task digits
    python scripts/benchmarks/frontier.py --task caltech101 --features_dir FEATURES \
        --output docs/results/frontier_caltech101.json --figure docs/images/frontier_caltech101.png

Tasks are those of tasks.py. Curves: the elastic net (glm_saga's objective), sparse layers pruned freely
(`fit_decision_layer(..., density=...)`), those whose factors are shared by classes (`preset="interpretable"`), and, a
point, the tuned layer all of them learn from. Temperatures are fitted on the choosing rows. Finished paths are kept: an
interrupted comparison goes on.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from bndl_hf import BNDLConfig
from bndl_hf.baselines import FeatureTask, PosteriorClassifier, current_defaults, elastic_net_path
from bndl_hf.interpretability import explanation_length
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.model.posterior_head import PosteriorHead
from bndl_hf.plots import save_figure, sparsity_frontier_plot
from bndl_hf.training.density import few_factors
from bndl_hf.training.sparse_path import layer_of, sparse_path
from bndl_hf.utils.command_line import run
from bndl_hf.utils.results import read_finished
from common import Arguments, flat, parse, table, write_result
from declared import draw_rows, read_declarations, read_tensors, written
from tasks import fit_bndl, judge_probs

FIGURES = (
    *("density", "weights_per_class", "accuracy", "negative_log_likelihood", "tempered_negative_log_likelihood"),
    *("evidence_share", "gap_share"),
)
NAMES = {
    "sparse": "BNDL, pruned freely",
    "shared": "BNDL, factors shared by classes",
    "elastic net": "elastic net (glm_saga's objective)",
}
TUNED = "tuned"
# Shares of the elastic net's weights within which the curves are compared.
COMPARED = (0.02, 0.5)


@dataclass
class FrontierArguments(Arguments):
    """What to compare, and on which rows."""

    output: str = field(default="outputs/bench/frontier.json", metadata={"help": "JSON file, rewritten after a path."})
    figure: str | None = field(default=None, metadata={"help": "PNG file to draw; default: beside the JSON file."})
    task: str = field(default="digits", metadata={"help": "Name of a task in --tasks_file."})
    tasks_file: str = field(
        default=str(Path(__file__).with_name("tasks.json")), metadata={"help": "JSON file that declares the tasks."}
    )
    features_dir: str = field(default="outputs/bench", metadata={"help": "Where the files that tasks name lie."})
    seeds: list[int] = field(default_factory=lambda: [0, 1], metadata={"help": "Each draws rows of its own."})
    weights_per_class: list[int] = field(
        default_factory=lambda: [100, 50, 20, 14, 10, 7, 5, 3, 2, 1],
        metadata={"help": "BNDL's loadings a class, in falling order; those above the number of factors are left out."},
    )


def compare(arguments: FrontierArguments) -> list[dict[str, Any]]:
    """Every point of all curves, for every seed."""
    declared = read_declarations(arguments.tasks_file)
    if arguments.task not in declared:
        raise ValueError(f"--task {arguments.task}: unknown; {arguments.tasks_file} has {', '.join(declared)}.")
    declaration = declared[arguments.task]
    settings = {
        "task": arguments.task,
        "declaration": written(declaration),
        "weights_per_class": arguments.weights_per_class,
        "defaults": current_defaults(),
    }
    runs = read_finished(arguments.output, settings)
    tensors = read_tensors(declaration, arguments.features_dir)
    for seed in arguments.seeds:
        task = draw_rows(declaration, tensors, seed).task
        tuned: list[PosteriorHead] = []
        for head in (TUNED, *NAMES):
            if any((one["head"], one["seed"]) == (head, seed) for one in runs):
                continue
            if head != "elastic net" and not tuned:
                tuned.append(fit_bndl(task, seed).layer)
            # A path is a whole: each point starts from the one before.
            points = tqdm(
                _points(head, task, seed, tuned[0] if tuned else None, arguments),
                desc=f"{head}, seed {seed}",
                disable=arguments.quiet,
            )
            runs += [{"head": head, "seed": seed, "point": point, **judge(layer, task)} for point, layer in points]
            write_result(arguments, {"settings": settings, "margins": margins(runs), "runs": runs})
    return runs


def _points(
    head: str, task: FeatureTask, seed: int, tuned: PosteriorHead | None, arguments: FrontierArguments
) -> Iterator[tuple[float, PosteriorHead]]:
    """What tells a point of a curve from the others, and its layer."""
    if head == "elastic net":
        yield from elastic_net_path(*task.train)
        return
    assert tuned is not None
    if head == TUNED:
        yield 0, tuned
        return
    teacher, D, C = tuned, task.train[0].shape[1], task.num_labels
    config = BNDLConfig(preset="interpretable", feature_dim=D, num_labels=C)
    K = few_factors(D, C)
    ladder = [weights for weights in arguments.weights_per_class if weights <= K]

    def answers(features: Any) -> Any:
        return teacher(features).logits.softmax(-1)

    for weights, factors in zip(
        ladder, sparse_path(answers, task.train[0], K, ladder, seed, head == "shared"), strict=True
    ):
        yield weights, layer_of(config, factors)


def judge(layer: PosteriorHead, task: FeatureTask) -> dict[str, Any]:
    """The figures of a layer on the reporting rows, with a temperature from the choosing rows beside them."""
    head, (features, labels) = PosteriorClassifier(layer), task.reporting
    figures = judge_probs(head.probs(features), labels, None)
    figures |= {"weights_per_class": head.weights_per_class, "density": head.density}
    if isinstance(layer, BNDLDecisionLayer):
        length = explanation_length(layer, features)
        figures |= {"evidence_share": length.evidence_share, "gap_share": length.gap_share}
    temperature = head.fit_temperature(*task.choosing)
    return {**figures, "tempered": {"temperature": temperature, **judge_probs(head.probs(features), labels, None)}}


def points(runs: list[dict[str, Any]], head: str) -> list[dict[str, float]]:
    """The points of one curve, means and standard deviations over seeds, sparsest first."""
    groups: dict[float, list[dict[str, Any]]] = {}
    for one in runs:
        if one["head"] == head:
            groups.setdefault(one["point"], []).append(flat(one))
    found = []
    for group in groups.values():
        names = [
            name for name in FIGURES if name in group[0]
        ]  # the elastic net has no evidence: its weights are signed
        means = {name: statistics.mean(one[name] for one in group) for name in names}
        found.append(means | {f"{name}_sd": statistics.pstdev(one[name] for one in group) for name in names})
    return sorted(found, key=lambda point: point["weights_per_class"])


def margins(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """How far ours lie above the elastic net where that has 2 to 50 % of its weights, at no more weights a class.

    Returns:
        For "sparse" and "shared" (the tuned layer among their points): the smallest difference in accuracy and the
        largest ratios of likelihoods, as they come and with temperature, over the points of the elastic net.
    """
    rival = [point for point in points(runs, "elastic net") if COMPARED[0] <= point["density"] <= COMPARED[1]]
    found: dict[str, Any] = {}
    for head in ("sparse", "shared"):
        ours = points(runs, head) + points(runs, TUNED)
        pairs = [
            ([one for one in ours if one["weights_per_class"] <= point["weights_per_class"]], point) for point in rival
        ]
        pairs = [(able, point) for able, point in pairs if able]
        if not pairs or not points(runs, head):
            continue
        found[head] = {
            "points": len(pairs),
            "accuracy": min(max(one["accuracy"] for one in able) - point["accuracy"] for able, point in pairs),
        } | {
            name: max(min(one[name] for one in able) / point[name] for able, point in pairs)
            for name in ("negative_log_likelihood", "tempered_negative_log_likelihood")
        }
    return found


def curves(runs: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """The curves as `sparsity_frontier_plot` takes them."""
    found = {}
    for head, words in NAMES.items():
        curve = points(runs, head)
        found[words] = {name: [point[name] for point in curve] for name in curve[0]}
        found[words] |= {"sparsity": found[words]["density"], "factors_per_class": found[words]["weights_per_class"]}
    return found


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, compare, print and draw."""
    arguments = parse(FrontierArguments, __doc__, argv)
    runs = compare(arguments)
    shown = [(head, point) for head in (TUNED, *NAMES) for point in points(runs, head)]
    print(table([{"head": head, **{name: point.get(name, "-") for name in FIGURES}} for head, point in shown]))
    for head, margin in margins(runs).items():
        print(
            f"{head}: accuracy {margin['accuracy']:+.4f} or more over the elastic net at {margin['points']} points, "
            f"NLL {margin['negative_log_likelihood']:.3f} times or less, "
            f"{margin['tempered_negative_log_likelihood']:.3f} with temperature"
        )
    figure = Path(arguments.figure or Path(arguments.output).with_suffix(".png"))
    print(f"Drawn: {save_figure(sparsity_frontier_plot(curves(runs), 'factors_per_class'), figure)}")
    print(f"Written to {arguments.output}")


if __name__ == "__main__":
    run(main)
