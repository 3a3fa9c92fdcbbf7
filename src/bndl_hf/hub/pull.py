"""Pulling a published checkpoint: model, processor and results of one commit, and what of it is missing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled
from transformers import AutoImageProcessor, BaseImageProcessor
from transformers.utils import logging

from bndl_hf.hub.contents import CARD_FILE, RESULTS_FILE
from bndl_hf.hub.errors import hub_error
from bndl_hf.model.modeling_bndl import BNDLForImageClassification

logger = logging.get_logger(__name__)

# What a checkpoint is made of; everything else of a repository (optimizer states, logs) stays where it is.
_PATTERNS = ("*.json", "*.safetensors", CARD_FILE, "figures/*")
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


@dataclass
class PulledCheckpoint:
    """A published checkpoint, as it was in one commit.

    Attributes:
        model: the classifier, in evaluation mode.
        processor: its image processor, or None where none was published.
        results: what results.json holds, or None where there is none.
        card: its README.md, or None.
        folder: where the files lie, in the local cache.
        revision: the commit they come from.
        missing: names of the files that were looked for and not there.
    """

    model: BNDLForImageClassification
    processor: BaseImageProcessor | None
    results: dict[str, Any] | None
    card: ModelCard | None
    folder: Path
    revision: str
    missing: tuple[str, ...]


def pull_from_hub(
    repo_id: str,
    revision: str | None = None,
    *,
    token: str | None = None,
    cache_dir: str | None = None,
    local_files_only: bool = False,
) -> PulledCheckpoint:
    """Download a checkpoint and load it; an interrupted download continues where it stopped.

    In offline mode, and with a warning where the Hub cannot be reached, the local cache is taken.

    Args:
        repo_id: "namespace/name".
        revision: branch, tag or commit; None is the main branch.
        token: access token; None takes the one of `hf auth login` or HF_TOKEN.
        cache_dir: where downloads are kept; None is the Hub's own cache.
        local_files_only: take what is in the cache; no network call is made.

    Raises:
        HubError: it cannot be downloaded; the message says why.
        ValueError: what was published is not a BNDL checkpoint, is incomplete or damaged; the message says what
            is missing.

    Example:
        >>> pulled = pull_from_hub("alice/vit-bndl")
        >>> pulled.model.predict(**pulled.processor(images=image, return_tensors="pt"))
    """
    trouble = None
    try:
        trouble = None if local_files_only else _trouble_at_the_hub(repo_id, revision, token)
        folder = Path(
            snapshot_download(
                repo_id,
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only or trouble is not None,
                allow_patterns=list(_PATTERNS),
            )
        )
    except (HTTPError, HFValidationError, OSError) as error:
        raise hub_error("Pulling from", repo_id, trouble or error, revision) from error
    if trouble is not None and not isinstance(trouble, OfflineModeIsEnabled):
        reason = hub_error("Asking for", repo_id, trouble, revision)
        logger.warning(f"{reason} Its copy in the local cache is taken, commit {folder.name}; it may be an old one.")
    source = repo_id if revision is None else f"{repo_id} at {revision}"
    _check_complete(folder, source)
    model = BNDLForImageClassification.from_pretrained(folder)
    has_processor = any((folder / name).is_file() for name in _PROCESSOR_FILES)
    results, card = folder / RESULTS_FILE, folder / CARD_FILE
    missing = [] if has_processor else [_PROCESSOR_FILES[0]]
    missing += [file.name for file in (results, card) if not file.is_file()]
    if missing:
        logger.warning(f"{source} has no {', '.join(missing)}; what they hold is None.")
    return PulledCheckpoint(
        model=model,
        processor=AutoImageProcessor.from_pretrained(folder) if has_processor else None,
        results=_read_results(results, source) if results.is_file() else None,
        card=ModelCard.load(card) if card.is_file() else None,
        folder=folder,
        revision=folder.name,  # the cache names a snapshot's folder after its commit
        missing=tuple(missing),
    )


def _trouble_at_the_hub(repo_id: str, revision: str | None, token: str | None) -> OSError | HTTPError | None:
    """Why the Hub cannot be asked at the moment; None where it answers.

    Raises:
        HfHubHTTPError: it refuses. `snapshot_download` would return an old copy from the cache without a warning.
    """
    try:
        HfApi(token=token).model_info(repo_id, revision=revision)
    except HfHubHTTPError as error:
        if error.response.status_code < 500 and error.response.status_code != 429:
            raise
        return error
    except (HTTPError, OSError) as error:
        return error
    return None


def _check_complete(folder: Path, source: str) -> None:
    """Raise ValueError where configuration or weights are missing."""
    there = sorted(path.name for path in folder.iterdir())
    index = folder / "model.safetensors.index.json"
    wanted = ["config.json"]
    try:
        wanted += sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.is_file() else []
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index.name} of {source} does not list the weights; push them again.") from error
    wanted += [] if index.is_file() else ["model.safetensors"]
    if missing := [name for name in wanted if name not in there]:
        raise ValueError(
            f"{source} is not a complete checkpoint: it lacks {', '.join(missing)} and has "
            f"{', '.join(there) or 'no such file at all'}. Push the model again, or ask for another revision."
        )


def _read_results(file: Path, source: str) -> dict[str, Any]:
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{RESULTS_FILE} of {source} is not JSON ({error}); publish the results again.") from error
    if not isinstance(results, dict):
        raise ValueError(f"{RESULTS_FILE} of {source} is not a JSON object of results; publish the results again.")
    return results
