"""Publishing: one commit with everything a checkpoint needs, back again, and the card that tells people what it is."""

from bndl_hf.hub.card import create_model_card
from bndl_hf.hub.card_facts import CardFigure
from bndl_hf.hub.card_figures import draw_card_figures
from bndl_hf.hub.contents import list_contents
from bndl_hf.hub.errors import HubError
from bndl_hf.hub.eval_results import eval_result_files
from bndl_hf.hub.publish import push_to_hub
from bndl_hf.hub.pull import PulledCheckpoint, pull_from_hub
from bndl_hf.hub.space import space_files
from bndl_hf.hub.static_space import push_gradio_space, push_space
from bndl_hf.hub.widget import CardExample, answer_examples

__all__ = [
    "CardExample",
    "CardFigure",
    "HubError",
    "PulledCheckpoint",
    "answer_examples",
    "create_model_card",
    "draw_card_figures",
    "eval_result_files",
    "list_contents",
    "pull_from_hub",
    "push_gradio_space",
    "push_space",
    "push_to_hub",
    "space_files",
]
