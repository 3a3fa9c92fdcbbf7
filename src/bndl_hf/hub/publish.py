"""Publishing a checkpoint: everything in one commit, or nothing at all.

The files are put together in a temporary folder (contents.py), uploaded, and become visible by a single commit on top
of the state that was looked at. When anything fails before that commit, what this push had made on the Hub (an empty
repository, a branch) is taken away again.

`HfApi.create_commit` makes that commit, not `HfApi.upload_folder`: where hf_xet is installed, the latter uploads in
several commits (a new one after five minutes), and a push that fails in between would leave half a checkpoint.
"""

from __future__ import annotations

import fnmatch
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    ModelInfo,
    get_token,
)
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.sha import git_hash
from PIL import Image
from transformers import BaseImageProcessor

from bndl_hf.export.page_pictures import Examples
from bndl_hf.hub.contents import FIGURES_FOLDER, check_nothing_private, file_names, write_contents
from bndl_hf.hub.errors import HubError, hub_error
from bndl_hf.model.modeling_bndl import BNDLForImageClassification

if TYPE_CHECKING:
    from bndl_hf.interpretability import FactorThumbnails

# Files of an earlier push that would contradict a new one: other shards, other formats, figures no longer shown.
_OUTDATED = (
    "model*.safetensors*",
    "pytorch_model*.bin*",
    f"{FIGURES_FOLDER}/*",
    "factor_thumbnails/*",
    "examples/example-*.png",
)
# RuntimeError and ValueError are what the client makes of a failed or refused upload of large files.
_FAILURES = (HTTPError, HFValidationError, OSError, RuntimeError, ValueError)


def push_to_hub(
    model: BNDLForImageClassification,
    processor: BaseImageProcessor | None,
    repo_id: str,
    *,
    results: Mapping[str, object] | None = None,
    figures: Sequence[str | os.PathLike[str]] = (),
    card: ModelCard | str | None = None,
    thumbnails: FactorThumbnails | None = None,
    page: bool = False,
    page_examples: Examples = (),
    examples: Sequence[Image.Image | str | os.PathLike[str]] = (),
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    token: str | None = None,
    **card_facts: Any,
) -> CommitInfo:
    """Publish a checkpoint as one commit: weights, configuration, code, processor, handler, results, figures and card.

    Args:
        model: the classifier.
        processor: its image processor; None publishes none, and neither `pipeline` nor an endpoint will work.
        repo_id: "namespace/name", or a name in your own namespace; it is made if it is not there.
        results: measured figures, published as results.json and shown in the card.
        figures: image files, published as figures/NAME and shown in the card.
        card: a model card of your own; None makes one (`create_model_card`).
        thumbnails: what `collect_factor_thumbnails` made, published in factor_thumbnails/; they are small copies of
            images of the dataset, which must be yours to publish. None publishes none.
        page: whether to publish page.html too, one file that answers in the browser (`bndl_hf.export.export_page`, with
            half-precision weights), and link it from the card.
        page_examples: images the page offers to try, published inside it.
        examples: images or files, published in examples/ (small, without metadata) and shown on the card, and by the
            model page's widget, with the model's answers; they must be yours to publish.
        private: of a repository that is made; None leaves it to the account's settings.
        revision: branch to push to, made if it is not there; None is the main branch.
        create_pr: open a pull request instead of changing the branch.
        commit_message: None says "Upload BNDL classifier".
        token: access token; None takes the one of `hf auth login` or HF_TOKEN.
        **card_facts: passed on to `create_model_card`: base_model, dataset_name, license, split, and what
            `Trainer.push_to_hub` takes: finetuned_from, tags, language, tasks, dataset, dataset_tags, dataset_args,
            model_name.

    Returns:
        huggingface_hub's `CommitInfo`: `.commit_url`, `.oid`, `.pr_url`.

    Raises:
        HubError: the push failed; the message says why, and that nothing on the Hub was changed (or, where the Hub
            could no longer be asked, what may be left there).
        ValueError: the model is not a BNDL classifier, a figure is not there, results cannot be written as JSON, a
            card does not have such a fact, or something private would be published.

    Example:
        >>> push_to_hub(model, processor, "alice/vit-bndl", results={"accuracy": 0.98}, base_model="google/vit-base")
    """
    with tempfile.TemporaryDirectory(prefix="bndl-") as staging:
        folder = Path(staging)
        repo_id = _full_name(HfApi(token=token), repo_id)
        write_contents(
            folder,
            model,
            processor,
            repo_id=repo_id,
            results=results,
            figures=figures,
            card=card,
            thumbnails=thumbnails,
            page=page,
            page_examples=page_examples,
            examples=examples,
            **card_facts,
        )
        message = commit_message or "Upload BNDL classifier"
        return upload_contents(
            folder, repo_id, message, private=private, revision=revision, create_pr=create_pr, token=token
        )


