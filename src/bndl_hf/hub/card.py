"""The model card of a BNDL checkpoint: metadata that the Hub reads, and a page for people.

Everything in it comes from the model itself or from figures that were measured; what was not measured is not mentioned,
and no path of the machine it was made on gets in. The words are in card_template.md, the rows of its tables in
card_tables.py, what may stand in it in card_facts.py. `describe_model` and `write_card` make the same card without the
model at hand.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, StrictUndefined
from scipy.stats import t as student_t

from bndl_hf.hub.card_facts import CardFacts, CardFigure, as_code, as_text, image_link, is_hub_id, public_name
from bndl_hf.hub.card_tables import (
    AT_A_GLANCE,
    describe_tuning,
    glance_rows,
    measured_numbers,
    number_of_images,
    other_rows,
    training_rows,
    unfamiliar_sentence,
)
from bndl_hf.hub.citations import citations_of
from bndl_hf.hub.widget import CardExample, widget_entries
from bndl_hf.model.modeling_bndl import BNDLForImageClassification
from bndl_hf.model.posterior_head import SPARSITY_THRESHOLD
from bndl_hf.model.presets import PRESETS
from bndl_hf.model.verdicts import as_percentage

# What a card made before the repository had a name calls it.
PLACEHOLDER_ID = "your-name/your-model"


def create_model_card(
    model: BNDLForImageClassification,
    results: Mapping[str, object],
    *,
    base_model: str | None = None,
    dataset_name: str | Sequence[str] | None = None,
    figures: Sequence[str | CardFigure] = (),
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
    examples: Sequence[CardExample] = (),
    training: Mapping[str, str] | None = None,
) -> ModelCard:
    """A model card with the measured results, what the decision layer is, and how its answers are to be read.

    Those from `language` to `dataset_args` are arguments of `Trainer.create_model_card`, with the same meaning.

    Args:
        model: the classifier the card is about.
        results: measured figures by name, as `scripts/finetune.py` and `scripts/evaluate.py` write them: accuracy,
            negative_log_likelihood, expected_calibration_error, brier_score, ..., and `verdicts`
            (`bndl_hf.evaluation.judge_answers`). Other entries are left alone.
        base_model: Hub id of the classifier that was wrapped, or a local folder, of which only the name is shown.
        dataset_name: Hub id, built-in name or folder of the data, or several; of a folder only the name is shown.
        figures: image files that lie beside the card, by their names, or with a description (`CardFigure`).
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
        examples: answers to example images (`bndl_hf.hub.answer_examples`); those with a file become the `widget` of
            the model page.
        training: rows of the table of training, {what: words}, beside what `results` says of it.

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
    stated = {"license": license, "split": split, "model_name": model_name, "model_id": model_id}
    return write_card(
        describe_model(model), results, facts, figures=figures, examples=examples, training=training, **stated
    )


def write_card(
    model: Mapping[str, Any],
    results: Mapping[str, object],
    facts: CardFacts,
    *,
    figures: Sequence[str | CardFigure] = (),
    examples: Sequence[CardExample] = (),
    training: Mapping[str, str] | None = None,
    model_id: str | None = None,
    model_name: str | None = None,
    license: str | None = None,
    split: str | None = None,
) -> ModelCard:
    """The card of `create_model_card` from what `describe_model` told, so that no model is needed to write it again.

    Raises:
        ValueError: as `create_model_card`.
    """
    measured, num_images = measured_numbers(results), number_of_images(results)
    split = split or split_of(results)
    model_id = public_name(model_id)
    name = public_name(model_name) or (model_id or f"bndl-{model['model_type']}").split("/")[-1]
    metadata = ModelCardData(
        model_name=name if measured else None,
        license=license,
        language=facts.language or None,
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=facts.tags,
        base_model=base if is_hub_id(base := facts.base_model) else None,
        datasets=facts.dataset_ids if len(facts.dataset_ids) > 1 else next(iter(facts.dataset_ids), None),
        metrics=["accuracy"] if "accuracy" in measured else None,
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
            for key in AT_A_GLANCE
            if key in measured
        ]
        or None,
    )
    if widget := widget_entries(examples):
        metadata["widget"] = widget
    described = [one if isinstance(one, CardFigure) else CardFigure(one) for one in figures]
    words = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    words.filters |= {"code": as_code, "text": as_text, "image": image_link, "percent": as_percentage}
    template = words.from_string(files("bndl_hf.hub").joinpath("card_template.md").read_text(encoding="utf-8"))
    return ModelCard(
        template.render(
            card_data=metadata.to_yaml(),
            title=name,
            model_id=model_id or PLACEHOLDER_ID,
            model=model,
            base_model=public_name(facts.base_model),
            datasets=facts.datasets,
            measured=_measured_on(split, facts.datasets, num_images),
            rows=glance_rows(results, model),
            others=other_rows(results),
            figures={
                place: [one for one in described if one.place == place] for place in ("examples", "charts", "parts")
            },
            training=training_rows(results, training),
            tuning=describe_tuning(results.get("tuning")),
            caught=unfamiliar_sentence(results),
            citations=model["citations"],
        )
    )


def split_of(results: Mapping[str, object]) -> str | None:
    """The split that `results["evaluated_on"]` names, or None."""
    found = re.match(r"split '([\w.-]+)'", str(results.get("evaluated_on")))
    return found[1] if found else None


def describe_model(model: BNDLForImageClassification) -> dict[str, Any]:
    """What the model itself tells a card: sizes, sparsity, verdicts, departures from the preset, whose methods it uses.

    Plain numbers, texts, lists and dictionaries, which JSON holds.
    """
    config = model.config
    loadings = model.decision_layer.factor_loadings > SPARSITY_THRESHOLD  # [K, C]
    preset = PRESETS[config.preset]
    S, threshold = config.num_samples, config.certainty_threshold
    gap = student_t.isf(threshold / 2, S - 1) / math.sqrt(S)  # mean over standard deviation at which p is the threshold
    verdict = None
    if config.verdict is not None:
        names = ("risk", "delta", "threshold", "coverage", "familiar", "num_held_out")
        verdict = {name: config.verdict[name] for name in names}
    return {
        "S": S,
        "p": f"{threshold:g}",
        "architecture": type(model.backbone).__name__,
        "model_type": model.backbone.config.model_type,
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
        "verdict": verdict,
        "citations": [list(one) for one in citations_of(config)],
    }


def _measured_on(split: str | None, datasets: Sequence[str], num_images: int | None) -> str:
    """ "Measured on the test split of `digits`, 359 images, with the exact prediction." """
    where = f" on the {as_text(split)} split" if split else ""
    whose = f" of {', '.join(map(as_code, datasets))}" if datasets else ""
    count = f", {num_images:,} images" if num_images else ""
    return f"Measured{where}{whose}{count}, with the exact prediction."
