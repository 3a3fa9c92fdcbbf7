"""What the benchmarks share: the arguments, the runs that an interruption leaves done, means over seeds, the table.

Scripts beside this file import it as `common`; they are run as `python scripts/benchmarks/NAME.py`.
"""

from __future__ import annotations

import argparse
import inspect
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from tqdm.auto import tqdm
from transformers import HfArgumentParser

from bndl_hf.baselines import HEADS, FeatureTask, current_defaults
from bndl_hf.uncertainty import find_measure
from bndl_hf.utils.command_line import HelpFormatter, recorded_command
from bndl_hf.utils.results import describe_environment, flat, read_finished, write_json


@dataclass
class Arguments:
    """Where the result goes, and what is shown on the way."""

    output: str = field(default="outputs/bench/results.json", metadata={"help": "JSON file to write."})
    quiet: bool = field(default=False, metadata={"help": "No progress bars."})
    argv: list[str] = field(default_factory=list, init=False)  # the command line they came from


@dataclass
class TrainingArguments(Arguments):
    """The frozen features that decision layers are trained and judged on, and how."""

    features: str | None = field(
        default=None,
        metadata={
            "help": "Features file (.safetensors), made by: heads.py features. Without one: scikit-learn's digits as "
            "64 raw pixels, on which a comparison takes seconds."
        },
    )
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds of the trainings."})
    hold_out: int = field(
        default=0,
        metadata={
            "help": "Rows of train to choose settings and temperatures on, where the backbone has not seen them. 0: "
            "the first half of test, for a backbone that has memorised its training images."
        },
    )
    report_from: int | None = field(
        default=None,
        metadata={"help": "Test rows for choosing; the others are reported. Not with --hold_out."},
    )
    epochs: float | None = field(
        default=None, metadata={"help": "Passes over the training rows, instead of each head's own."}
    )

    def task(self) -> FeatureTask:
        """The rows to train on, to choose on and to report."""
        if self.features is None:
            return FeatureTask.digits()
        return FeatureTask.read(self.features, self.hold_out, self.report_from)

    def training(self) -> dict[str, Any]:
        """Arguments of the trainings over each head's own recipe."""
        return {"disable_tqdm": True, **({} if self.epochs is None else {"num_train_epochs": self.epochs})}

    def settings(self, task: FeatureTask) -> dict[str, Any]:
        """What finished runs must agree in to be kept."""
        return {
            "features": "digits (8x8 pixels)" if self.features is None else Path(self.features).name,
            "hold_out": self.hold_out,
            "epochs": self.epochs,
            "num_training_images": len(task.train[1]),
            "num_choosing_images": len(task.choosing[1]),
            "num_reported_images": len(task.reporting[1]),
            "defaults": current_defaults(),
        }


@dataclass
class HeadsArguments(TrainingArguments):
    """Which decision layers to compare, on which features."""

    heads: list[str] = field(
        default_factory=lambda: ["bndl", "dense"], metadata={"help": f"Decision layers, of: {', '.join(HEADS)}."}
    )

    def __post_init__(self) -> None:
        if unknown := [name for name in self.heads if name not in self.known_heads()]:
            raise ValueError(f"--heads {' '.join(unknown)}: unknown; heads are {', '.join(self.known_heads())}.")

    def known_heads(self) -> list[str]:
        """Names that `heads` may hold."""
        return list(HEADS)

    def head_and_seed(self) -> list[dict[str, Any]]:
        """What tells the runs apart: every head with every seed."""
        return [{"head": head, "seed": seed} for head in self.heads for seed in self.seeds]


SomeArguments = TypeVar("SomeArguments", bound=Arguments)


def parse(kind: type[SomeArguments], about: str | None, argv: Sequence[str] | None) -> SomeArguments:
    """The arguments of a script that does one thing; `about` is its docstring, shown by --help."""
    parser = HfArgumentParser(kind, description=about, formatter_class=HelpFormatter)
    arguments = parser.parse_args_into_dataclasses(argv)[0]
    arguments.argv = list(sys.argv[1:] if argv is None else argv)
    return arguments