def upload_contents(
    folder: Path,
    repo_id: str,
    message: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
) -> CommitInfo:
    """The second half of `push_to_hub`: the files of a folder become one commit, or nothing."""
    api = HfApi(token=token)
    check_nothing_private(folder, secrets=[token or get_token() or ""])
    with _undone_on_failure(api, repo_id) as push:
        push.prepare(private, revision, create_pr)
        return push.commit(folder, message, create_pr)


@dataclass
class _Push:
    """One push: what was there before it, and what it has made so far."""

    api: HfApi
    repo_id: str
    revision: str | None = None
    parent: str | None = None
    made: set[str] = field(default_factory=set)
    files_before: list[str] = field(default_factory=list)
    may_have_arrived: bool = False

    def prepare(self, private: bool | None, revision: str | None, create_pr: bool) -> None:
        """Find the state to build on; make repository and branch where they are missing."""
        self.revision = revision
        if not (self.api.token or get_token()):
            raise LocalTokenNotFoundError("no token")
        try:
            info = self.api.model_info(self.repo_id)
        except RepositoryNotFoundError:
            if create_pr:
                raise
            with self._making("repository"):
                self.api.create_repo(self.repo_id, private=private)
            info = self.api.model_info(self.repo_id)
        if revision is not None:
            try:
                info = self.api.model_info(self.repo_id, revision=revision)
            except RevisionNotFoundError:
                if create_pr:
                    raise
                self.parent = info.sha
                with self._making("branch"):
                    self.api.create_branch(self.repo_id, branch=revision)
        self.parent = info.sha
        self.files_before = [sibling.rfilename for sibling in info.siblings or []]

    @contextmanager
    def _making(self, what: str) -> Iterator[None]:
        """Remember what is made inside the block, so that a failed push can delete it; a refusal made nothing."""
        self.made.add(what)
        try:
            yield
        except HfHubHTTPError as error:
            if _is_refusal(error):
                self.made.discard(what)
            raise

    def commit(self, folder: Path, message: str, create_pr: bool) -> CommitInfo:
        """Upload what `folder` holds and make it visible at once."""
        names = file_names(folder)
        outdated = [
            name
            for name in self.files_before
            if name not in names and any(fnmatch.fnmatch(name, pattern) for pattern in _OUTDATED)
        ]
        additions = [CommitOperationAdd(name, folder / name) for name in names]
        pull_requests = self._pull_requests() if create_pr else None
        try:
            return self.api.create_commit(
                self.repo_id,
                [*additions, *(CommitOperationDelete(name) for name in outdated)],
                commit_message=message,
                revision=self.revision,
                create_pr=create_pr,
                parent_commit=self.parent,
            )
        except HTTPError as error:
            arrived = None if _is_refusal(error) else self._commit_that_arrived(additions, pull_requests)
            if arrived is None:
                raise
            return arrived

    def _pull_requests(self) -> set[str]:
        refs = self.api.list_repo_refs(self.repo_id, include_pull_requests=True)
        return {ref.ref for ref in refs.pull_requests or []}

    def _commit_that_arrived(
        self, additions: list[CommitOperationAdd], pull_requests: set[str] | None
    ) -> CommitInfo | None:
        """The commit, where only its answer was lost on the way back; None where it was not made.

        Args:
            additions: what it was to hold.
            pull_requests: those there were before, where it was to be a new one.
        """
        try:
            new = [self.revision] if pull_requests is None else sorted(self._pull_requests() - pull_requests)
            for revision in new:
                info = self.api.model_info(self.repo_id, revision=revision, files_metadata=True)
                if info.sha != self.parent and _holds(info, additions):
                    url = f"{self.api.endpoint}/{self.repo_id}"
                    number = str(revision).rsplit("/", 1)[-1]
                    return CommitInfo(
                        commit_url=f"{url}/commit/{info.sha}",
                        commit_message="",
                        commit_description="",
                        oid=str(info.sha),
                        pr_url=None if pull_requests is None else f"{url}/discussions/{number}",
                    )
        except (HTTPError, OSError):
            self.may_have_arrived = True
        return None

    def undo(self) -> str:
        """Take away what this push has made; what to tell the user about it."""
        unchanged = "Nothing on the Hub was changed."
        try:
            if "repository" in self.made and self._is_empty():
                self.api.delete_repo(self.repo_id, missing_ok=True)
                return unchanged
            if "branch" in self.made and self._branch_is_untouched():
                self.api.delete_branch(self.repo_id, branch=str(self.revision))
                return unchanged
        except RepositoryNotFoundError:
            return unchanged
        except (HTTPError, OSError):
            left = f"An empty {self.repo_id}" if "repository" in self.made else f"The new branch {self.revision}"
            return f"{left} may be left there; push again, or delete it."
        if self.may_have_arrived:
            return "The Hub could not be asked whether the commit arrived; look at the repository before pushing again."
        return unchanged

    def _is_empty(self) -> bool:
        info = self.api.model_info(self.repo_id)
        return {sibling.rfilename for sibling in info.siblings or []} <= {".gitattributes"}

    def _branch_is_untouched(self) -> bool:
        try:
            return self.api.model_info(self.repo_id, revision=self.revision).sha == self.parent
        except RevisionNotFoundError:
            return False


