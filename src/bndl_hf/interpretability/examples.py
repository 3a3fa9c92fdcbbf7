"""Which images to show: by a rule that nobody can bend, not by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bndl_hf.model.predictive import BNDLPrediction
from bndl_hf.model.verdicts import SURE, TORN


@dataclass(frozen=True)
class ChosenExample:
    """An image that a rule chose.

    Attributes:
        kind: why: "surest", "most torn" or "most unfamiliar".
        dataset: "" for the judged images, else a name of the out-of-distribution images.
        row: which of them.
    """

    kind: str
    dataset: str
    row: int


def choose_examples(
    prediction: BNDLPrediction, outsiders: Mapping[str, BNDLPrediction] | None = None, num_each: int = 2
) -> list[ChosenExample]:
    """The surest, the most torn and the most unfamiliar images, `num_each` of each, no class answered twice in a kind.

    - Surest: of the images called sure (all, where the model gives no verdicts), the largest probability; of equal ones
      the larger ratio of gap to standard deviation.
    - Most torn: of the images called torn (of the others), the largest probability of the second class: it is nearest
      to half where the model is torn between two.
    - Most unfamiliar: of all images, out-of-distribution ones among them, the largest `fisher_statistic`; none where
      the model does not measure familiarity.

    Args:
        prediction: of the images that the model is judged on.
        outsiders: of images of none of its classes, by name.
        num_each: how many of each kind.

    Returns:
        At most 3 x `num_each` examples, in this order; the labels play no part. Fewer where there are not as many.

    Raises:
        ValueError: num_each is below 1, or there are no images.

    Example:
        >>> chosen = choose_examples(model.predict(pixel_values))
        >>> shown = [images[one.row] for one in chosen]
    """
    if num_each < 1 or not len(prediction.probs):
        raise ValueError(f"num_each={num_each} of {len(prediction.probs)} images chooses nothing; pass 1 or more.")
    rows = torch.arange(len(prediction.probs))
    top_two = prediction.probs.double().cpu().topk(2, dim=-1).values
    verdict = None if prediction.verdict is None else prediction.verdict.cpu()
    labels = prediction.predicted_labels.cpu()
    sure = rows if verdict is None else rows[verdict == SURE]
    order = sorted(sure.tolist(), key=lambda i: (-top_two[i, 0].item(), -prediction.gap_ratio[i].item(), i))
    found = [ChosenExample("surest", "", i) for i in _distinct(order, labels, num_each)]
    taken = {example.row for example in found}
    others = [i for i in (rows if verdict is None else rows[verdict == TORN]).tolist() if i not in taken]
    order = sorted(others, key=lambda i: (-top_two[i, 1].item(), i))
    found += [ChosenExample("most torn", "", i) for i in _distinct(order, labels, num_each)]
    taken = {example.row for example in found}
    candidates: list[tuple[float, str, int, int]] = []
    for name, one in {"": prediction, **(outsiders or {})}.items():
        if one.fisher_statistic is not None:
            answers = one.predicted_labels.tolist()
            values = one.fisher_statistic.double().tolist()
            candidates += [(-value, name, i, answers[i]) for i, value in enumerate(values) if name or i not in taken]
    candidates.sort()
    places = _distinct(range(len(candidates)), torch.tensor([answer for *_, answer in candidates]), num_each)
    return found + [ChosenExample("most unfamiliar", candidates[i][1], candidates[i][2]) for i in places]


def _distinct(order: Sequence[int], labels: Tensor, count: int) -> list[int]:
    """The first of `order` with labels that differ; then the first of the others."""
    firsts: list[int] = []
    others: list[int] = []
    seen: set[int] = set()
    for i in order:
        label = int(labels[i])
        (others if label in seen else firsts).append(i)
        seen.add(label)
        if len(firsts) == count:
            return firsts
    return (firsts + others)[:count]
