"""How far out an image lies, by every score in use: one table from names to functions of a `BNDLPrediction`.

Two things betray an image that belongs to no class: the classes disagree about it (it looks like several of them), or
there is little in it that was learned at all. Softmax scores see the first and are good at near classes; the energy and
the total evidence see the second and are good at far ones. `joint` is the first divided by the second. The non-negative
layer is what makes the second meaningful: its scores cannot cancel. Outsiders with more evidence than
usual fool it, though: `tempered_entropy` is the first alone and reads no evidence.

Higher means more likely out of distribution, everywhere. Nothing here is fitted, least of all to out-of-distribution
data. Read ood.py for what is done with the scores.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bndl_hf.model.predictive import BNDLPrediction

# Of `joint` and `tempered_entropy`; chosen on the choosing rows of docs/uncertainty.md's features and the same for
# every model since.
JOINT_TEMPERATURE = 2.0


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
    """H(softmax(E[l] / 2)), [B], nats in [0, log C]: `joint` without its evidence, where outsiders may have more.

    A constant added to all logits of an image changes nothing, so neither does evidence shared by all classes, nor a
    constant added to one factor's loadings of every class.
    """
    return torch.distributions.Categorical(logits=prediction.logits_mean / JOINT_TEMPERATURE).entropy()


def joint(prediction: BNDLPrediction) -> Tensor:
    """Disagreement for each unit of evidence: H(softmax(E[l] / 2)) / sum_k E[theta_k], [B], nats, >= 0. Our own.

    Half the logits: at full scale the probabilities of a sharp classifier are 0 and 1, and their entropy tells images
    apart by noise; the logits still know. An image without any evidence scores infinity, whatever its logits, which
    are then the bias alone; infinity has a rank in every function of ood.py. A head that reads features of either sign
    (the dense baseline on a ViT) has no such evidence, and this score means nothing there.

    Departure: not in the paper. docs/uncertainty.md has the comparison that chose it.
    """
    return torch.where(prediction.evidence > 0, tempered_entropy(prediction) / prediction.evidence, torch.inf)


OOD_SCORES: dict[str, Callable[[BNDLPrediction], Tensor]] = {
    "max_probability": max_probability,
    "entropy": entropy,
    "energy": energy,
    "total_evidence": total_evidence,
    "mutual_information": mutual_information,
    "z": z,
    "joint": joint,
    "tempered_entropy": tempered_entropy,
}


def ood_scores(prediction: BNDLPrediction) -> dict[str, Tensor]:
    """Every score of a prediction by its name in `OOD_SCORES`, each [B].

    Args:
        prediction: exact or Monte-Carlo, of any head of this library.

    Returns:
        max_probability, entropy, energy, total_evidence, mutual_information, z, joint and tempered_entropy: tensors on
        the prediction's device, in the units their functions say.

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
    return {name: score(prediction) for name, score in OOD_SCORES.items()}
