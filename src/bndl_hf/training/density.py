"""How sparse a decision layer is: a step of the sparse path, chosen on held-out rows.

Three rules, each for someone: "interpretable" for people who read explanations, the one-standard-error rule for those
who want as few weights as the likelihood can be had with, and a share of the loadings for those who know what they
want. sparse_path.py has the path, docs/interpretability.md what each costs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.utils import logging

from bndl_hf.model.configuration_bndl import BNDLConfig
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.model.posterior_head import PosteriorHead
from bndl_hf.model.predictive import BNDLPrediction
from bndl_hf.model.presets import MOST_WEIGHTS_TO_READ
from bndl_hf.training.convex_layer import VARIANCE_SCALES, concentration_of, raw_concentration
from bndl_hf.training.logistic_regression import Split
from bndl_hf.training.sparse_path import LOADING_PRECISION, SparseFactors, layer_of, sparse_path
from bndl_hf.uncertainty.collecting import collect_predictions, join_predictions
from bndl_hf.uncertainty.recalibration import fit_temperature

logger = logging.get_logger(__name__)

INTERPRETABLE, AUTO = "interpretable", "auto"
# Loadings a class, densest first. A person reads the first; the second rule looks at more, and at fewer.
WEIGHTS_TO_READ = (MOST_WEIGHTS_TO_READ, 14, 10, 8, 6)
WEIGHTS_TO_COMPARE = (80, 40, 20, 14, 10, 7, 5, 3, 2)
_LADDERS = {INTERPRETABLE: WEIGHTS_TO_READ, AUTO: WEIGHTS_TO_COMPARE}
# "Interpretable": the largest parts that a person reads carry this share of the evidence.
PARTS_TO_READ, SHARE_TO_READ = 5, 0.7
# Folds are held out until there are so many rows to choose on.
_ENOUGH_ROWS = 500
# Factors: two a class, so that with ten loadings a class five classes share one; of few classes not too few.
_FACTORS_PER_CLASS, _FEWEST_FACTORS = 2, 20

Fit = Callable[[Tensor, Tensor], PosteriorHead]


@dataclass(frozen=True)
class Step:
    """A step of the path and what held-out rows say of it.

    Attributes:
        weights_per_class: loadings a class at most; 0 is the layer the path started from.
        losses: negative log-likelihood of every held-out row with `temperature`, [M], nats.
        evidence_share: of the largest five parts in the evidence for the answer, mean over held-out rows.
        temperature: fitted on the held-out rows.
    """

    weights_per_class: int
    losses: Tensor
    evidence_share: float
    temperature: float


def sparse_layer(
    layer: PosteriorHead,
    fit: Fit,
    splits: Sequence[Split],
    features: Tensor,
    config: BNDLConfig,
    density: float | str,
    seed: int = 0,
) -> PosteriorHead:
    """A sparse layer that answers like `layer`, as sparse as the rule says.

    Args:
        layer: the tuned layer, fitted on `features`.
        fit: makes such a layer of other rows.
        splits: rows to learn from and rows to choose on; the path of `features` is used where they are those rows.
        features: [N, D], float32.
        config: of the layer wanted. Its number of factors is taken where it is not the default one, else `few_factors`.
            With preset "interpretable" every factor speaks for two classes or more, else it may be a single class's.
        density: "interpretable": of the steps with at most 20 weights a class, and .7 of the evidence in the five
            largest parts, the one with the best held-out likelihood; "auto": the sparsest step whose held-out
            likelihood lies within one paired standard error of the best one (Breiman et al. 1984), the tuned layer
            among them; a number: this share of the loadings.
        seed: of the path.

    Returns:
        A fitted layer with the temperature of the held-out rows; `layer` itself where "auto" finds nothing sparser.

    Raises:
        ValueError: another density; a configuration that such a layer cannot have.
    """
    config = copy.deepcopy(config)
    if config.num_factors == default_config(config).num_factors:
        config.num_factors = few_factors(features.shape[1], config.num_labels)
    K = config.num_factors
    assert K is not None
    ladder, shared = _ladder(density, K), config.preset == INTERPRETABLE
    splits = _enough(splits)
    paths, teachers = [], []
    for split in splits:
        teachers.append(layer if _has_all(split, features) else fit(split.features, split.labels))
        paths.append(list(sparse_path(_answers(teachers[-1]), split.features, K, ladder, seed, shared)))
    dense = _judge(0, splits, teachers)
    steps = [_judge(most, splits, [layer_of(config, path[i]) for path in paths]) for i, most in enumerate(ladder)]
    for step in (dense, *steps):
        logger.info(
            "%s: negative log-likelihood %.4f on held-out images, %.0f%% of the evidence in %d parts",
            f"{step.weights_per_class} weights a class" if step.weights_per_class else "The layer tuned",
            *(step.losses.mean().item(), 100 * step.evidence_share, PARTS_TO_READ),
        )
    chosen = choose_step([dense, *steps], density)
    logger.info("Chosen: %s", f"{chosen.weights_per_class} weights a class" if chosen.weights_per_class else "dense")
    if not chosen.weights_per_class:
        return layer
    place = ladder.index(chosen.weights_per_class)
    if _has_all(splits[0], features):
        factors = paths[0][place]
    else:
        *_, factors = sparse_path(_answers(layer), features, K, ladder[: place + 1], seed, shared)

    def with_scale(scale: float) -> tuple[BNDLPrediction, Tensor]:
        layers = [
            with_posterior(layer_of(config, path[place]), path[place], s.features, scale)
            for path, s in zip(paths, splits, strict=True)
        ]
        return _predictions(splits, layers)

    # One more number than a temperature, as in tuning.py: it has to be worth one nat of all rows.
    tried = {scale: fit_temperature(*with_scale(scale)) for scale in VARIANCE_SCALES}
    scale = min(tried, key=lambda s: tried[s].negative_log_likelihood_after * tried[s].num_images + (s > 0))
    sparse = with_posterior(layer_of(config, factors), factors, features, scale)
    sparse.config.num_training_images = len(features)
    sparse.set_temperature(tried[scale].temperature)
    return sparse


def wanted_density(config: BNDLConfig) -> float | str | None:
    """The rule that a configuration asks for: of the preset "interpretable" its own, or the share it was given."""
    if config.preset != INTERPRETABLE:
        return None
    plain = BNDLConfig(
        preset=INTERPRETABLE,
        feature_dim=config.feature_dim,
        num_factors=config.num_factors,
        num_labels=config.num_labels,
    )
    return INTERPRETABLE if config.loading_density == plain.loading_density else config.loading_density


def few_factors(feature_dim: int, num_labels: int) -> int:
    """K of a sparse layer."""
    return min(max(_FACTORS_PER_CLASS * num_labels, _FEWEST_FACTORS), max(feature_dim, _FEWEST_FACTORS))


def default_config(config: BNDLConfig) -> BNDLConfig:
    """A configuration with the default preset's factors and density: of the layer that a sparse one learns from."""
    dense = copy.deepcopy(config)
    plain = BNDLConfig(feature_dim=config.feature_dim, num_labels=config.num_labels)
    dense.preset, dense.num_factors, dense.loading_density = plain.preset, plain.num_factors, plain.loading_density
    return dense


