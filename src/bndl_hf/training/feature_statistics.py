"""What is measured of the features before the first step: their spread, and how far apart the classes lie in them.

The spread makes one learning rate suit every backbone. The separation tells features the backbone has memorised from
features it has never seen, which need different weights of the scores' KL (docs/research).
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor


class FeatureStatistics:
    """Sums over features [n, D] and their labels [n], from which spread and separation follow; float64.

    Args:
        features: [n, D].
        labels: [n], in 0 .. C - 1.
        num_labels: C.
        accelerator: its processes add up what each of them saw; None where every one of them saw all.
    """

    def __init__(
        self, features: Tensor, labels: Tensor, num_labels: int, accelerator: Accelerator | None = None
    ) -> None:
        features = features.double()
        D = features.shape[1]
        count = torch.zeros(num_labels, dtype=torch.float64, device=features.device)
        class_sum = torch.zeros(num_labels, D, dtype=torch.float64, device=features.device)
        count.index_add_(0, labels, torch.ones_like(features[:, 0]))
        class_sum.index_add_(0, labels, features)
        sums = torch.cat([count[:, None], class_sum, features.square().sum(0).expand(num_labels, D)], dim=1)
        if accelerator is not None:
            sums = accelerator.reduce(sums, reduction="sum")
        self._count, self._class_sum, self._square_sum = sums[:, 0], sums[:, 1 : D + 1], sums[0, D + 1 :]

    @property
    def inverse_spread(self) -> Tensor:
        """One over the standard deviation of each feature, [D].

        A feature that hardly moves is not blown up, and one that never moves (but for rounding) keeps its scale.
        """
        n = self._count.sum()
        mean = self._class_sum.sum(0) / n
        std = (self._square_sum / n - mean.square()).clamp_min(0).sqrt()
        moves = std > 1e-6 * mean.abs()
        return torch.where(moves, 1 / std.clamp_min(1e-2 * std.mean()), 1.0)

    @property
    def class_separation(self) -> float | None:
        """Variance between the classes over variance within them, of features scaled to unit spread; >= 0.

        0 where the classes do not show, 0.1 to 0.2 for features of a backbone that learned other classes, above 1 for
        images the backbone was trained on (the inverse of neural collapse's NC1, Papyan et al. 2020, arXiv:2008.08186,
        by traces). Both variances are unbiased, so that few images of many classes do not pass for separated. None
        where it cannot be measured: no class has two images, or no feature moves.
        """
        n, scale = self._count.sum(), self.inverse_spread.square()
        total = ((self._square_sum - self._class_sum.sum(0).square() / n) * scale).sum()
        seen = self._count > 0
        class_part = self._class_sum[seen].square() / self._count[seen, None]
        within = ((self._square_sum - class_part.sum(0)) * scale).sum()
        degrees = n - seen.sum()  # of freedom within the classes
        if degrees <= 0 or total <= 0:
            return None
        return max(0.0, ((total / (n - 1)) / (within / degrees).clamp_min(1e-12) - 1).item())
