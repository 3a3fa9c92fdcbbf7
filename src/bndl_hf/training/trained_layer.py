"""The trained candidate: gradient descent on features with noise, as much of both as held-out rows want.

Noise on the features, in units of their spread, is what keeps a projection of D x K weights from learning a few
photographs by heart; to first order it is a Gaussian prior of every function the layer can be (Bishop 1995). Few images
want more of it, many want less, so its amount is sought. Then come the optimizer steps: features that say little each,
such as raw pixels, want several times as many as those of a deep network. Read tuning.py first.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from bndl_hf.model.configuration_bndl import BNDLConfig
from bndl_hf.model.posterior_head import PosteriorHead
from bndl_hf.training.candidates import FEATURE_POWER, Candidate, Judged, judge
from bndl_hf.training.logistic_regression import Split

# Amounts of noise, in units of a feature's spread. The search starts in the middle, with many rows one below, and goes
# downhill.
NOISES = (0.25, 0.5, 1.0, 2.0, 4.0)
_MANY_ROWS = 20_000
# How often the steps may double, and what a doubling must save of the held-out loss to be followed by another: a share
# of it, and nats over all rows, so that a few rows which are all right do not ask for more and more.
_MOST_DOUBLINGS = 3
_WORTH_A_DOUBLING, _NATS_OF_A_DOUBLING = 0.02, 0.5


@dataclass(frozen=True)
class Training:
    """How a search trains a layer.

    Attributes:
        fit: makes a layer of rows [N, D], labels [N] and a configuration, in so many epochs.
        num_epochs: of so many rows, for so many optimizer steps at least.
        min_steps: optimizer steps to begin with; 0 where their number was asked for and is not to be sought.
    """

    fit: Callable[[Tensor, Tensor, BNDLConfig, float], PosteriorHead]
    num_epochs: Callable[[int, int], float]
    min_steps: int

    def __call__(
        self, features: Tensor, labels: Tensor, config: BNDLConfig, min_steps: int | None = None
    ) -> PosteriorHead:
        """A layer trained for at least `min_steps` optimizer steps, by default those to begin with."""
        min_steps = self.min_steps if min_steps is None else min_steps
        return self.fit(features, labels, config, self.num_epochs(len(labels), min_steps))


def trained_candidate(
    splits: Sequence[Split],
    config: BNDLConfig,
    train: Training,
    keep: Sequence[str] = (),
    rival: Candidate | None = None,
) -> tuple[Candidate, bool]:
    """The best trained layer by held-out likelihood.

    With several splits noise and steps are sought on the first one, and only what beats `rival` there meets them all
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
    tried: dict[tuple[float, int], Judged] = {}
    layers: dict[tuple[float, float, int], PosteriorHead] = {}  # of the rows of the splits, which are asked for again
    known = {id(split.features) for split in splits}

    def fit(x: Tensor, y: Tensor, noise: float, steps: int) -> PosteriorHead:
        key = (noise, train.num_epochs(len(y), steps), id(x))
        if key in layers:
            return layers[key]
        layer = train(x, y, _with_noise(config, noise, keep), steps)
        if id(x) in known:
            layers[key] = layer
        return layer

    def loss(noise: float, steps: int) -> float:
        if (noise, steps) not in tried:
            tried[noise, steps] = judge(first, partial(fit, noise=noise, steps=steps))
        return tried[noise, steps].loss

    steps = train.min_steps
    if is_chosen(config, keep):
        start = NOISES[len(NOISES) // 2 - (len(splits[0].labels) > _MANY_ROWS)]
        best = _lowest(partial(loss, steps=steps), NOISES, start)
        before = None
        while before != (best, steps):  # more steps may want another amount of noise, and that more steps again
            before = best, steps
            steps = _enough_steps(partial(loss, best), train, splits[0], steps)
            best = _lowest(partial(loss, steps=steps), NOISES, best)
    else:
        best = config.feature_noise
        loss(best, steps)
    power = _with_noise(config, best, keep).feature_power
    settings = f"noise of {best:.3g} spreads on features^{power:g}"
    if steps != train.min_steps:
        settings += f", at least {steps} steps"
    chosen = Candidate("trained", partial(fit, noise=best, steps=steps), tried[best, steps], settings)
    if len(splits) == 1:
        return chosen, True
    if rival is not None and chosen.judged.loss >= judge(first, rival.fit).loss:
        return chosen, False
    return replace(chosen, judged=judge(splits, chosen.fit)), True


def _enough_steps(loss: Callable[[int], float], train: Training, split: Split, steps: int) -> int:
    """Steps, from `steps` upwards, from which on twice as many save too little of the held-out loss.

    Half of them come first: where the last doubling bought nothing, the next one need not be paid for.
    """
    num_rows, least_saving = len(split.labels), _NATS_OF_A_DOUBLING / len(split.held_labels)
    at_least, fewer = steps, steps // 2
    while steps <= train.min_steps * 2**_MOST_DOUBLINGS:
        if train.num_epochs(num_rows, steps) == train.num_epochs(num_rows, fewer):
            break
        if loss(fewer) - loss(steps) <= max(_WORTH_A_DOUBLING * loss(fewer), least_saving):
            break
        fewer, steps = steps, 2 * steps
    return max(at_least, fewer)


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


def _lowest(loss: Callable[[float], float], ladder: Sequence[float], start: float) -> float:
    """Where the loss is least on a ladder, downhill from `start`."""
    begin = place = ladder.index(start)
    for step in (1, -1):
        while 0 <= place + step < len(ladder) and loss(ladder[place + step]) < loss(ladder[place]):
            place += step
        if place != begin:
            break
    return ladder[place]
