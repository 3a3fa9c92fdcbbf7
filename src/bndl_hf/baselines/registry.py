"""Every head a comparison knows, by name: recipes of a `PosteriorHead` (heads.py), and the others, made by a function.

`HEADS` are trained by `fit_decision_layer` and predict as the BNDL layer does; `CLASSIFIERS` have a training of their
own. `scripts/benchmarks/heads.py heads --heads NAME` takes both.
"""

from __future__ import annotations

from functools import partial

from bndl_hf.baselines import card, elastic_net, laplace, laplace_torch, variational_last_layer
from bndl_hf.baselines.card import CardClassifier, CardSettings
from bndl_hf.baselines.classifiers import Classifier, ClassifierRecipe, PosteriorClassifier
from bndl_hf.baselines.feature_task import FeatureTask
from bndl_hf.baselines.heads import HEADS, make_head
from bndl_hf.baselines.laplace import LaplaceClassifier
from bndl_hf.baselines.laplace_torch import LaplaceTorchClassifier
from bndl_hf.baselines.logistic import logistic_regression
from bndl_hf.baselines.variational_last_layer import VariationalLastLayer
from bndl_hf.training import fit_decision_layer


def _debuggable(task: FeatureTask, seed: int, density: float) -> PosteriorClassifier:
    return PosteriorClassifier(elastic_net.elastic_net_at(*task.train, density))


def _laplace(task: FeatureTask, seed: int) -> LaplaceClassifier:
    return LaplaceClassifier(logistic_regression(*task.train, *task.choosing), task.train[0], *task.choosing)


def _laplace_torch(task: FeatureTask, seed: int, structure: str) -> LaplaceTorchClassifier:
    return LaplaceTorchClassifier(logistic_regression(*task.train, *task.choosing), *task.train, structure)


def _card(task: FeatureTask, seed: int, settings: CardSettings) -> CardClassifier:
    layer, recipe = make_head("dense", task.train[0].shape[1], task.num_labels)
    guide = fit_decision_layer(*task.train, layer.config, layer=layer, seed=seed, disable_tqdm=True, **recipe)
    return CardClassifier(guide, *task.train, *task.choosing, settings=settings, seed=seed)


def _vbll(task: FeatureTask, seed: int, parameterization: str | None) -> VariationalLastLayer:
    return VariationalLastLayer(*task.train, *task.choosing, seed=seed, parameterization=parameterization)


CLASSIFIERS: dict[str, ClassifierRecipe] = {
    **{
        f"debuggable_{percent}": ClassifierRecipe(
            partial(_debuggable, density=percent / 100),
            f"elastic-net path, the head with {percent} % of its weights",
            elastic_net.CITATION,
            is_random=False,
        )
        for percent in (37, 12, 5)
    },
    "laplace": ClassifierRecipe(
        _laplace,
        "last-layer Laplace of logistic regression, probit predictive",
        laplace.CITATION,
        is_random=False,
    ),
    **{
        f"laplace_torch_{short}": ClassifierRecipe(
            partial(_laplace_torch, structure=structure),
            f"the package laplace-torch: last layer, {words}, probit predictive, prior by marginal likelihood",
            laplace_torch.CITATION,
            is_random=False,
        )
        for short, structure, words in (
            ("full", "full", "whole Gauss-Newton matrix"),
            ("kron", "kronecker", "Kronecker factors"),
        )
    },
    "vbll": ClassifierRecipe(
        partial(_vbll, parameterization=None),
        "variational last layer, dense covariance where that is small",
        variational_last_layer.CITATION,
    ),
    "vbll_diagonal": ClassifierRecipe(
        partial(_vbll, parameterization="diagonal"),
        "variational last layer, diagonal covariance",
        variational_last_layer.CITATION,
    ),
    "vbll_lowrank": ClassifierRecipe(
        partial(_vbll, parameterization="lowrank"),
        "variational last layer, covariance of a diagonal and three directions",
        variational_last_layer.CITATION,
    ),
    "card": ClassifierRecipe(
        partial(_card, settings=CardSettings()),
        "CARD: label diffusion guided by the dense head, scaled down (T = 50, width 64, 20 samples)",
        card.CITATION,
    ),
}


def head_names() -> list[str]:
    """Names of all heads: those of `HEADS`, then those of `CLASSIFIERS`."""
    return [*HEADS, *CLASSIFIERS]


def about_head(name: str) -> str:
    """What the head is, one line."""
    return CLASSIFIERS[name].about if name in CLASSIFIERS else HEADS[name].about


def is_random(name: str) -> bool:
    """Whether the seed changes anything about the head."""
    return name not in CLASSIFIERS or CLASSIFIERS[name].is_random


def fit_classifier(name: str, task: FeatureTask, seed: int) -> Classifier:
    """A head of `CLASSIFIERS` for the rows of a task.

    Args:
        name: a key of `CLASSIFIERS`.
        task: rows to train on, and to choose on.
        seed: of initialisation, order and draws.

    Raises:
        ValueError: for an unknown name, listing the known ones.
    """
    if name not in CLASSIFIERS:
        raise ValueError(f"head {name!r} is unknown; heads made by a function are {', '.join(CLASSIFIERS)}.")
    return CLASSIFIERS[name].fit(task, seed)
