"""How far out an image lies, by every score in use: one table from names to functions of a `BNDLPrediction`.

Two things betray an image that belongs to no class: the classes disagree about it (it looks like several of them), or
its features are not like those of any class. Softmax scores see the first and are good at near images. The energy and
the total evidence see one kind of the second, images that show little of what was learned; images that show more than
usual fool them, and `joint`, which divides the first by the evidence. The Mahalanobis distance sees features that are
unlike any class whether they hold less evidence or more; `fisher_statistic` is both in one and the score to use where
the model has what it needs (`fit_familiarity`). docs/uncertainty.md has the comparison.

Higher means more likely out of distribution, everywhere. Nothing here is fitted to out-of-distribution images. Read
ood.py for what is done with the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from bndl_hf.model import familiarity
from bndl_hf.model.predictive import BNDLPrediction


def max_probability(prediction: BNDLPrediction) -> Tensor:
    """1 - max_c p_c, [B], in [0, 1 - 1/C] (Hendrycks and Gimpel 2017, arXiv:1610.02136)."""
    return 1 - prediction.probs.amax(dim=-1)


def entropy(prediction: BNDLPrediction) -> Tensor:
    """-sum_c p_c log p_c, [B], nats in [0, log C]: `prediction.total` (Lakshminarayanan et al. 2017)."""
    return prediction.total


def energy(prediction: BNDLPrediction) -> Tensor:
    """-log sum_c exp E[l_c], [B], nats: the free energy of the mean logits (Liu et al. 2020, arXiv:2010.03759)."""
    return -prediction.logits_mean.logsumexp(dim=-1)


def total_evidence(prediction: BNDLPrediction) -> Tensor:
    """-sum_k E[theta_k], [B], <= 0: how little the image shows of what was learned. Our own; theta: Sec. 3.2."""
    return -prediction.evidence


def mutual_information(prediction: BNDLPrediction) -> Tensor:
    """Mutual information of label and loadings, [B], nats >= 0: `prediction.epistemic` (Smith and Gal 2018)."""
    return prediction.epistemic


def z(prediction: BNDLPrediction) -> Tensor:
    """p-value of the gap between the two top classes, [B], in [0, 1] (Sec. 5).

    It falls as z = E[d] / sd[d] rises, so it ranks images as -z does; unlike z it is finite where the gap has no
    spread. With S in the hundreds p underflows to zero for sure images, which then tie: keep the 20 draws of the paper.
    """
    return prediction.p_value


def tempered_entropy(prediction: BNDLPrediction) -> Tensor:
    """H(softmax(E[l] / 2)), [B], nats in [0, log C]: half the logits tell sharp classifiers' images apart.

    A constant added to all logits of an image changes nothing, so neither does evidence shared by all classes, nor a
    constant added to one factor's loadings of every class.
    """
    return familiarity.tempered_entropy(prediction.logits_mean)


def joint(prediction: BNDLPrediction) -> Tensor:
    """Disagreement for each unit of evidence: H(softmax(E[l] / 2)) / sum_k E[theta_k], [B], nats, >= 0. Our own.

    Half the logits: at full scale the probabilities of a sharp classifier are 0 and 1, and their entropy tells images
    apart by noise; the logits still know. An image without any evidence scores infinity, whatever its logits, which
    are then the bias alone; infinity has a rank in every function of ood.py. A head that reads features of either sign
    (the dense baseline on a ViT) has no such evidence, and this score means nothing there.

    Departure: not in the paper. docs/uncertainty.md has the comparison that chose it.
    """
    return torch.where(prediction.evidence > 0, tempered_entropy(prediction) / prediction.evidence, torch.inf)


def mahalanobis(prediction: BNDLPrediction) -> Tensor:
    """Distance of the features to the nearest class mean, [B], standard deviations (Lee et al. 2018, arXiv:1807.03888).

    Raises:
        ValueError: the model has no familiarity.
    """
    if prediction.mahalanobis_distance is None:
        raise ValueError(_NO_FAMILIARITY)
    return prediction.mahalanobis_distance


def fisher_statistic(prediction: BNDLPrediction) -> Tensor:
    """Fisher's statistic of two p-values, of the Mahalanobis distance and of the tempered entropy, [B], >= 0.

    -2 (log p_distance + log p_entropy), each p-value among held-out images (model/familiarity.py). Were the two
    independent, it would follow a chi-squared distribution with four degrees of freedom on images of the model's kind.

    Departure: not in the paper.

    Raises:
        ValueError: the model has no familiarity.
    """
    if prediction.fisher_statistic is None:
        raise ValueError(_NO_FAMILIARITY)
    return prediction.fisher_statistic


_OF_FAMILIARITY = ("mahalanobis", "fisher_statistic")
_NO_FAMILIARITY = (
    "This prediction is of a model without familiarity; call model.set_familiarity(fit_familiarity(...)) first, or use "
    "another score."
)

OOD_SCORES: dict[str, Callable[[BNDLPrediction], Tensor]] = {
    "max_probability": max_probability,
    "entropy": entropy,
    "energy": energy,
    "total_evidence": total_evidence,
    "mutual_information": mutual_information,
    "z": z,
    "joint": joint,
    "tempered_entropy": tempered_entropy,
    "mahalanobis": mahalanobis,
    "fisher_statistic": fisher_statistic,
}

# The score to use, best first; the first needs `fit_familiarity`, the second nothing (docs/uncertainty.md).
RECOMMENDED_OOD_SCORES = ("fisher_statistic", "entropy")


def recommended_ood_score(names: Iterable[str]) -> str:
    """The best of the scores that are there: "fisher_statistic", else "entropy".

    Args:
        names: of scores, such as the keys of `ood_scores(prediction)`.

    Raises:
        ValueError: neither is among them.

    Example:
        >>> recommended_ood_score(["max_probability", "entropy", "joint"])
        'entropy'
    """
    known = list(names)
    if (found := next((name for name in RECOMMENDED_OOD_SCORES if name in known), None)) is None:
        raise ValueError(f"scores {', '.join(known)} hold neither of {', '.join(RECOMMENDED_OOD_SCORES)}.")
    return found


def ood_scores(prediction: BNDLPrediction) -> dict[str, Tensor]:
    """Every score a prediction has, by its name in `OOD_SCORES`, each [B].

    Args:
        prediction: exact or Monte-Carlo, of any head of this library.

    Returns:
        max_probability, entropy, energy, total_evidence, mutual_information, z, joint and tempered_entropy; and
        mahalanobis and fisher_statistic of a model with familiarity. Tensors on the prediction's device, in the units
        their functions say.

    Example:
        >>> from bndl_hf import BNDLConfig
        >>> from bndl_hf.model.decision_layer import BNDLDecisionLayer
        >>> layer = BNDLDecisionLayer(BNDLConfig(feature_dim=16, num_labels=3)).eval()
        >>> scores = ood_scores(layer.predict(torch.rand(5, 16)))
        >>> list(scores)[-3:]
        ['z', 'joint', 'tempered_entropy']
        >>> scores["joint"].shape
        torch.Size([5])
    """
    lacks = prediction.fisher_statistic is None
    return {name: score(prediction) for name, score in OOD_SCORES.items() if not (lacks and name in _OF_FAMILIARITY)}