def check_density(density: object) -> None:
    """ValueError unless `density` is a rule or a share of the loadings."""
    is_share = isinstance(density, int | float) and not isinstance(density, bool) and 0 < density <= 1
    if not (is_share or density in _LADDERS):
        raise ValueError(f"density={density!r} is unknown; pass a share of the loadings in (0, 1], or {AUTO!r}.")


def choose_step(steps: Sequence[Step], density: float | str) -> Step:
    """The step a rule takes, of `steps` from dense to sparse; the first one is the layer that was tuned."""
    if density == AUTO:
        return one_standard_error(steps)
    if density != INTERPRETABLE:
        return steps[-1]
    can_be_read = [step for step in steps[1:] if step.evidence_share >= SHARE_TO_READ]
    if not can_be_read:
        most = max(steps[1:], key=lambda step: step.evidence_share)
        logger.warning(
            f"No step of the path has {SHARE_TO_READ:.0%} of the evidence in {PARTS_TO_READ} parts; the one with "
            f"{most.evidence_share:.0%}, {most.weights_per_class} weights a class, is taken."
        )
        return most
    return min(can_be_read, key=lambda step: step.losses.mean().item())


def one_standard_error(steps: Sequence[Step]) -> Step:
    """The last of `steps` whose loss lies within one standard error of the best one's, row by row.

    The error is that of the mean difference of the two on the same rows, which is far less than that of either mean.
    """
    best = min(steps, key=lambda step: step.losses.mean().item())

    def is_within(step: Step) -> bool:
        difference = step.losses - best.losses
        return difference.mean().item() <= difference.std().item() / len(difference) ** 0.5

    return [step for step in steps if step is best or is_within(step)][-1]


