"""Tasks that a JSON file declares: which features, which rows to learn from, to choose on and to report.

tasks.py imports it as `declared`; scripts/benchmarks/tasks.json is the file it reads unless told another.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from bndl_hf.baselines import FeatureTask

DIGITS = "digits"


@dataclass(frozen=True)
class Declaration:
    """One entry of the file.

    Attributes:
        features: file name, as `heads.py features` writes it, or "digits".
        about: one line for people.
        train: rows to learn from, drawn by the seed; None takes all that are not held out.
        per_class: images of each class instead.
        held_out: rows to choose on.
        held_out_from: "train", drawn by the seed; or "test", for a backbone that has memorised train: always the same
            rows, drawn at random, because files of test images may be in the order of their classes. The other test
            rows are reported.
        labels: "FILE:COLUMN" of other labels for the rows of train, as `tasks.py columns` writes it: noisy ones, say.
        human_probs: file with the column human_probs [rows of test, C]: what people say of each test image.
        classes: keep rows of these classes only, numbered anew in this order.
    """

    features: str
    about: str = ""
    train: int | None = None
    per_class: int | None = None
    held_out: int = 0
    held_out_from: str = "train"
    labels: str | None = None
    human_probs: str | None = None
    classes: list[int] | None = None

    def files(self) -> list[str]:
        """Names of the files without which there is no task."""
        return [name for name in (self.features, (self.labels or "").partition(":")[0]) if name and name != DIGITS]


@dataclass(frozen=True)
class Rows:
    """A task's rows for one seed.

    Attributes:
        task: rows to train on, to choose on, to report, and the outsiders.
        human_probs: what people say of the reported rows, [B, C]; None where nobody was asked.
    """

    task: FeatureTask
    human_probs: Tensor | None


def read_declarations(path: str | os.PathLike[str]) -> dict[str, Declaration]:
    """The tasks of a file, in its order.

    Raises:
        ValueError: no such file, a field that there is not, or values that do not go together.
    """
    if not Path(path).is_file():
        raise ValueError(f"--tasks_file {path} does not exist; scripts/benchmarks/tasks.json is one to start from.")
    known, tasks = {field.name for field in fields(Declaration)}, {}
    for name, entry in json.loads(Path(path).read_text()).items():
        if unknown := sorted(set(entry) - known):
            raise ValueError(f"Task {name} has the fields {', '.join(unknown)}; fields are {', '.join(sorted(known))}.")
        if "features" not in entry:
            raise ValueError(f"Task {name} names no features; give it a file that heads.py features wrote.")
        task = Declaration(**entry)
        if task.held_out < 1 or task.held_out_from not in ("train", "test"):
            raise ValueError(
                f"Task {name} has held_out={task.held_out} and held_out_from={task.held_out_from!r}; one row or more "
                "from 'train' or 'test' fits."
            )
        if task.train is not None and task.per_class is not None:
            raise ValueError(f"Task {name} has both train and per_class; give one.")
        tasks[name] = task
    return tasks


def written(task: Declaration) -> dict[str, object]:
    """The fields that say which rows a task has: what finished runs must agree in."""
    return {name: value for name, value in asdict(task).items() if name != "about" and value is not None}


def read_tensors(task: Declaration, folder: str | os.PathLike[str]) -> dict[str, Tensor]:
    """What the files of a task hold, features as float32, labels as int64: train, test, outsiders, people's answers.

    Raises:
        ValueError: a tensor is missing, or columns that were not made row by row with the features.
    """
    if task.features == DIGITS:
        digits = FeatureTask.digits()
        test = [torch.cat(pair) for pair in zip(digits.choosing, digits.reporting, strict=True)]
        tensors = dict(zip(("train.features", "train.labels"), digits.train, strict=True))
        tensors |= {"test.features": test[0], "test.labels": test[1]}
        return tensors | {f"{name}.features": rows for name, rows in digits.ood.items()}
    path = Path(folder, task.features)
    found = {name: t.long() if name.endswith("labels") else t.float() for name, t in load_file(path).items()}
    needed = ("train.features", "train.labels", "test.features", "test.labels")
    if missing := [name for name in needed if name not in found]:
        raise ValueError(f"{path} lacks {', '.join(missing)}; it holds {', '.join(sorted(found))}.")
    if task.labels is not None:
        name, _, column = task.labels.partition(":")
        found["train.labels"] = _column(Path(folder, name), column, found["train.labels"], "train").long()
    if task.human_probs is not None and (people := Path(folder, task.human_probs)).is_file():
        found["human_probs"] = _column(people, "human_probs", found["test.labels"], "test").double()
    return found


def draw_rows(task: Declaration, tensors: dict[str, Tensor], seed: int) -> Rows:
    """The rows of one seed.

    Args:
        task: what is asked for.
        tensors: of `read_tensors`.
        seed: draws held-out and training rows from train; test rows stay in order.

    Raises:
        ValueError: there are not as many rows as asked for.
    """
    train, test = ((tensors[f"{part}.features"], tensors[f"{part}.labels"]) for part in ("train", "test"))
    human = tensors.get("human_probs")
    if task.classes is not None:
        train, _ = _of_classes(*train, task.classes)
        test, kept = _of_classes(*test, task.classes)
        human = None if human is None else human[kept][:, task.classes]
    order = torch.randperm(len(train[1]), generator=torch.Generator().manual_seed(seed))
    if task.held_out_from == "train":
        chosen, order = order[: task.held_out], order[task.held_out :]
        choosing, reporting = (train[0][chosen], train[1][chosen]), test
    else:
        shuffled = torch.randperm(len(test[1]), generator=torch.Generator().manual_seed(0))
        chosen, kept = shuffled[: task.held_out], shuffled[task.held_out :].sort().values
        choosing, reporting = (test[0][chosen], test[1][chosen]), (test[0][kept], test[1][kept])
        human = None if human is None else human[kept]
    if task.per_class is not None:
        order = order[_first_of_each_class(train[1][order], task.per_class)]
    elif task.train is not None:
        if task.train > len(order):
            raise ValueError(f"train={task.train} rows are asked for; {len(order)} are left of {len(train[1])}.")
        order = order[: task.train]
    if not len(order) or not len(reporting[1]) or len(choosing[1]) < task.held_out:
        raise ValueError(
            f"{len(order)} rows are left to learn from, {len(choosing[1])} to choose on and {len(reporting[1])} to "
            f"report; lower held_out={task.held_out}."
        )
    outsiders = {
        name.removesuffix(".features"): rows
        for name, rows in sorted(tensors.items())
        if name.endswith(".features") and name not in ("train.features", "test.features")
    }
    return Rows(FeatureTask((train[0][order], train[1][order]), choosing, reporting, outsiders), human)


def _of_classes(features: Tensor, labels: Tensor, classes: list[int]) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Rows of `classes`, numbered by their place in it, and which rows they are."""
    places = labels.new_full((max(int(labels.max()), *classes) + 1,), -1)
    places[classes] = torch.arange(len(classes))
    kept = (places[labels] >= 0).nonzero().flatten()
    return (features[kept], places[labels[kept]]), kept


def _first_of_each_class(labels: Tensor, count: int) -> Tensor:
    """Indices of the first `count` rows of every class, [C count], in the order they come.

    Raises:
        ValueError: a class has fewer.
    """
    kept = []
    for label in labels.unique().tolist():
        rows = (labels == label).nonzero().flatten()
        if len(rows) < count:
            raise ValueError(f"per_class={count} images are asked for; {len(rows)} of class {label} are left.")
        kept.append(rows[:count])
    return torch.cat(kept).sort().values


def _column(path: Path, column: str, labels: Tensor, part: str) -> Tensor:
    """A column that lies row by row beside the true `labels` [N] of `part`."""
    found = load_file(path)
    if missing := [name for name in ("label", column) if name not in found]:
        raise ValueError(f"{path} lacks {', '.join(missing)}; write it with: tasks.py columns --columns label {column}")
    if len(found["label"]) != len(labels) or not torch.equal(found["label"].long(), labels):
        raise ValueError(
            f"{path} does not lie row by row with {part}: its column label differs from {part}.labels. Make both from "
            "the same split in the same order."
        )
    return found[column]