def parse_command(kinds: Mapping[str, type[Arguments]], about: str | None, argv: Sequence[str] | None) -> Any:
    """The arguments of a script of several commands, which are told apart by their class."""
    parser = argparse.ArgumentParser(description=about, formatter_class=HelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=HfArgumentParser)
    for name, kind in kinds.items():
        words = (kind.__doc__ or "").splitlines()[0]
        commands.add_parser(name, dataclass_types=kind, help=words, description=words, formatter_class=HelpFormatter)
    found = parser.parse_args(argv)
    kind = kinds[found.command]
    arguments = kind(**{field.name: getattr(found, field.name) for field in fields(kind) if field.init})
    arguments.argv = list(sys.argv[1:] if argv is None else argv)
    return arguments


def write_result(arguments: Arguments, result: Mapping[str, Any]) -> None:
    """The result file: what was run, on which machine, what was found."""
    script = Path(inspect.getfile(type(arguments))).name
    command = f"python {recorded_command(f'scripts/benchmarks/{script}', arguments.argv)}"
    write_json(arguments.output, {"command": command, "environment": describe_environment(), **result})


def finish_runs(
    arguments: Arguments,
    settings: dict[str, Any],
    wanted: Sequence[dict[str, Any]],
    run: Callable[..., Mapping[str, Any]],
    summarise: Callable[[list[dict[str, Any]]], dict[str, Any]] = lambda runs: {},
) -> list[dict[str, Any]]:
    """All runs of the output file; those wanted that it lacks are made and written one by one.

    Args:
        arguments: whose output file is read and rewritten after every run.
        settings: of all runs, beside what tells them apart.
        wanted: what tells each run apart, e.g. {"head": "bndl", "seed": 0}.
        run: makes the figures of one, called with that.
        summarise: more to write, of all runs.

    Raises:
        ValueError: the output file holds runs of other settings.
    """
    runs = read_finished(arguments.output, settings)
    done = [{name: known.get(name) for name in one} for one in wanted for known in runs]
    missing = [one for one in wanted if one not in done]
    for one in tqdm(missing, desc="Runs", disable=arguments.quiet):
        runs.append({**one, **run(**one)})
        write_result(arguments, {"settings": settings, **summarise(runs), "runs": runs})
    return runs


def mean_over_seeds(runs: Iterable[Mapping[str, Any]], by: Sequence[str], of: Sequence[str]) -> list[dict[str, Any]]:
    """Runs that agree in `by`, in the order they came, with the means of their figures `of`; None for one they lack."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for one in map(flat, runs):
        groups.setdefault(tuple(one[name] for name in by), []).append(one)

    def mean(group: list[dict[str, Any]], name: str) -> float | None:
        return statistics.mean(one[name] for one in group) if all(name in one for one in group) else None

    return [dict(zip(by, key, strict=True)) | {name: mean(group, name) for name in of} for key, group in groups.items()]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of the same keys as a Markdown table, fractions with four digits, measures under the label people know."""
    columns = list(rows[0])
    lines = ["| " + " | ".join(map(heading, columns)) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(_written(row[column]) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def heading(column: str) -> str:
    """Label of a measure, also behind "tempered_" (with a fitted temperature); other names in words."""
    measure, tempered = find_measure(column.removeprefix("tempered_")), column.startswith("tempered_")
    words = measure.label if measure else column.removeprefix("tempered_").replace("_", " ")
    return f"{words} (temperature)" if tempered and words != "temperature" else words


def json_object(text: str, flag: str) -> dict[str, Any]:
    """The fields written as JSON on the command line.

    Raises:
        ValueError: it is not a JSON object.
    """
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(f'{flag} {text!r} is not a JSON object; write \'{{"bias": "none"}}\', say.')
    return found


def _written(value: Any) -> str:
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
