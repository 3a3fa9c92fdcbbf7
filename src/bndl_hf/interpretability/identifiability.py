"""Whether a factor could have been another one: partial identifiability (Prop. 1; Gillis and Rajkó 2023,
arXiv:2206.08022), checked on the scores and loadings at hand.

Scores Theta [N, K] and loadings Phi [K, C] may not be the only non-negative ones with the same logits Theta Phi.
Prop. 1 says of which factors they are: with r factors, and logits of rank r, factor k has the same loadings, up to its
scale, in every such factorisation if

    selective window    some image shows k alone: its row of Theta is a multiple of the k-th unit vector;
    sparsity            at least r - 1 of the factor's loadings are zero.

Departure: the paper counts the zeros. Counting is not enough (classes without any loading are zeros too), the
other factors' loadings at those zeros must have rank r - 1 as well. Then, in any other factorisation, at most one
factor is zero at all of them; the image that shows k alone has zero logits there and so shows only that one, whose
loadings are therefore those of k. A factor counts as identifiable here only if this holds too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bndl_hf.interpretability.checks import check_matrix, check_non_negative

# Singular values below this share of the largest count as zero: weights are float32, precise to 6e-8.
_RANK_TOLERANCE = 1e-5
# Images looked at at a time: bounds the memory.
_BATCH_SIZE = 4096


@dataclass(frozen=True)
class IdentifiabilityReport:
    """Which factors Prop. 1 certifies, and why the others are not.

    Attributes:
        selective_window: some image shows the factor alone, [K] bool.
        sparsity: at least r - 1 of its loadings are zero, [K] bool.
        zeros_suffice: the other factors' loadings at those zeros have rank r - 1, [K] bool.
        identifiable: all three, and the logits have rank r, [K] bool: its loadings are certified up to scale.
        is_alive: the factor has a loading and some image shows it, [K] bool; others are not part of the factorisation.
        num_factors: r, the number of factors that are alive.
        rank: of the logits without bias, Theta Phi. Below r the proposition certifies nothing.
        window_image: [K] the image that shows the factor purest, -1 where it is never the largest of an image.
        window_impurity: [K] what all other factors add there as a fraction of what this one adds, infinite where none.
        num_zeros: [K] zero loadings of each factor.
        tolerance: up to which impurity an image shows a factor alone, and up to which share of a factor's largest
            loading another one is zero.
        num_images, num_classes: N and C.
    """

    selective_window: Tensor
    sparsity: Tensor
    zeros_suffice: Tensor
    identifiable: Tensor
    is_alive: Tensor
    num_factors: int
    rank: int
    window_image: Tensor
    window_impurity: Tensor
    num_zeros: Tensor
    tolerance: float
    num_images: int
    num_classes: int

    def __str__(self) -> str:
        r, C = self.num_factors, self.num_classes
        lines = [
            f"{int(self.identifiable.sum())} of {r} factors are identifiable by Prop. 1 "
            f"({self.num_images:,} images, {C} classes, tolerance {self.tolerance:g}).",
            f"Selective window (an image shows it alone): {int(self.selective_window.sum())}.",
            f"Sparsity (at least {max(r - 1, 0)} zeros among its {C} loadings): {int(self.sparsity.sum())}, "
            f"of which {int(self.zeros_suffice.sum())} where the others have rank {max(r - 1, 0)}.",
        ]
        if r > C:
            lines.append(
                f"With fewer classes than factors no factor has {r - 1} zeros and a loading: nothing can be certified."
            )
        elif self.rank < r:
            lines.append(f"The logits have rank {self.rank}, not {r}: the proposition does not apply.")
        return "\n".join(lines)


class IdentifiabilityCheck:
    """`identifiability_report` of scores that come batch by batch, in memory for [K, K] and one batch.

    Args:
        loadings: [K, C], as `identifiability_report` takes them.
        tolerance: likewise.

    Raises:
        ValueError: loadings that are not a non-negative matrix, or a tolerance outside [0, 1).

    Example:
        >>> check = IdentifiabilityCheck(model.decision_layer.factor_loadings)
        >>> for batch in batches:
        ...     check.update(model(**batch).factor_scores)
        >>> report = check.report()
    """

    def __init__(self, loadings: Tensor, tolerance: float = 1e-3) -> None:
        loadings = torch.as_tensor(loadings).detach()
        check_matrix(loadings, "loadings", "K, C")
        check_non_negative(loadings, "loadings")
        if not 0 <= tolerance < 1:
            raise ValueError(
                f"tolerance={tolerance} is a share of the largest part; it lies in [0, 1). Pass 1e-3, say."
            )
        self._loadings, self._tolerance = loadings.cpu().double(), tolerance
        K = len(loadings)
        self._largest = self._loadings.amax(dim=1)  # [K]
        self._gram = torch.zeros(K, K, dtype=torch.float64)  # Theta^T Theta
        self._impurity = torch.full((K,), torch.inf, dtype=torch.float64)
        self._image = torch.full((K,), -1)
        self._num_images = 0

    def update(self, scores: Tensor) -> None:
        """Take in the factor scores [B, K] of some images.

        Raises:
            ValueError: scores of another width, negative, NaN or empty.
        """
        scores = torch.as_tensor(scores).detach()
        check_matrix(scores, "scores", "N, K", len(self._largest))
        check_non_negative(scores, "scores")
        for rows in scores.cpu().double().split(_BATCH_SIZE):
            self._gram += rows.T @ rows
            parts = rows * self._largest  # [B, K], the most each factor adds to any logit
            most, factor = parts.max(dim=1)
            others = parts.scatter(1, factor[:, None], 0.0).sum(dim=1)
            impurity = torch.full_like(parts, torch.inf)
            shows = most > 0
            impurity[shows, factor[shows]] = others[shows] / most[shows]
            best, image = impurity.min(dim=0)
            is_better = best < self._impurity
            self._impurity[is_better] = best[is_better]
            self._image[is_better] = image[is_better] + self._num_images
            self._num_images += len(rows)

    def report(self) -> IdentifiabilityReport:
        """What the images so far say.

        Raises:
            ValueError: there were none.
        """
        if not self._num_images:
            raise ValueError("No scores were seen; call update(scores) first.")
        K, C = self._loadings.shape
        is_alive = (self._largest > 0) & (self._gram.diagonal() > 0)
        r = int(is_alive.sum())
        is_zero = self._loadings <= self._tolerance * self._largest[:, None]  # [K, C]
        num_zeros = is_zero.sum(dim=1)
        sparsity = is_alive & (num_zeros >= r - 1)
        zeros_suffice = torch.zeros(K, dtype=torch.bool)
        for k in sparsity.nonzero().flatten().tolist():
            others = is_alive.clone()
            others[k] = False
            zeros_suffice[k] = _rank(self._loadings[others][:, is_zero[k]]) == r - 1
        selective = is_alive & (self._impurity <= self._tolerance)
        # The singular values of Theta Phi are the roots of the eigenvalues of Phi^T Theta^T Theta Phi, [C, C].
        eigenvalues = torch.linalg.eigvalsh(self._loadings.T @ self._gram @ self._loadings)
        rank = int((eigenvalues > _RANK_TOLERANCE**2 * eigenvalues.max()).sum()) if r else 0
        return IdentifiabilityReport(
            selective_window=selective,
            sparsity=sparsity,
            zeros_suffice=zeros_suffice,
            identifiable=selective & zeros_suffice & (rank == r),
            is_alive=is_alive,
            num_factors=r,
            rank=rank,
            window_image=self._image.clone(),
            window_impurity=self._impurity.clone(),
            num_zeros=num_zeros,
            tolerance=self._tolerance,
            num_images=self._num_images,
            num_classes=C,
        )


def identifiability_report(scores: Tensor, loadings: Tensor, tolerance: float = 1e-3) -> IdentifiabilityReport:
    """Which factors no other factorisation of the same logits could replace (Prop. 1).

    An image shows factor k alone if what all others add, sum over j of theta_j max_c Phi_jc, is at most `tolerance`
    times what k adds, theta_k max_c Phi_kc: in these units the scale a factor's score and loadings share does not
    matter. A loading is zero if it is at most `tolerance` times the factor's largest.

    Args:
        scores: [N, K] factor scores of many images, >= 0.
        loadings: [K, C] `decision_layer.factor_loadings`, >= 0. The paper writes Phi transposed: a column there is a
            row here.
        tolerance: in [0, 1).

    Raises:
        ValueError: shapes that do not fit, NaN or negative entries, an empty matrix, or a tolerance out of range.

    Example:
        >>> scores = torch.tensor([[1.0, 0.0], [0.5, 0.5]])  # the first image shows factor 0 alone
        >>> loadings = torch.tensor([[1.0, 0.0, 0.2], [0.3, 0.9, 0.0]])
        >>> identifiability_report(scores, loadings).identifiable
        tensor([ True, False])
    """
    check = IdentifiabilityCheck(loadings, tolerance)
    check.update(scores)
    return check.report()


def _rank(matrix: Tensor) -> int:
    """Numerical rank; 0 of an empty matrix."""
    return int(torch.linalg.matrix_rank(matrix, rtol=_RANK_TOLERANCE)) if matrix.numel() else 0
