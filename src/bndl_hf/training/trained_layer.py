"""The trained candidate: gradient descent on features with noise, as much of it as held-out rows want.

Noise on the features, in units of their spread, is what keeps a projection of D x K weights from learning a few
photographs by heart; to first order it is a Gaussian prior of every function the layer can be (Bishop 1995). Few images
want more of it, many want less, so its amount is sought. Read tuning.py first.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor

from bndl_hf.model.configuration_bndl import BNDLConfig
from bndl_hf.model.posterior_head import PosteriorHead
from bndl_hf.training.candidates import FEATURE_POWER, Candidate, Judged, judge
from bndl_hf.training.logistic_regression import Split

Train = Callable[[Tensor, Tensor, BNDLConfig], PosteriorHead]

# Amounts of noise, in units of a feature's spread. The search starts in the middle, with many rows one below, and goes
# downhill.
NOISES = (0.25, 0.5, 1.0, 2.0, 4.0)
_MANY_ROWS = 20_000


def trained_candidate(
    splits: Sequence[Split], config: BNDLConfig, train: Train, keep: Sequence[str] = (), rival: Candidate | None = None
) -> tuple[Candidate, bool]:
    """The best trained layer by held-out likelihood.

    With several splits the amount of noise is sought on the first one, and only what beats `rival` there meets them all
    (successive halving).

    Args:
        splits: rows to fit on and rows to choose on.
        config: of the layer wanted. With the default preset the features' power, their noise and the density of the
            loadings are chosen here, where they are the preset's and not kept.
        train: makes a layer of rows and a configuration.
        keep: fields of `config` that stay as they are.
        rival: what there is already.

    Returns:
        The candidate, and whether it met all splits.
    """
    first = splits[:1]
    tried: dict[float, Judged] = {}
    layers: dict[tuple[float, int], PosteriorHead] = {}  # of the rows of the splits, which are asked for again
    known = {id(split.features) for split in splits}

    def fit(x: Tensor, y: Tensor, noise: float) -> PosteriorHead:
        key = (noise, id(x))
        if key in layers:
            return layers[key]
        layer = train(x, y, _with_noise(config, noise, keep))
        if id(x) in known:
            layers[key] = layer
        return layer

    def loss(noise: float) -> float:
        if noise not in tried:
            tried[noise] = judge(first, partial(fit, noise=noise))
        return tried[noise].loss

    if is_chosen(config, keep):
        best = _lowest(loss, NOISES, len(NOISES) // 2 - (len(splits[0].labels) > _MANY_ROWS))
    else:
        best = config.feature_noise
        loss(best)
    power = _with_noise(config, best, keep).feature_power
    settings = f"noise of {best:.3g} spreads on features^{power:g}"
    chosen = Candidate("trained", partial(fit, noise=best), tried[best], settings)
    if len(splits) == 1:
        return chosen, True
    if rival is not None and chosen.judged.loss >= judge(first, rival.fit).loss:
        return chosen, False
    return replace(chosen, judged=judge(splits, chosen.fit)), True


def is_chosen(config: BNDLConfig, keep: Sequence[str]) -> bool:
    """Whether the amount of noise is to be sought: with the default preset, where no amount was given."""
    return config.preset == "default" and "feature_noise" not in keep and config.feature_noise == 0


def _with_noise(config: BNDLConfig, noise: float, keep: Sequence[str]) -> BNDLConfig:
    config = copy.deepcopy(config)
    if not is_chosen(config, keep):
        return config
    config.feature_noise = noise
    if "feature_power" not in keep and config.feature_power == 1:
        config.feature_power = FEATURE_POWER
    plain = BNDLConfig(feature_dim=config.feature_dim, num_labels=config.num_labels)
    if "loading_density" not in keep and config.loading_density == plain.loading_density:
        config.loading_density = 1.0  # what the noise is there for, pruning would do too, and worse
    return config


def _lowest(loss: Callable[[float], float], ladder: Sequence[float], start: int) -> float:
    """Where the loss is least on a ladder, downhill from `start`."""
    for step in (1, -1):
        place = start
        while 0 <= place + step < len(ladder) and loss(ladder[place + step]) < loss(ladder[place]):
            place += step
        if place != start:
            break
    return ladder[place]
