"""The model card of a BNDL checkpoint: metadata the Hub reads, and a page a person reads.

Everything in it comes from the model itself or from figures that were measured; what was not measured is not mentioned,
and no path of the machine it was made on gets in. The words are in card_template.md.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from numbers import Real
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from bndl_hf.model.modeling_bndl import BNDLForImageClassification
from bndl_hf.model.posterior_head import SPARSITY_THRESHOLD
from bndl_hf.model.presets import PRESETS
from bndl_hf.model.student_t import student_t_p_value

# Key in `results` -> (name, how it is written, what it means). {S} draws and {p} threshold are the model's own.
_MEASURES: dict[str, tuple[str, str, str]] = {
    "accuracy": ("Accuracy", "percent", "share of images answered right"),
    "nll": ("NLL", "number", "negative log-likelihood of the labels, nats; smaller is better"),
    "ece": ("ECE", "number", "expected calibration error, 15 bins of equal width; 0 is perfect"),
    "brier": ("Brier score", "number", "squared error of the probabilities, 0 to 2; smaller is better"),
    "aurc": ("AURC", "number", "area under the risk-coverage curve by largest probability; smaller is better"),
    "pavpu": ("PAvPU", "percent", "accurate and certain, or inaccurate and uncertain; exact t-test, S = {S}, p < {p}"),
    "pavpu_20_draws": ("PAvPU, 20 draws", "percent", "the same from 20 Monte-Carlo draws; paired t-test, p < {p}"),
    "share_certain": ("Certain", "percent", "share of images called certain, p < {p}"),
    "accuracy_certain": ("Accuracy where certain", "percent", "of the images called certain"),
    "accuracy_uncertain": ("Accuracy where uncertain", "percent", "of the images called uncertain"),
}
# What of it goes into the metadata's model-index, under the Hub's metric names.
_INDEXED = {"accuracy": "Accuracy", "nll": "Negative log-likelihood", "ece": "Expected calibration error"}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def create_model_card(
    model: BNDLForImageClassification,
    results: Mapping[str, Any],
    *,
    base_model: str | None = None,
    dataset_name: str | None = None,
    figures: Sequence[str] = (),
    model_id: str | None = None,
    license: str | None = None,
    split: str | None = None,
) -> ModelCard:
    """A model card with the measured results, what the decision layer is, and how its uncertainty is to be read.

    Args:
        model: the classifier the card is about.
        results: measured figures by name, as `scripts/finetune.py` and `scripts/demo.py` write them: accuracy, nll,
            ece, brier, aurc, pavpu, share_certain, ... Other entries are left alone.
        base_model: Hub id of the classifier that was wrapped, or a local folder, of which only the name is shown.
        dataset_name: Hub id, built-in name or folder of the data; of a folder only the name is shown.
        figures: image files that lie beside the card; they are shown in this order, by their names.
        model_id: Hub id for the code examples; None writes "your-name/your-model".
        license: e.g. "apache-2.0"; None says nothing about it.
        split: split the results were measured on; None takes it from `results["evaluated_on"]`, if it is there.

    Returns:
        A `huggingface_hub.ModelCard`; `card.save(...)` writes it, `card.validate()` asks the Hub to check it.

    Raises:
        ValueError: a measured figure is not a finite number.

    Example:
        >>> create_model_card(model, {"accuracy": 0.98}, dataset_name="uoft-cs/cifar10").save("README.md")
    """
    measured = {key: _as_number(key, results[key]) for key in _MEASURES if results.get(key) is not None}
    dataset = _public_name(dataset_name)
    if split is None and (found := re.match(r"split '([\w.-]+)'", str(results.get("evaluated_on")))):
        split = found[1]
    model_id = _public_name(model_id)
    name = model_id.split("/")[-1] if model_id else f"bndl-{model.config.backbone_config.model_type}"
    metadata = ModelCardData(
        model_name=name if measured else None,
        license=license,
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["bndl", "uncertainty", "interpretability", "bayesian"],
        base_model=base_model if _is_hub_id(base_model) else None,
        # A name without a namespace is more often a built-in or a folder than one of the Hub's old canonical datasets.
        datasets=dataset if _is_hub_id(dataset_name) and "/" in str(dataset_name) else None,
        eval_results=[
            EvalResult(
                task_type="image-classification",
                task_name="Image classification",
                dataset_type=dataset or "unknown",
                dataset_name=dataset or "unknown",
                dataset_split=split,
                metric_type=key,
                metric_name=words,
                metric_value=measured[key],
            )
            for key, words in _INDEXED.items()
            if key in measured
        ]
        or None,
    )
    settings = {"S": model.config.num_samples, "p": f"{model.config.certainty_threshold:g}"}
    rows = [
        {"name": words, "value": _written(measured[key], style), "meaning": meaning.format(**settings)}
        for key, (words, style, meaning) in _MEASURES.items()
        if key in measured
    ]
    return ModelCard.from_template(
        metadata,
        template_str=files("bndl_hf.hub").joinpath("card_template.md").read_text(encoding="utf-8"),
        title=name,
        model_id=model_id or "your-name/your-model",
        base_model=_public_name(base_model),
        dataset=dataset,
        split=split,
        num_images=results.get("num_images"),
        rows=rows,
        figures=[_relative(figure) for figure in figures],
        **settings,
        **_facts(model),
    )


def _facts(model: BNDLForImageClassification) -> dict[str, Any]:
    """What the model itself can tell: sizes, sparsity, what departs from the preset, what "certain" amounts to."""
    config = model.config
    loadings = model.decision_layer.factor_loadings > SPARSITY_THRESHOLD  # [K, C]
    preset = PRESETS[config.preset]
    gap = _critical_gap(config.num_samples, config.certainty_threshold)
    return {
        "architecture": type(model.backbone).__name__,
        "num_parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "D": config.feature_dim,
        "K": loadings.shape[0],
        "C": loadings.shape[1],
        "sparsity": _written(loadings.float().mean().item(), "percent"),
        "num_active": int(loadings.any(dim=1).sum()),
        "factors_per_class": f"{loadings.float().sum(dim=0).median().item():.0f}",
        "preset": config.preset,
        "departures": {name: getattr(config, name) for name in preset if getattr(config, name) != preset[name]},
        "critical_gap": f"{gap:.2f}",
        "critical_flip": _written(0.5 * math.erfc(gap / math.sqrt(2)), "percent"),
    }


def _critical_gap(num_samples: int, threshold: float) -> float:
    """Mean over standard deviation of the gap at which the t-test's p-value is `threshold`, found by bisection."""
    low, high = 0.0, 1e6
    for _ in range(100):
        middle = (low + high) / 2
        t = torch.tensor(middle * math.sqrt(num_samples), dtype=torch.float64)
        low, high = (middle, high) if student_t_p_value(t, num_samples - 1).item() > threshold else (low, middle)
    return high


def _as_number(name: str, value: Any) -> float:
    if not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"results[{name!r}] is {value!r}; a card shows finite numbers. Measure it, or leave it out.")
    return round(float(value), 6)


def _written(value: float, style: str) -> str:
    if style == "percent":
        return f"{100 * value:.1f} %"
    return f"{value:.3f}" if value >= 0.001 or value == 0 else f"{value:.1e}"


def _is_hub_id(name: str | None) -> bool:
    """Whether it reads as a Hub id and no folder of that name lies here."""
    return name is not None and _HUB_ID.fullmatch(name) is not None and not Path(name).exists()


def _public_name(name: str | None) -> str | None:
    """The name as the world may read it: a Hub id as it is, of a path only its last part."""
    if name is None or _is_hub_id(name):
        return name
    return PureWindowsPath(name).name or None  # understands / and \ alike


def _relative(figure: str) -> str:
    """A figure's place beside the card: relative paths stay, absolute ones become the file's name."""
    path = PurePosixPath(figure)
    leads_out = path.is_absolute() or ".." in path.parts or PureWindowsPath(figure).drive
    return PureWindowsPath(figure).name if leads_out else str(path)
