"""What BNDL is compared with: the same interface, trained by the same Trainer, judged by the same functions."""

from bndl_hf.baselines.heads import HEADS, DenseDecisionLayer, Head, make_head

__all__ = ["HEADS", "DenseDecisionLayer", "Head", "make_head"]
