"""Publishing: the model card says what a checkpoint is, what was measured, and how to read its uncertainty."""

from bndl_hf.hub.card import create_model_card

__all__ = ["create_model_card"]
