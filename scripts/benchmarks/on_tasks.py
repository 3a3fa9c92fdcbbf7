"""What the field's own tests share (shift.py, label_noise.py, selective.py, active.py): heads on declared tasks.

Scripts beside this file import it as `on_tasks`.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bndl_hf.baselines import Classifier, FeatureTask
from common import Arguments, flat
from declared import Declaration, read_declarations, written
from tasks import KNOWN, fit_head


@dataclass
class TaskArguments(Arguments):
    """Which heads on which tasks of tasks.json."""

    tasks_file: str = field(
        default=str(Path(__file__).with_name("tasks.json")), metadata={"help": "JSON file that declares the tasks."}
    )
    features_dir: str = field(default="outputs/bench", metadata={"help": "Where the files that tasks name lie."})
    tasks: list[str] = field(default_factory=lambda: ["digits"], metadata={"help": "Tasks of the file."})
    heads: list[str] = field(
        default_factory=lambda: ["bndl", "dense", "logreg"],
        metadata={"help": f"Heads of tasks.py, each with its temperature: {', '.join(KNOWN)}."},
    )
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Each draws rows of its own."})

    def __post_init__(self) -> None:
        if unknown := [name for name in self.heads if name not in KNOWN]:
            raise ValueError(f"--heads {' '.join(unknown)}: unknown; heads are {', '.join(KNOWN)}.")

    def declarations(self) -> dict[str, Declaration]:
        """The tasks asked for, by name.

        Raises:
            ValueError: a task is not declared, or its files are missing.
        """
        declared = read_declarations(self.tasks_file)
        if unknown := [name for name in self.tasks if name not in declared]:
            raise ValueError(f"--tasks {' '.join(unknown)}: unknown; {self.tasks_file} has {', '.join(declared)}.")
        for name in self.tasks:
            missing = [file for file in declared[name].files() if not Path(self.features_dir, file).is_file()]
            if missing:
                raise ValueError(f"{name}: {self.features_dir} lacks {', '.join(missing)}; see tasks.py --help.")
        return {name: declared[name] for name in self.tasks}

    def wanted(self, declared: Mapping[str, Declaration]) -> list[dict[str, Any]]:
        """What tells the runs apart: every task, seed and head."""
        return [
            {"task": name, "head": head, "seed": seed, "declaration": written(declared[name])}
            for name in self.tasks
            for seed in self.seeds
            for head in self.heads
        ]


def fit_tempered(head: str, task: FeatureTask, seed: int) -> Classifier:
    """A head of tasks.py, trained, with a temperature fitted on the choosing rows.

    Raises:
        ValueError: "elastic_net", which has as many weights as bndl in the results of tasks.py.
    """

    def no_weights() -> float:
        raise ValueError("elastic_net is for tasks.py: it gets as many weights as bndl kept there. Name other heads.")

    trained = fit_head(head, task, seed, no_weights)
    trained.fit_temperature(*task.choosing)
    return trained


def curves(rows: Iterable[Mapping[str, Any]], name: str, x: str, y: str, scale: float = 1.0) -> dict[str, Any]:
    """Curves for `bndl_hf.plots.measure_curves_plot`: of every `name` the mean over seeds of `y` at each `x`.

    Args:
        rows: each with "seed" and the three; rows of one seed at one place are averaged first.
        name: column that tells the curves apart.
        x: column of numbers.
        y: column of numbers, nested figures joined by underscores (`common.flat`).
        scale: of y: 100 for per cent.

    Returns:
        name -> {"x", "y", "sd"}, the standard deviation over seeds, 0 of a single one.
    """
    found: dict[Any, dict[float, dict[int, list[float]]]] = {}
    for row in map(flat, rows):
        places = found.setdefault(row[name], {}).setdefault(row[x], {})
        places.setdefault(row["seed"], []).append(scale * row[y])
    result = {}
    for key, places_of in found.items():
        at = sorted(places_of)
        by_seed = [[statistics.mean(values) for values in places_of[place].values()] for place in at]
        result[key] = {
            "x": at,
            "y": [statistics.mean(values) for values in by_seed],
            "sd": [statistics.stdev(values) if len(values) > 1 else 0.0 for values in by_seed],
        }
    return result


def side_by_side(
    means: Sequence[Mapping[str, Any]], rows: Sequence[str], columns: str, of: str
) -> list[dict[str, Any]]:
    """A table: a row for each combination of `rows`, a column for each value of `columns`, the figure `of` in it."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for one in means:
        key = tuple(one[name] for name in rows)
        found.setdefault(key, dict(zip(rows, key, strict=True)))[str(one[columns])] = one[of]
    return list(found.values())
