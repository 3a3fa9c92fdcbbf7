"""The model card of a BNDL checkpoint: metadata that the Hub reads, and a page for people.

Everything in it comes from the model itself or from figures that were measured; what was not measured is not mentioned,
and no path of the machine it was made on gets in. The words are in card_template.md, what may stand in it in
card_facts.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from numbers import Integral, Real

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, StrictUndefined
from scipy.stats import t as student_t

from bndl_hf.hub.card_facts import CardFacts, as_code, as_text, image_link, is_hub_id, public_name
from bndl_hf.model.modeling_bndl import BNDLForImageClassification
from bndl_hf.model.posterior_head import SPARSITY_THRESHOLD
from bndl_hf.model.presets import PRESETS
from bndl_hf.uncertainty.measures import find_measure

# Measures a card shows, in this order; any `pavpu_N_draws` follows `pavpu`.
_SHOWN = (
    "accuracy",
    "negative_log_likelihood",
    "expected_calibration_error",
    "brier_score",
    "area_under_risk_coverage",
    "pavpu",
    "share_certain",
    "accuracy_certain",
    "accuracy_uncertain",
)
# What of it goes into the metadata's model-index.
_INDEXED = ("accuracy", "negative_log_likelihood", "expected_calibration_error")
# What a card made before the repository had a name calls it.
PLACEHOLDER_ID = "your-name/your-model"


def create_model_card(
    model: BNDLForImageClassification,
    results: Mapping[str, object],
    *,
    base_model: str | None = None,
    dataset_name: str | Sequence[str] | None = None,
    figures: Sequence[str] = (),
    model_id: str | None = None,
    license: str | None = None,
    split: str | None = None,
    language: str | Sequence[str] | None = None,
    tags: str | Sequence[str] | None = None,
    model_name: str | None = None,
    finetuned_from: str | None = None,
    tasks: str | Sequence[str] | None = None,
    dataset: str | Sequence[str] | None = None,
    dataset_tags: str | Sequence[str] | None = None,
    dataset_args: str | Sequence[str] | None = None,
) -> ModelCard:
    """A model card with the measured results, what the decision layer is, and how its uncertainty is to be read.

    The last nine arguments are those of `Trainer.create_model_card`, with the same meaning.

    Args:
        model: the classifier the card is about.
        results: measured figures by name, as `scripts/finetune.py` and `scripts/evaluate.py` write them: accuracy,
            negative_log_likelihood, expected_calibration_error, brier_score, area_under_risk_coverage, pavpu,
            share_certain, ... Other entries are left alone.
        base_model: Hub id of the classifier that was wrapped, or a local folder, of which only the name is shown.
        dataset_name: Hub id, built-in name or folder of the data, or several; of a folder only the name is shown.
        figures: image files that lie beside the card; they are shown in this order, by their names.
        model_id: Hub id for the code examples; None writes "your-name/your-model".
        license: e.g. "apache-2.0"; None says nothing about it.
        split: split the results were measured on; None takes it from `results["evaluated_on"]`, if it is there.
        language: for the metadata, e.g. "en" where class names are English.
        tags: for the metadata, beside those of every BNDL model.
        model_name: title of the card; None takes the last part of `model_id`.
        finetuned_from: another name for `base_model`.
        tasks: "image-classification", the only one there is.
        dataset: another name for `dataset_name`.
        dataset_tags: Hub ids of the data for the metadata; None takes those of `dataset_name` that are Hub ids.
        dataset_args: configuration of the data, e.g. "plain_text"; of several data sets one for each.

    Returns:
        A `huggingface_hub.ModelCard`; `card.save(...)` writes it, `card.validate()` asks the Hub to check it.

    Raises:
        ValueError: a measured figure is not a finite number; two names for one thing with different values; another
            task than image-classification.

    Example:
        >>> create_model_card(model, {"accuracy": 0.98}, dataset_name="uoft-cs/cifar10").save("README.md")
    """
    facts = CardFacts.read(
        base_model=base_model,
        finetuned_from=finetuned_from,
        dataset_name=dataset_name,
        dataset=dataset,
        dataset_tags=dataset_tags,
        dataset_args=dataset_args,
        tasks=tasks,
        tags=tags,
        language=language,
    )
    drawn = sorted((name for name in results if re.fullmatch(r"pavpu_\d+_draws", str(name))), key=len)
    shown = [name for known in _SHOWN for name in (known, *(drawn if known == "pavpu" else []))]
    measured = {name: _as_number(name, results[name]) for name in shown if results.get(name) is not None}
    if split is None and (found := re.match(r"split '([\w.-]+)'", str(results.get("evaluated_on")))):
        split = found[1]
    num_images = results.get("num_images")
    if not isinstance(num_images, Integral | None):
        raise ValueError(f"results['num_images'] is {num_images!r}; a card shows a whole number of images.")
    model_id = public_name(model_id)
    name = public_name(model_name) or (model_id or f"bndl-{model.backbone.config.model_type}").split("/")[-1]
    metadata = ModelCardData(
        model_name=name if measured else None,
        license=license,
        language=facts.language or None,
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=facts.tags,
        base_model=base if is_hub_id(base := facts.base_model) else None,
        datasets=facts.dataset_ids if len(facts.dataset_ids) > 1 else next(iter(facts.dataset_ids), None),
        eval_results=[
            EvalResult(
                task_type="image-classification",
                task_name="Image classification",
                dataset_type=", ".join(facts.dataset_ids or facts.datasets) or "unknown",
                dataset_name=", ".join(facts.datasets) or "unknown",
                dataset_config=", ".join(facts.dataset_args) or None,
                dataset_split=split,
                metric_type=key,
                metric_name=key.replace("_", " ").capitalize(),
                metric_value=measured[key],
            )
            for key in _INDEXED
            if key in measured
        ]
        or None,
    )
    rows = [
        {"name": measure.label, "value": measure.write(value), "meaning": measure.describe()}
        for key, value in measured.items()
        if (measure := find_measure(key)) is not None
    ]
    words = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    words.filters |= {"code": as_code, "text": as_text, "image": image_link}
    template = words.from_string(files("bndl_hf.hub").joinpath("card_template.md").read_text(encoding="utf-8"))
    return ModelCard(
        template.render(
            card_data=metadata.to_yaml(),
            title=name,
            model_id=model_id or PLACEHOLDER_ID,
            base_model=public_name(facts.base_model),
            datasets=facts.datasets,
            split=split,
            num_images=num_images,
            rows=rows,
            figures=figures,
            tuning=_describe_tuning(results.get("tuning")),
            **_describe(model),
        )
    )


def _describe(model: BNDLForImageClassification) -> dict[str, object]:
    """What the model itself can tell: sizes, sparsity, what departs from the preset, what "certain" amounts to."""
    config = model.config
    loadings = model.decision_layer.factor_loadings > SPARSITY_THRESHOLD  # [K, C]
    preset = PRESETS[config.preset]
    S, threshold = config.num_samples, config.certainty_threshold
    gap = student_t.isf(threshold / 2, S - 1) / math.sqrt(S)  # mean over standard deviation at which p is the threshold
    return {
        "S": S,
        "p": f"{threshold:g}",
        "architecture": type(model.backbone).__name__,
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "D": config.feature_dim,
        "K": loadings.shape[0],
        "C": loadings.shape[1],
        "sparsity": f"{100 * loadings.float().mean().item():.1f} %",
        "num_active": int(loadings.any(dim=1).sum()),
        "factors_per_class": f"{loadings.float().sum(dim=0).median().item():.0f}",
        "preset": config.preset,
        "departures": {name: getattr(config, name) for name in preset if getattr(config, name) != preset[name]},
        "temperature": f"{config.temperature:.3g}" if config.temperature != 1 else None,
        "critical_gap": f"{gap:.2f}",
        "critical_flip": f"{100 * 0.5 * math.erfc(gap / math.sqrt(2)):.1f} %",
    }


def _describe_tuning(tuning: object) -> str | None:
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
