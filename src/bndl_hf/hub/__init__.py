"""Publishing: one commit with everything a checkpoint needs, back again, and the card that tells people what it is."""

from bndl_hf.hub.card import create_model_card
from bndl_hf.hub.contents import list_contents
from bndl_hf.hub.errors import HubError
from bndl_hf.hub.publish import push_to_hub
from bndl_hf.hub.pull import PulledCheckpoint, pull_from_hub
from bndl_hf.hub.space import space_files
from bndl_hf.hub.static_space import push_space

__all__ = [
    "HubError",
    "PulledCheckpoint",
    "create_model_card",
    "list_contents",
    "pull_from_hub",
    "push_space",
    "push_to_hub",
    "space_files",
]
