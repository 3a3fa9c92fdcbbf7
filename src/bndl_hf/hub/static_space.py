"""A model's page as a static Space: files the Hub only serves, free for everybody, while the browser does the work.

bndl_hf.export.export_page writes the page; here it gets the README a Space needs and becomes one commit, or nothing. So
does the Gradio app of space/, for those who want a server.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import (
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
)
from transformers import BaseImageProcessor

from bndl_hf.export.page_pictures import Examples
from bndl_hf.export.web_page import export_page
from bndl_hf.hub.contents import check_nothing_private, file_names
from bndl_hf.hub.errors import HubError, hub_error
from bndl_hf.hub.space import space_files
from bndl_hf.model.modeling_bndl import BNDLForImageClassification

_FAILURES = (HTTPError, HFValidationError, OSError, RuntimeError, ValueError)
_KEPT = (".gitattributes",)


def push_space(
    repo_id: str,
    model: BNDLForImageClassification,
    processor: BaseImageProcessor,
    examples: Examples = (),
    *,
    model_id: str | None = None,
    title: str = "What does the model see?",
    private: bool | None = None,
    commit_message: str = "Upload page",
    token: str | None = None,
    **page: Any,
) -> CommitInfo:
    """Publish the page that answers in the browser as a static Space.

    The Space then holds this page and nothing else: files of an earlier page go in the same commit.

    Args:
        repo_id: "namespace/name" of the Space; it is made if it is not there.
        model: the classifier.
        processor: its image processor.
        examples: images to try, as for `bndl_hf.export.export_page`; they are published.
        model_id: repository of the model, which the Space then names; None names none.
        title: heading of the page and name of the Space.
        private: of a Space that is made; None leaves it to the account's settings.
        commit_message: of the one commit.
        token: access token; None takes the one of `hf auth login` or HF_TOKEN.
        **page: passed on to `export_page`: thumbnails, runtime, half, top_k.

    Returns:
        huggingface_hub's `CommitInfo`.

    Raises:
        HubError: the push failed; a Space it had made is taken away again.
        ValueError: the page cannot be made, see `export_page`; `repo_id` is a Space of another kind; or something
            private would be published.

    Example:
        >>> push_space("alice/what-is-it", model, processor, ["cat.jpg"], model_id="alice/vit-bndl")
    """
    with tempfile.TemporaryDirectory(prefix="bndl-") as staging:
        folder = Path(staging)
        export_page(model, processor, examples, folder, title=title, **page)
        (folder / "README.md").write_text(_readme(title, model_id), encoding="utf-8")
        return publish_folder(repo_id, folder, private=private, commit_message=commit_message, token=token)


def push_gradio_space(
    repo_id: str,
    model_id: str,
    *,
    title: str | None = None,
    examples: Sequence[str | os.PathLike[str]] = (),
    private: bool | None = None,
    commit_message: str = "Upload app",
    token: str | None = None,
) -> CommitInfo:
    """Publish a Gradio Space that answers with a published model; the Hub asks for a paid plan to make one.

    Args:
        repo_id: "namespace/name" of the Space; it is made if it is not there.
        model_id: repository of the model.
        title: of the Space; None takes the model's name.
        examples: image files to try, which are published.
        private, commit_message, token: as for `push_space`.

    Raises:
        HubError, ValueError: as `push_space`; or a file is no image (`space_files`).

    Example:
        >>> push_gradio_space("alice/what-is-it", "alice/vit-bndl", examples=["cat.jpg"])
    """
    with tempfile.TemporaryDirectory(prefix="bndl-") as staging:
        folder = Path(staging)
        for name, content in space_files(model_id, title=title, examples=examples).items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        return publish_folder(
            repo_id, folder, private=private, commit_message=commit_message, token=token, sdk="gradio"
        )


def publish_folder(
    repo_id: str,
    folder: Path,
    *,
    private: bool | None = None,
    commit_message: str,
    token: str | None = None,
    sdk: str = "static",
) -> CommitInfo:
    """The second half of `push_space`: the files of a folder become the Space, in one commit."""
    api = HfApi(token=token)
    check_nothing_private(folder, secrets=[token or get_token() or ""])
    is_made = False
    try:
        if not (api.token or get_token()):
            raise LocalTokenNotFoundError("no token")
        try:
            info = api.space_info(repo_id)
        except RepositoryNotFoundError:
            api.create_repo(repo_id, repo_type="space", space_sdk=sdk, private=private)
            is_made = True
            info = api.space_info(repo_id)
        if info.sdk not in (None, sdk):
            raise _OtherSpace(info.sdk)
        names = file_names(folder)
        before = [sibling.rfilename for sibling in info.siblings or []]
        outdated = [name for name in before if name not in (*names, *_KEPT)]
        return api.create_commit(
            repo_id,
            [
                *(CommitOperationAdd(name, folder / name) for name in names),
                *(CommitOperationDelete(name) for name in outdated),
            ],
            commit_message=commit_message,
            repo_type="space",
            parent_commit=info.sha,
        )
    except _OtherSpace as error:
        raise ValueError(
            f"{repo_id} is a Space with sdk: {error}, whose files this push would replace by those of a {sdk} one; "
            "choose another name."
        ) from None
    except _FAILURES as error:
        raise HubError(f"{hub_error('Pushing to', repo_id, error)} {_undone(api, repo_id, is_made)}") from error


class _OtherSpace(Exception):
    """The Space that is there is of another kind; the text is what it is."""


def _undone(api: HfApi, repo_id: str, is_made: bool) -> str:
    """Take away the Space this push has made; what to tell the user."""
    if is_made:
        try:
            api.delete_repo(repo_id, repo_type="space", missing_ok=True)
        except (HTTPError, OSError):
            return f"An empty {repo_id} may be left there; push again, or delete it."
    return "Nothing on the Hub was changed."


def _readme(title: str, model_id: str | None) -> str:
    """README.md of the Space; values are JSON, which YAML reads."""
    models = f"models:\n- {json.dumps(model_id)}\n" if model_id else ""
    return (
        f"---\ntitle: {json.dumps(title)}\nsdk: static\napp_file: index.html\ntags:\n- bndl\n{models}---\n\n"
        "The model runs in the browser; images stay on the device of whoever looks at them. Made with "
        "[bndl-hf](https://github.com/bndl-hf/bndl-hf).\n"
    )
