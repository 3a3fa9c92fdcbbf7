"""What a published checkpoint consists of, put together in a folder, and the check that nothing private is in it.

Weights, configuration, the model's own code, image processor, results.json, figures and README.md. Read publish.py for
how the folder becomes one commit.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from huggingface_hub import ModelCard
from transformers import BaseImageProcessor

from bndl_hf.hub.card import create_model_card
from bndl_hf.model.modeling_bndl import BNDLForImageClassification

RESULTS_FILE = "results.json"
CARD_FILE = "README.md"
FIGURES_FOLDER = "figures"
# What a card made before the repository had a name calls it.
PLACEHOLDER_ID = "your-name/your-model"

_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}")
# Somebody's home, whoever they are, unless it is part of a web address.
_HOME = re.compile(r"""(?<![\w.-])(?:/home|/Users|[A-Za-z]:\\+Users)[/\\]+[^\s"'/\\]+""")
_SECRET_FLAG = re.compile(r"(--\w*token)(=|\s+)\S+")


def write_contents(
    folder: Path,
    model: BNDLForImageClassification,
    processor: BaseImageProcessor | None,
    *,
    repo_id: str,
    results: Mapping[str, Any] | None = None,
    figures: Sequence[str | os.PathLike[str]] = (),
    card: ModelCard | str | None = None,
    **card_facts: Any,
) -> None:
    """Write everything that is published into `folder`.

    Args:
        folder: an empty folder.
        model: the classifier.
        processor: its image processor; None leaves it out.
        repo_id: what the card calls the model.
        results: measured figures; paths in them are cut down to their last part.
        figures: image files; they are published as figures/NAME and shown in the card.
        card: a model card of your own, its text or a `ModelCard`; None makes one with `create_model_card`.
        **card_facts: passed on to `create_model_card`: base_model, dataset_name, license, split.

    Raises:
        ValueError: the model is none of ours, `figures` names a file that is not there or two of one name, or something
            private is in the files.
    """
    if not isinstance(model, BNDLForImageClassification):
        raise ValueError(
            f"A {type(model).__name__} is no BNDLForImageClassification, which is what is published here; merge "
            "adapters first (merge_and_unload), or use the model's own push_to_hub."
        )
    _check_figures(figures)
    model.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    for figure in figures:
        (folder / FIGURES_FOLDER).mkdir(exist_ok=True)
        shutil.copyfile(figure, folder / FIGURES_FOLDER / Path(figure).name)
    results = public_results(results or {})
    if results:
        (folder / RESULTS_FILE).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if card is None:
        names = [f"{FIGURES_FOLDER}/{Path(figure).name}" for figure in figures]
        card = create_model_card(model, results, model_id=repo_id, figures=names, **card_facts)
    text = str(card).replace(PLACEHOLDER_ID, repo_id)
    (folder / CARD_FILE).write_text(text, encoding="utf-8")
    check_nothing_private(folder)


def list_contents(
    model: BNDLForImageClassification, processor: BaseImageProcessor | None, repo_id: str, **contents: Any
) -> dict[str, int]:
    """What `push_to_hub` with the same arguments would upload: {path in the repository: size in bytes}.

    Everything is written to a temporary folder and checked as for a push; nobody is asked anything.

    Raises:
        ValueError: as `push_to_hub`.
    """
    with tempfile.TemporaryDirectory(prefix="bndl-") as staging:
        folder = Path(staging)
        write_contents(folder, model, processor, repo_id=repo_id, **contents)
        return {name: (folder / name).stat().st_size for name in file_names(folder)}


def file_names(folder: Path) -> list[str]:
    """Every file below `folder`, as it is called in a repository."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def public_results(results: Mapping[str, Any]) -> dict[str, Any]:
    """`results` as the world may read them: every path cut down to its last part, tokens left out.

    Raises:
        ValueError: an entry is nothing JSON can hold.
    """
    cleaned = {name: _public(value) for name, value in results.items()}
    try:
        json.dumps(cleaned, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"results cannot be written as JSON ({error}); pass numbers, strings, lists and dictionaries of them, and "
            "leave out what is not a finite number."
        ) from error
    return cleaned


def _public(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _public(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_public(entry) for entry in value]
    if isinstance(value, str | os.PathLike):
        text = _SECRET_FLAG.sub(r"\1 ...", os.fspath(value))
        return _TOKEN.sub("...", re.sub(r"""[^\s"'=]+""", lambda word: _last_part(word[0]), text))
    return value


def _last_part(word: str) -> str:
    """A path's last part; any other word, a Hub id and a plain relative file name among them, as it is."""
    windows = PureWindowsPath(word)
    if word.startswith(("/", "~", "../", "..\\")) or windows.drive or word.startswith("\\\\"):
        return windows.name or PurePosixPath(word).name or "."
    return word


def check_nothing_private(folder: Path, secrets: Iterable[str] = ()) -> None:
    """Raise ValueError when a file of `folder` holds a path of this machine, somebody's home or an access token.

    Args:
        folder: what is to be published.
        secrets: more texts that must not be in it, such as the token in use.
    """
    here = {str(Path.home()), os.getcwd(), str(folder)} - {"/", "."}
    paths = re.compile(rf"""(?<![\w.-])(?:{"|".join(map(re.escape, here))})(?=[/\\"'\s])""")
    for name in file_names(folder):
        text = _readable_part(folder / name).decode("utf-8", errors="replace")
        found = [match[0] for pattern in (_TOKEN, paths, _HOME) if (match := pattern.search(text))]
        found += ["an access token" for secret in secrets if secret and secret in text]
        if found:
            shown = "an access token" if found[0].startswith("hf_") else found[0]
            raise ValueError(
                f"{name} would publish {shown}. Take it out (of the results, the card, the labels "
                "or the figure's metadata) and publish again; nothing was sent."
            )


def _readable_part(file: Path) -> bytes:
    """A file's bytes; of weights only the header, the rest being numbers."""
    if file.suffix != ".safetensors":
        return file.read_bytes()
    with file.open("rb") as weights:
        return weights.read(int.from_bytes(weights.read(8), "little"))


def _check_figures(figures: Sequence[str | os.PathLike[str]]) -> None:
    names = [Path(figure).name for figure in figures]
    for figure in figures:
        if not Path(figure).is_file():
            raise ValueError(f"figures names {os.fspath(figure)}, which is no file here; save the figure first.")
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"figures holds two files called {', '.join(sorted(twice))}; give them different names.")