def _is_refusal(error: BaseException) -> bool:
    """Whether the Hub answered that it did nothing; a lost answer or an error of the server leaves that open."""
    return isinstance(error, HfHubHTTPError) and error.response is not None and error.response.status_code < 500


def _holds(info: ModelInfo, additions: Sequence[CommitOperationAdd]) -> bool:
    """Whether a commit's files are those of `additions`."""
    found = {s.rfilename: s.lfs.sha256 if s.lfs else s.blob_id for s in info.siblings or []}
    for addition in additions:
        content = Path(str(addition.path_or_fileobj)).read_bytes()
        if found.get(addition.path_in_repo) not in (sha256(content).hexdigest(), git_hash(content)):
            return False
    return True


@contextmanager
def _undone_on_failure(api: HfApi, repo_id: str) -> Iterator[_Push]:
    """A push whose traces are taken away again when the block fails."""
    push = _Push(api, repo_id)
    try:
        yield push
    except KeyboardInterrupt:
        push.undo()
        raise
    except _FAILURES as error:
        told = push.undo()
        raise HubError(f"{hub_error('Pushing to', repo_id, error, push.revision)} {told}") from error


def _full_name(api: HfApi, repo_id: str) -> str:
    """`repo_id` with its namespace: one's own where none is given."""
    if "/" in repo_id:
        return repo_id
    try:
        return f"{api.whoami()['name']}/{repo_id}"
    except _FAILURES as error:
        raise hub_error("Pushing to", repo_id, error) from error
