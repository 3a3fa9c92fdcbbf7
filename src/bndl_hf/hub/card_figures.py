"""The pictures of a card: example images with their verdicts and parts, calibration, risk, sparsity, top factors.

What can be drawn from results.json and the model is drawn; the rest is left out. Each has words for those who do not
see it, and colours that work on a light page and on a dark one. matplotlib is an extra: without it there are none.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from bndl_hf.hub.card_facts import CardFigure, one_line
from bndl_hf.hub.widget import CardExample
from bndl_hf.model.posterior_head import SPARSITY_THRESHOLD
from bndl_hf.model.verdicts import as_percentage

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bndl_hf.model.modeling_bndl import BNDLForImageClassification

logger = logging.getLogger(__name__)

# Name of a figure -> where it stands on the card; they are drawn, and shown, in this order.
FIGURES = {
    "examples": "examples",
    "reliability": "charts",
    "risk_coverage": "charts",
    "accuracy_by_decile": "charts",
    "top_factors": "parts",
    "weights_per_class": "parts",
}
_BINS = ("edges", "count", "confidence", "accuracy")
# Classes of a prediction set that stand beside an image.
_SET_SHOWN = 3


def weights_per_class(model: BNDLForImageClassification) -> list[int]:
    """Non-zero loadings of each class, [C]: what `results["weights_per_class"]` of a card holds."""
    return (model.decision_layer.factor_loadings > SPARSITY_THRESHOLD).sum(dim=0).tolist()


def draw_card_figures(
    folder: Path,
    results: Mapping[str, Any],
    *,
    label_names: Sequence[str] = (),
    examples: Sequence[CardExample] = (),
    pictures: Sequence[Image.Image] = (),
    thumbnails: Mapping[int, Sequence[Image.Image]] | None = None,
    sources: str = "",
    prefix: str = "figures",
) -> list[CardFigure]:
    """Draw what the results allow into `folder`/`prefix`, and say what each figure shows.

    Args:
        folder: of the card.
        results: with the entries `reliability`, `risk_coverage`, `deciles` (`bndl_hf.evaluation.judge_answers`),
            `weights_per_class` and `top_factors` ([{"factor", "name", "share"}]), each of which may be missing.
        label_names: of the C classes.
        examples: answers to example images.
        pictures: those images, one for each.
        thumbnails: {factor: pictures}.
        sources: where the pictures are from; stands below them.
        prefix: name of the folder that the files go into.

    Returns:
        The figures in the order of `FIGURES`. One whose results do not fit, and all where matplotlib is not installed,
        are left out with a warning: a picture is no reason to lose a push.

    Raises:
        ValueError: not a picture for each example.
    """
    if len(examples) != len(pictures):
        raise ValueError(f"{len(examples)} examples with {len(pictures)} pictures; give each its own.")
    makers = _makers(results, label_names, examples, pictures, thumbnails or {})
    if makers and find_spec("matplotlib") is None:
        logger.warning("The card has no figures: matplotlib is not installed; pip install bndl-hf[plots].")
        return []
    from bndl_hf.plots.neutral import save_neutral_figure

    found = []
    for name, make in makers.items():
        try:
            figure = make()
            described = describe_figure(
                name, results, examples, sources=sources, has_thumbnails=bool(thumbnails), prefix=prefix
            )
        except (KeyError, TypeError, ValueError) as error:  # results.json may hold anything under these names
            logger.warning("The card has no figure %s: results do not hold what it is drawn from (%r).", name, error)
            continue
        (folder / prefix).mkdir(parents=True, exist_ok=True)
        save_neutral_figure(figure, folder / prefix / f"{name}.webp")
        found.append(described)
    return found


def describe_figure(
    name: str,
    results: Mapping[str, Any],
    examples: Sequence[CardExample],
    *,
    sources: str = "",
    has_thumbnails: bool = False,
    prefix: str = "figures",
) -> CardFigure:
    """The figure of that name with words for those who do not see it, from the numbers it was drawn from."""
    alt, caption = _WORDS[name](results, examples)
    if sources and (name == "examples" or (name == "top_factors" and has_thumbnails)):
        caption = f"{caption} Pictures: {sources}."
    return CardFigure(f"{prefix}/{name}.webp", alt, caption, FIGURES[name])


def fingerprint(results: Mapping[str, Any], examples: Sequence[CardExample]) -> str:
    """Of everything that figures are drawn from: another one means that they are out of date."""
    names = ("reliability", "risk_coverage", "deciles", "weights_per_class", "top_factors", "accuracy")
    drawn = {name: results.get(name) for name in (*names, "expected_calibration_error")}
    written = json.dumps([drawn, [one.to_dict() for one in examples]], sort_keys=True)
    return hashlib.sha256(written.encode()).hexdigest()


def _makers(
    results: Mapping[str, Any],
    label_names: Sequence[str],
    examples: Sequence[CardExample],
    pictures: Sequence[Image.Image],
    thumbnails: Mapping[int, Sequence[Image.Image]],
) -> dict[str, Callable[[], Figure]]:
    """What can be drawn: name -> a function that draws it."""
    from bndl_hf import plots

    makers: dict[str, Callable[[], Figure]] = {}
    if examples:
        shown = [
            plots.ShownAnswer(
                image=picture,  # type: ignore[arg-type]  # NumPy reads a PIL image
                label=one.label,
                probability=as_percentage(one.probability),
                verdict=one.verdict,
                notes=_notes(one),
                parts=one.parts,
                rest=one.rest,
                bias=one.bias,
                thumbnails={factor: thumbnails[factor] for factor, *_ in one.parts if factor in thumbnails},
            )
            for one, picture in zip(examples, pictures, strict=True)
        ]
        makers["examples"] = lambda: plots.verdict_sheet(shown)
    if bins := results.get("reliability"):
        error = results.get("expected_calibration_error")
        makers["reliability"] = lambda: _reliability(bins, error)
    if curve := results.get("risk_coverage"):
        accuracy = results.get("accuracy")
        makers["risk_coverage"] = lambda: plots.risk_coverage_plot(
            {"largest probability": curve["risk"]}, accuracy, dpi=110
        )
    if groups := results.get("deciles"):
        names = {"entropy": "entropy", "mutual_information": "mutual information"}
        overall = results.get("accuracy")
        makers["accuracy_by_decile"] = lambda: plots.accuracy_by_decile_plot(
            {words: groups[key]["accuracy"] for key, words in names.items() if key in groups}, overall, dpi=110
        )
    if factors := results.get("top_factors"):
        makers["top_factors"] = lambda: plots.top_factors_plot(
            [one["name"] for one in factors],
            [one["share"] for one in factors],
            [list(thumbnails.get(one["factor"], ())) for one in factors],
        )
    if counts := results.get("weights_per_class"):
        makers["weights_per_class"] = lambda: plots.weights_per_class_plot(
            counts, list(label_names) if len(label_names) == len(counts) else None, dpi=110
        )
    return {name: makers[name] for name in FIGURES if name in makers}


def _reliability(bins: Mapping[str, Any], error: float | None) -> Figure:
    from bndl_hf.plots import reliability_diagram

    edges, count, confidence, accuracy = (
        [float("nan") if value is None else value for value in bins[key]] for key in _BINS
    )
    return reliability_diagram(edges, count, confidence, accuracy, error=error, dpi=110)


def _notes(example: CardExample) -> list[str]:
    """What stands beside an image: between what the model is torn, and what the image is."""
    notes = []
    others = [name for name in example.prediction_set if name != example.label]
    if example.verdict == "torn" and others:
        more = f" +{len(others) - _SET_SHOWN + 1}" if len(others) >= _SET_SHOWN else ""
        notes.append(f"or {', '.join(others[: _SET_SHOWN - 1])}{more}")
    return [*notes, example.title]


def _of_examples(results: Mapping[str, Any], examples: Sequence[CardExample]) -> tuple[str, str]:
    sentences = "; ".join(f"{one_line(one.title)}: {one.sentence}" for one in examples)
    return (
        f"{len(examples)} images with the model's answers. {sentences}",
        "Green bars: the parts that the answer's logit is made of, on one scale, each with the factor's name or the "
        "classes it feeds.",
    )


def _of_reliability(results: Mapping[str, Any], examples: Sequence[CardExample]) -> tuple[str, str]:
    error = results.get("expected_calibration_error")
    said = f" Expected calibration error: {error:.3f}." if isinstance(error, float) else ""
    bins = results["reliability"]
    filled = [i for i, count in enumerate(bins["count"]) if count]
    last = filled[-1]
    return (
        f"Reliability diagram: share of right answers against the largest probability, in {len(filled)} bins.{said} "
        f"In the top bin {bins['accuracy'][last]:.1%} are right, at a mean of {bins['confidence'][last]:.1%}.",
        "Bars on the diagonal: probabilities come true.",
    )


def _of_risk(results: Mapping[str, Any], examples: Sequence[CardExample]) -> tuple[str, str]:
    curve = results["risk_coverage"]
    half = min(range(len(curve["coverage"])), key=lambda i: abs(curve["coverage"][i] - 0.5))
    return (
        f"Risk against coverage: of the surest half of the images {curve['risk'][half]:.1%} are answered wrongly, "
        f"of all of them {curve['risk'][-1]:.1%}.",
        "How many errors remain if only the surest images are answered.",
    )


def _of_deciles(results: Mapping[str, Any], examples: Sequence[CardExample]) -> tuple[str, str]:
    accuracy = results["deciles"]["entropy"]["accuracy"]
    return (
        f"Accuracy of {len(accuracy)} groups of images from least to most uncertain by entropy: "
        + ", ".join(f"{value:.1%}" for value in accuracy)
        + ".",
        "Groups of equally many images: where it is unsure it should be wrong more often.",
    )


def _of_factors(results: Mapping[str, Any], examples: Sequence[CardExample]) -> tuple[str, str]:
    factors = results["top_factors"]
    listed = "; ".join(f"{one_line(one['name'])} ({one['share']:.1%})" for one in factors)
    return (
        f"The {len(factors)} factors that carry most of the evidence of all answers: {listed}.",
        "The factors that matter most: their share of the evidence of all answers.",
    )


def _of_weights(results: Mapping[str, Any], examples: Sequence[CardExample]) -> tuple[str, str]:
    counts = sorted(results["weights_per_class"])
    return (
        f"Non-zero loadings of each of {len(counts)} classes: from {counts[0]:,} to {counts[-1]:,}, median "
        f"{counts[len(counts) // 2]:,}.",
        "How many factors a class is made of.",
    )


_WORDS: dict[str, Callable[[Mapping[str, Any], Sequence[CardExample]], tuple[str, str]]] = {
    "examples": _of_examples,
    "reliability": _of_reliability,
    "risk_coverage": _of_risk,
    "accuracy_by_decile": _of_deciles,
    "top_factors": _of_factors,
    "weights_per_class": _of_weights,
}