@torch.no_grad()
def with_posterior(
    layer: BNDLDecisionLayer, factors: SparseFactors, features: Tensor, variance_scale: float
) -> BNDLDecisionLayer:
    """`layer`, its loadings with the spread of a diagonal Laplace posterior, as `layer_from_regression` has it.

    Args:
        layer: of `layer_of`; it is changed in place.
        factors: what it was made of.
        features: [N, D], those it was learned from.
        variance_scale: >= 0, what the posterior variance is multiplied by; 0 leaves loadings as good as certain.
    """
    if variance_scale == 0:
        return layer
    curvature = torch.zeros_like(factors.loadings)  # [K, C]
    for rows in features.split(4096):
        scores, probs = factors.scores(rows), factors.logits(rows).softmax(-1)
        curvature += scores.square().T @ (probs * (1 - probs))
    lowest, highest = layer.config.min_concentration, layer.config.max_concentration
    ratio = variance_scale / (LOADING_PRECISION + curvature) / factors.loadings.square()
    k = torch.where(factors.loadings > 0, concentration_of(ratio, lowest, highest), highest)
    assert isinstance(layer.loading_concentration, Tensor)
    layer.loading_concentration.copy_(raw_concentration(k, lowest))
    return layer


def _ladder(density: float | str, num_factors: int) -> list[int]:
    """Loadings a class that the path goes through."""
    check_density(density)
    if isinstance(density, str):
        return [most for most in _LADDERS[density] if most <= num_factors] or [num_factors]
    return [max(round(density * num_factors), 1)]


def _has_all(split: Split, features: Tensor) -> bool:
    """Whether a split holds out other rows than these: then it learns from all of them."""
    return len(split.features) == len(features)


def _enough(splits: Sequence[Split]) -> list[Split]:
    """The first splits, until they hold out enough rows."""
    taken: list[Split] = []
    for split in splits:
        if sum(len(one.held_labels) for one in taken) < _ENOUGH_ROWS:
            taken.append(split)
    return taken


def _answers(layer: PosteriorHead) -> Callable[[Tensor], Tensor]:
    @torch.no_grad()
    def answers(features: Tensor) -> Tensor:
        return layer(features).logits.softmax(-1)

    return answers


def _predictions(splits: Sequence[Split], layers: Sequence[PosteriorHead]) -> tuple[BNDLPrediction, Tensor]:
    found = [
        collect_predictions(layer, s.held_features, s.held_labels, progress=False)
        for layer, s in zip(layers, splits, strict=True)
    ]
    return join_predictions([prediction for prediction, _ in found]), torch.cat([labels for _, labels in found])


def _judge(weights_per_class: int, splits: Sequence[Split], layers: Sequence[PosteriorHead]) -> Step:
    prediction, labels = _predictions(splits, layers)
    temperature = fit_temperature(prediction, labels).temperature
    losses, shares = [], []
    for layer, split in zip(layers, splits, strict=True):
        before = layer.config.temperature
        layer.set_temperature(temperature)
        for rows, truth in zip(split.held_features.split(1024), split.held_labels.split(1024), strict=True):
            log_probs = layer.predict(rows).probs.double().clamp_min(1e-30).log()
            losses.append(-log_probs.gather(1, truth[:, None]).squeeze(1))
            parts = layer.explain(rows, top_k=min(PARTS_TO_READ, len(layer.raw_loadings)))
            shares.append(parts.share.sum(1))
        layer.set_temperature(before)
    return Step(weights_per_class, torch.cat(losses), torch.cat(shares).mean().item(), temperature)
