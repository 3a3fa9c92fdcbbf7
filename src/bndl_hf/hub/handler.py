"""Answers of a BNDL classifier over HTTP: the handler that Inference Endpoints look for at the root of a repository.

A request is {"inputs": IMAGE, "parameters": {...}}; IMAGE is the base64 text of an image file or a list of them, and a
request with an image's own content type arrives as an image. It is answered with label, probability, verdict and its
reason, prediction set, scores, uncertainty and evidence. transformers, torch and Pillow are all this file needs: the
model's own code lies beside it.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification
from transformers.dynamic_module_utils import get_class_from_dynamic_module

PARAMETERS = ("top_k", "method", "risk")


class EndpointHandler:
    """Loads the checkpoint in a folder once, answers any number of requests, from any number of threads.

    Args:
        path: folder of the checkpoint, where this file lies.

    Example:
        >>> model.save_pretrained("checkpoint"), processor.save_pretrained("checkpoint")
        (...)
        >>> handler = EndpointHandler("checkpoint")
        >>> answer = handler({"inputs": open("parrot.png", "rb").read(), "parameters": {"top_k": 3}})
        >>> answer["label"] == answer["scores"][0]["label"]
        True
    """

    def __init__(self, path: str | os.PathLike[str] = "") -> None:
        folder = os.fspath(path) or os.path.dirname(os.path.abspath(__file__))
        model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        processor = AutoImageProcessor.from_pretrained(folder)
        self.answers = get_class_from_dynamic_module("answering.ImageAnswers", folder)(model, processor)

    def __call__(self, data: dict[str, Any]) -> dict[str, Any] | list[dict[str, Any]]:
        """The answer to one image, or a list of them.

        Args:
            data: `inputs`: an image as bytes, base64 text ("data:image/png;base64,..." too) or a PIL image, or a list
                of 1 to 64 images. No text is taken for a path or an address. `parameters`, which may be left out:
                `top_k` (5), how many classes `scores` names; `method`, "exact" or "monte_carlo"; `risk`, the share of
                errors you accept among answers called sure, in place of the stored one.

        Returns:
            A dictionary of JSON values, see `answer_images`; for a list of images, a list.

        Raises:
            ValueError: the request does not fit; the text says how.
        """
        if not isinstance(data, dict) or data.get("inputs") is None:
            raise ValueError('A request is {"inputs": IMAGE, "parameters": {...}}, and this one has no inputs.')
        if unknown := sorted(map(str, set(data) - {"inputs", "parameters"})):
            raise ValueError(f"The request has {', '.join(unknown)}; it may have inputs and parameters.")
        parameters = data.get("parameters") or {}
        if not isinstance(parameters, dict):
            raise ValueError(f"parameters={parameters!r} must name values: {', '.join(PARAMETERS)}.")
        if unknown := sorted(map(str, set(parameters) - set(PARAMETERS))):
            raise ValueError(f"parameters has {', '.join(unknown)}; it may have {', '.join(PARAMETERS)}.")
        given = {name: value for name, value in parameters.items() if value is not None}
        inputs = data["inputs"]
        is_list = isinstance(inputs, list | tuple)
        try:
            answers = self.answers(list(inputs) if is_list else [inputs], **given)
        except TypeError as error:
            raise ValueError(str(error)) from error
        return answers if is_list else answers[0]
