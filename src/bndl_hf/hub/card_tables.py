"""The rows of a card's tables: what was measured, at a glance and in full, and how the model was trained."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from bndl_hf.hub.card_facts import one_line
from bndl_hf.model.verdicts import as_percentage
from bndl_hf.uncertainty.measures import find_measure

# Measures at the top of a card, in this order, before the verdicts.
AT_A_GLANCE = ("accuracy", "negative_log_likelihood", "expected_calibration_error")
# Measures further down; any `pavpu_N_draws` follows `pavpu`.
_OTHERS = (
    "brier_score",
    "area_under_risk_coverage",
    "pavpu",
    "share_certain",
    "accuracy_certain",
    "accuracy_uncertain",
)


def measured_numbers(results: Mapping[str, object]) -> dict[str, float]:
    """The measures that a card shows, six digits each, in its order.

    Raises:
        ValueError: one of them is not a finite number.
    """
    drawn = sorted((name for name in results if re.fullmatch(r"pavpu_\d+_draws", str(name))), key=len)
    order = [*AT_A_GLANCE, *(name for one in _OTHERS for name in (one, *(drawn if one == "pavpu" else [])))]
    return {name: _as_number(name, results[name]) for name in order if results.get(name) is not None}


def number_of_images(results: Mapping[str, object]) -> int | None:
    """`results["num_images"]`.

    Raises:
        ValueError: it is not a whole number.
    """
    found = results.get("num_images")
    if not isinstance(found, Integral | None) or isinstance(found, bool):
        raise ValueError(f"results['num_images'] is {found!r}; a card shows a whole number of images.")
    return None if found is None else int(found)


def glance_rows(results: Mapping[str, object], model: Mapping[str, Any]) -> list[dict[str, str]]:
    """The one table at the top: accuracy, NLL, ECE, what is answered and how well, what is unfamiliar, weights a class.

    Args:
        results: as `create_model_card` takes them; `verdicts` is what `bndl_hf.evaluation.judge_answers` measures.
        model: of `describe_model`.

    Returns:
        {name, value, meaning} each; [] where nothing was measured.
    """
    measured = measured_numbers(results)
    rows = [_row(name, measured[name]) for name in AT_A_GLANCE if name in measured]
    rows += _verdict_rows(results.get("verdicts"))
    rows += _rows_of_all_labels(results.get("all_right_labels"))
    if not rows:
        return []
    weights = f"{model['factors_per_class']}"
    rows.append({"name": "Weights a class", "value": weights, "meaning": "non-zero loadings of the median class"})
    return rows


def other_rows(results: Mapping[str, object]) -> list[dict[str, str]]:
    """The measures that are not at the top."""
    return [_row(name, value) for name, value in measured_numbers(results).items() if name not in AT_A_GLANCE]


def _row(name: str, value: float) -> dict[str, str]:
    measure = find_measure(name)
    assert measure is not None
    return {"name": measure.label, "value": measure.write(value), "meaning": measure.describe()}


def _rows_of_all_labels(found: object) -> list[dict[str, str]]:
    """Accuracy where several classes are right."""
    if not isinstance(found, Mapping) or found.get("accuracy") is None:
        return []
    count = found.get("num_images")
    whose = f"{count:,} images" if isinstance(count, Integral) else "images"
    rows = []
    for key, name, words in (
        ("accuracy", "Accuracy, all right labels", f"share of {whose} answered with any class that is right"),
        ("errors_among_sure", "Errors among the sure, all right labels", "share of sure answers that are none of them"),
    ):
        if found.get(key) is not None:
            value = f"{100 * _as_number(f'all_right_labels: {key}', found[key]):.1f} %"
            rows.append({"name": name, "value": value, "meaning": words})
    return rows


def _verdict_rows(found: object) -> list[dict[str, str]]:
    if not isinstance(found, Mapping):
        return []

    def percent(key: str) -> str:
        return f"{100 * _as_number(f'verdicts: {key}', found[key]):.1f} %"

    def promised(key: str) -> str:
        return f"; promised: {words}" if (words := _promise(key, found.get(key))) else ""

    count = f"the {found['num_sure']:,} " if isinstance(found.get("num_sure"), Integral) else ""
    rows = []
    for key, name, meaning in (
        ("share_sure", "Answered (sure)", "share of images called sure"),
        ("errors_among_sure", "Errors among them", f"share of {count}sure answers that are wrong" + promised("risk")),
        (
            "set_coverage",
            "Sets that hold it",
            "share of torn images whose prediction set holds the right class" + promised("coverage"),
        ),
        ("share_unfamiliar", "Called unfamiliar", "share of the model's own images called unfamiliar"),
    ):
        if found.get(key) is not None:
            rows.append({"name": name, "value": percent(key), "meaning": meaning})
    others, sizes = found.get("unfamiliar"), found.get("num_outsiders")
    for name, share in others.items() if isinstance(others, Mapping) else ():
        size = sizes.get(name) if isinstance(sizes, Mapping) else None
        whose = f"{size:,} images" if isinstance(size, Integral) else "images"
        value = f"{100 * _as_number(name, share):.1f} %"
        rows.append(
            {
                "name": f"Unfamiliar: {one_line(name)}",
                "value": value,
                "meaning": f"the same of {whose} of no class here",
            }
        )
    return rows


def _promise(key: str, value: object) -> str:
    if not isinstance(value, Real):
        return ""
    return f"at most {as_percentage(float(value))}" if key == "risk" else as_percentage(float(value))


def unfamiliar_sentence(results: Mapping[str, object]) -> str | None:
    """ "37.2 % of background"; None where no other images were looked at."""
    verdicts = results.get("verdicts")
    shares = verdicts.get("unfamiliar") if isinstance(verdicts, Mapping) else None
    if not isinstance(shares, Mapping) or not shares:
        return None
    return ", ".join(f"{100 * share:.1f} % of {one_line(name)}" for name, share in shares.items())


def training_rows(results: Mapping[str, object], given: Mapping[str, str] | None) -> dict[str, str]:
    """How the model was trained: what was given, then what results.json says beside that."""
    rows = {one_line(what): one_line(words) for what, words in (given or {}).items()}
    number: dict[str, tuple[str, str]] = {
        "num_training_images": ("Training images", "{:,}"),
        "num_train_epochs": ("Epochs", "{:g}"),
        "train_seconds": ("Time, seconds", "{:,.0f}"),
        "seed": ("Seed", "{:d}"),
    }
    for key, (what, form) in number.items():
        value = results.get(key)
        if isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value):
            rows.setdefault(what, form.format(value))
    environment = results.get("environment")
    if isinstance(environment, Mapping):
        known = [
            f"{name} {environment[name]}" for name in ("bndl-hf", "torch", "transformers") if environment.get(name)
        ]
        if known:
            rows.setdefault("Made with", one_line(", ".join(known)))
    return rows


def describe_tuning(tuning: object) -> str | None:
    """How the decision layer was chosen, from the entry that finetune.py writes; None where it was not."""
    if not isinstance(tuning, Mapping) or not tuning.get("chosen"):
        return None
    names = {"logistic regression": "the non-negative equivalent of logistic regression", "trained": "a trained layer"}
    chosen = names.get(tuning["chosen"], str(tuning["chosen"]))
    if not tuning.get("num_held_out"):
        return chosen
    sparse = ", then made sparse" if tuning.get("is_made_sparse") else ""
    return f"{chosen}, for its likelihood on {tuning['num_held_out']:,} held-out images{sparse}"


def _as_number(name: str, value: object) -> float:
    if not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"results[{name!r}] is {value!r}; a card shows finite numbers. Measure it, or leave it out.")
    return round(float(value), 6)
