"""A Gradio Space that answers with a published model: the files to upload. Running it needs `bndl-hf[plots,space]`.

`app.py` is what the Space starts, interface.py what it shows. A static Space, which everybody may make for nothing, is
`export_page` (bndl_hf.export); this one has a server, an API and reads more kinds of files.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import SpaceCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from bndl_hf.hub.card import PLACEHOLDER_ID
from bndl_hf.model.untrusted_images import read_untrusted_image

# The version of Gradio a Space starts: the one this interface was tried with.
GRADIO_VERSION = "6.31.0"
EXAMPLES_FOLDER = "examples"
MAX_EXAMPLES = 12


def space_files(
    model_id: str,
    *,
    title: str | None = None,
    examples: Sequence[str | os.PathLike[str]] = (),
    license: str | None = None,
    requirement: str | None = None,
) -> dict[str, bytes]:
    """Everything a Gradio Space of one model consists of: {path in the repository: content}.

    Args:
        model_id: "namespace/name" of the published model.
        title: of the page; None takes the model's name.
        examples: up to 12 image files that visitors may try; they are published, so they must be yours to publish.
        license: of the Space, as the Hub spells it ("apache-2.0").
        requirement: how pip installs this package; None is "bndl-hf[plots]" from this version on.

    Raises:
        ValueError: model_id is not a repository's name; examples are too many, share a name or cannot be read.

    Example:
        >>> files = space_files("alice/vit-bndl")
        >>> sorted(files)
        ['README.md', 'app.py', 'requirements.txt']
    """
    try:
        validate_repo_id(model_id)
    except HFValidationError as error:
        raise ValueError(f"model_id={model_id!r} is not a repository's name; write namespace/name.") from error
    if len(examples) > MAX_EXAMPLES:
        raise ValueError(f"{len(examples)} examples; a Space shows {MAX_EXAMPLES} at most.")
    pictures: dict[str, bytes] = {}
    for example in map(Path, examples):
        name = f"{EXAMPLES_FOLDER}/{example.name}"
        if name in pictures:
            raise ValueError(f"examples holds two files called {example.name}; give them different names.")
        pictures[name] = example.read_bytes()
        try:
            read_untrusted_image(pictures[name])
        except ValueError as error:
            raise ValueError(f"The example {example.name} cannot be shown. {error}") from error
    card = SpaceCardData(
        title=title or f"{model_id.rsplit('/', 1)[-1]}: sure, torn or unfamiliar?",
        sdk="gradio",
        sdk_version=GRADIO_VERSION,
        app_file="app.py",
        models=[model_id],
        license=license,
        colorFrom="green",
        colorTo="blue",
        pinned=False,
    )
    app = Path(__file__).with_name("app.py").read_text(encoding="utf-8").replace(PLACEHOLDER_ID, model_id)
    text = (
        f"---\n{card.to_yaml()}\n---\n\nAnswers of `{model_id}`, each with its verdict, its parts and where they lie.\n"
    )
    installed = requirement or f"bndl-hf[plots]>={version('bndl-hf')}"
    return {
        "README.md": text.encode(),
        "app.py": app.encode(),
        "requirements.txt": f"{installed}\n".encode(),
        **pictures,
    }


__all__ = ["space_files"]
