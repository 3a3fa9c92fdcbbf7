"""SEPIN@k (Do and Tran 2019, arXiv:1908.09961): how much the most telling factors know of an image that no other does
(Sec. 5 and the tables of App. A).

I(x; z_i | z without i) is estimated with InfoNCE between two augmented views of every image: once with all factors,
once without factor i. Temperature, batch size and critic of the paper's numbers are unpublished, so only orderings of
numbers made here compare, and every result says what it was made with.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from bndl_hf.interpretability.checks import check_matrix

# A remainder smaller than this share of a row's squared norm, 4,500 times float64's precision, has no direction left.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class SepinResult:
    """SEPIN@k and what it was made with.

    Attributes:
        score: mean of the k largest of `per_factor`, nats; more is better.
        per_factor: [K] loss without factor i minus loss with all factors, nats: what i alone knows. About zero for a
            factor that others repeat, exactly zero for one that is never active, below zero for one that misleads.
        loss: NT-Xent with all factors, nats per image.
        k: how many factors `score` is the mean of.
        temperature, batch_size, seed: as asked for, but no batch is larger than the number of images.
        num_images: images that were used, whole batches of them.
    """

    score: float
    per_factor: Tensor
    loss: float
    k: int
    temperature: float
    batch_size: int
    seed: int
    num_images: int

    def at(self, k: int) -> float:
        """SEPIN@k for another k, of the same losses; at(K) is the paper's "all".

        Raises:
            ValueError: k outside 1 .. K.
        """
        _check_k(k, len(self.per_factor))
        return self.per_factor.topk(k).values.mean().item()


@torch.no_grad()
def sepin_at_k(
    view_a: Tensor,
    view_b: Tensor,
    k: int,
    temperature: float = 0.1,
    batch_size: int = 256,
    seed: int = 0,
    progress: bool = False,
) -> SepinResult:
    """Mean over the k most telling factors of what each knows of an image beyond all others, in nats.

        delta_i = NT-Xent(z without factor i) - NT-Xent(z),    SEPIN@k = mean of the k largest delta_i

    NT-Xent here is InfoNCE with the cosine similarity over the temperature as critic, in float64, averaged over both
    directions: each image's view a is to find its view b among the B of its batch, and the other way round. The
    negatives are the other view's only, so that a candidate set is one positive and B - 1 draws of one distribution,
    which is what the bound log B - loss is about (van den Oord et al. 2018, arXiv:1807.03748); log B cancels in
    delta_i. A row of zeros is similar to nothing: its cosine counts as 0.

    The Gram matrix and the norms of a batch are updated by the factor left out, not computed again: O(K B^2) for a
    batch, with a few [B, B] matrices in memory at a time.

    Args:
        view_a: [N, K] factor scores of one augmented view of each image. Other representations may have either sign.
        view_b: [N, K] of another view of the same images, in the same order.
        k: 1 .. K; `SepinResult.at` gives any other k from the same result.
        temperature: > 0.
        batch_size: B >= 2. Images are shuffled first: a data set sorted by class would make batches of one class. Those
            that fill no batch are left out.
        seed: of the shuffling.
        progress: show a bar.

    Raises:
        ValueError: views of different or unfit shapes, NaN, fewer than 2 images, or a setting out of range.

    Example:
        >>> result = sepin_at_k(scores_of_one_view, scores_of_another, k=10)
        >>> the_best_ten, the_best_hundred = result.score, result.at(100)
    """
    check_matrix(view_a, "view_a", "N, K")
    check_matrix(view_b, "view_b", "N, K")
    if view_a.shape != view_b.shape:
        raise ValueError(
            f"view_a has shape {list(view_a.shape)}, view_b {list(view_b.shape)}; they must be two views of "
            "the same images by the same factors."
        )
    N, K = view_a.shape
    if N < 2:
        raise ValueError(f"{N} image: telling images apart needs 2 or more.")
    _check_k(k, K)
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be above zero; 0.1, say.")
    if batch_size < 2:
        raise ValueError(f"batch_size={batch_size}: an image needs another to be told apart from; pass 2 or more.")

    B = min(batch_size, N)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(seed))[: N // B * B]
    device = "cpu" if view_a.device.type == "mps" else view_a.device  # which knows no float64
    losses = torch.zeros(K + 1, dtype=torch.float64, device=device)  # with all factors last
    for rows in tqdm(order.split(B), desc="SEPIN", disable=not progress):
        a, b = (view[rows.to(view.device)].to(device, torch.float64) for view in (view_a, view_b))
        losses += _leave_one_out(a, b, temperature)
    losses /= N // B
    per_factor = losses[:K] - losses[K]
    score = per_factor.topk(k).values.mean().item()
    return SepinResult(score, per_factor, losses[K].item(), k, temperature, B, seed, len(order))


def _leave_one_out(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """NT-Xent of one batch a, b [B, K] without each factor, and with all of them, [K + 1]."""
    gram = a @ b.T  # [B, K] @ [K, B] -> [B, B]
    squares_a, squares_b = a.square().sum(dim=1), b.square().sum(dim=1)  # [B]
    losses = []
    for one_a, one_b in zip(a.T.contiguous(), b.T.contiguous(), strict=True):
        left_a, left_b = _left_of(squares_a, one_a), _left_of(squares_b, one_b)
        losses.append(_nt_xent(torch.addr(gram, one_a, one_b, alpha=-1), left_a, left_b, temperature))
    return torch.stack([*losses, _nt_xent(gram, squares_a, squares_b, temperature)])


def _left_of(squares: Tensor, one: Tensor) -> Tensor:
    """Squared norms [B] without the entries `one` [B]; what is only rounding is zero."""
    left = squares - one.square()
    return left.where(left > _ROUNDING * squares, 0.0)


def _nt_xent(gram: Tensor, squares_a: Tensor, squares_b: Tensor, temperature: float) -> Tensor:
    """InfoNCE of both directions from inner products [B, B] and squared norms [B], nats."""
    inverse_a, inverse_b = (torch.where(squares > 0, squares, torch.inf).rsqrt() for squares in (squares_a, squares_b))
    similarity = gram * (inverse_a[:, None] * inverse_b / temperature)
    labels = torch.arange(len(gram), device=gram.device)
    return (F.cross_entropy(similarity, labels) + F.cross_entropy(similarity.T, labels)) / 2


def _check_k(k: int, K: int) -> None:
    """Raise ValueError unless 1 <= k <= K."""
    if not 1 <= k <= K:
        raise ValueError(f"k={k} must lie between 1 and the number of factors, {K}.")
