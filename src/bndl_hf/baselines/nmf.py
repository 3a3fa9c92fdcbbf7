"""Non-negative matrix factorisation (Lee and Seung 1999) as a decision layer: BNDL without spread (Sec. 3.3)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from bndl_hf.baselines.point_mass import PointMassHead

CITATION = """@article{lee1999learning,
  title   = {Learning the Parts of Objects by Non-negative Matrix Factorization},
  author  = {Lee, Daniel D. and Seung, H. Sebastian},
  journal = {Nature},
  volume  = {401},
  pages   = {788--791},
  year    = {1999},
  url     = {https://doi.org/10.1038/44565}
}"""


class NMFDecisionLayer(PointMassHead):
    """Non-negative matrix factorisation: relu(h) @ relu(W) + b, BNDL's limit of infinite concentration (Sec. 3.3)."""

    def means(self, values: Tensor, threshold: float) -> Tensor:
        """relu(x - c), as in Eqs. 9 and 11."""
        return F.relu(values - threshold)
