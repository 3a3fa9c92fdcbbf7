"""The rows of a comparison: frozen features to train on, rows to choose on, other rows to report."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

Rows = tuple[Tensor, Tensor]  # features [n, D] and labels [n]


@dataclass(frozen=True)
class FeatureTask:
    """Frozen features, split.

    Attributes:
        train: rows to train on.
        choosing: rows on which settings and temperatures are chosen.
        reporting: rows on which nothing was chosen.
        ood: features of out-of-distribution sets, by name.
    """

    train: Rows
    choosing: Rows
    reporting: Rows
    ood: dict[str, Tensor] = field(default_factory=dict)

    @property
    def num_labels(self) -> int:
        """C, the number of classes."""
        return int(self.train[1].max()) + 1

    @classmethod
    def read(cls, path: str | os.PathLike[str], hold_out: int = 0, report_from: int | None = None) -> FeatureTask:
        """The task in a features file, in float32.

        Args:
            path: a file as `scripts/benchmarks/heads.py features` makes it: train.features [N, D], train.labels [N],
                test.features, test.labels, NAME.features of out-of-distribution sets.
            hold_out: this many rows of train, drawn with a fixed seed, are for choosing, and all of test is reported:
                for a backbone that has not seen the training images. 0 chooses on test rows drawn with a fixed seed
                (files may be in the order of their classes), for one that has memorised the training images.
            report_from: without `hold_out` how many test rows are for choosing; the others are reported. None is half.

        Raises:
            ValueError: there is no such file, a tensor is missing, or a split is empty.
        """
        if not Path(path).is_file():
            raise ValueError(f"{path} does not exist; make it with: python scripts/benchmarks/heads.py features --help")
        tensors = load_file(path)
        needed = ("train.features", "train.labels", "test.features", "test.labels")
        if missing := [name for name in needed if name not in tensors]:
            raise ValueError(f"{path} lacks {', '.join(missing)}; it holds {', '.join(sorted(tensors))}.")
        tensors = {name: t.long() if name.endswith("labels") else t.float() for name, t in tensors.items()}
        return cls.split(tensors, hold_out, report_from)

    @classmethod
    def digits(cls) -> FeatureTask:
        """Scikit-learn's digits as 64 raw pixels, noise as OOD images: a comparison that runs anywhere in seconds."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        pixels, labels = torch.tensor(digits.data / 16).float(), torch.tensor(digits.target)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        test, train = order[:600], order[600:]
        return cls.split(
            {
                "train.features": pixels[train],
                "train.labels": labels[train],
                "test.features": pixels[test],
                "test.labels": labels[test],
                "noise.features": torch.rand(600, 64, generator=torch.Generator().manual_seed(1)),
            }
        )

    @classmethod
    def split(cls, tensors: dict[str, Tensor], hold_out: int = 0, report_from: int | None = None) -> FeatureTask:
        """The task of tensors named as in a features file; see `read`."""
        train, test = ((tensors[f"{part}.features"], tensors[f"{part}.labels"]) for part in ("train", "test"))
        if hold_out and report_from is not None:
            raise ValueError(f"hold_out={hold_out} reports all of test, so report_from={report_from} has no place.")
        if hold_out:
            order = torch.randperm(len(train[1]), generator=torch.Generator().manual_seed(0))
            taken = f"hold_out={hold_out} leaves none of {len(train[1])} training rows"
            train, choosing, reporting = _rows(train, order[hold_out:]), _rows(train, order[:hold_out]), test
        else:
            first = len(test[1]) // 2 if report_from is None else report_from
            taken = f"report_from={first} leaves none of {len(test[1])} test rows"
            rows = torch.randperm(len(test[1]), generator=torch.Generator().manual_seed(0))
            choosing, reporting = _rows(test, rows[:first]), _rows(test, rows[first:].sort().values)
        parts = {"training": train, "choosing": choosing, "reporting": reporting}
        if empty := [name for name, (_, labels) in parts.items() if not len(labels)]:
            raise ValueError(f"{taken}. No rows are left for {' and '.join(empty)}; change hold_out or report_from.")
        names = [name.removesuffix(".features") for name in sorted(tensors) if name.endswith(".features")]
        ood = {name: tensors[f"{name}.features"] for name in names if name not in ("train", "test")}
        return cls(train, choosing, reporting, ood)


def _rows(part: Rows, index: Tensor) -> Rows:
    return part[0][index], part[1][index]
