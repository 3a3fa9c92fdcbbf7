"""The authors' released checkpoints: their names, their state dicts, and their conversion to BNDL artefacts."""

from bndl_hf.released.conversion import Conversion, convert_released_checkpoint, load_decision_layer
from bndl_hf.released.labels import KNOWN_LABELS, read_labels

__all__ = ["KNOWN_LABELS", "Conversion", "convert_released_checkpoint", "load_decision_layer", "read_labels"]
