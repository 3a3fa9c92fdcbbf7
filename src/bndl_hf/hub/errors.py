"""Errors of the Hub and the connection to it, each as one sentence that says what to do."""

from __future__ import annotations

from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

# Status -> what it means and what to do about it.
_BY_STATUS = {
    401: "the Hub does not accept the access token; log in again with `hf auth login`, or pass token=...",
    403: "this token may not do that; use a token with write access to the repository, or push with create_pr=True",
    404: "the Hub does not know it, or hides it from this token; check the name, and log in if it is private",
    409: "somebody else is changing the repository at this moment; try again",
    412: "somebody else pushed in the meantime; look at their commit and push again",
    413: "a file is larger than the Hub takes; save with a smaller max_shard_size",
    429: "the Hub limits how often it is asked; wait some minutes and try again",
}


class HubError(OSError):
    """The Hub could not be reached or said no; the message says which, and what to do."""


def hub_error(what: str, repo_id: str, error: BaseException, revision: str | None = None) -> HubError:
    """The sentence for `error`, which stopped `what` ("Pushing to", "Pulling from") `repo_id`."""
    cause = error.__cause__
    # The client's wrappers around a failed upload, and around a download that the Hub refused.
    if cause is not None and (
        isinstance(error, RuntimeError)
        or (isinstance(error, LocalEntryNotFoundError) and isinstance(cause, HfHubHTTPError))
    ):
        error = cause
    return HubError(f"{what} {repo_id} failed: {_reason(error, revision)}.")


def _reason(error: BaseException, revision: str | None) -> str:
    if isinstance(error, HFValidationError):
        return f"{_first_line(error)}; write namespace/name, as in alice/vit-bndl"
    if isinstance(error, LocalTokenNotFoundError):
        return "there is no access token here; log in with `hf auth login`, or pass token=..."
    if isinstance(error, OfflineModeIsEnabled):
        return "offline mode is on (HF_HUB_OFFLINE=1); unset it, or use what is in the cache"
    if isinstance(error, RevisionNotFoundError):
        return f"it has no revision {revision!r}; look at its branches and tags"
    if isinstance(error, GatedRepoError):
        return "access to it is granted on request; ask for it on its page and log in"
    if isinstance(error, LocalEntryNotFoundError):
        return f"it is not in the local cache and the Hub cannot be reached ({_first_line(error)})"
    if isinstance(error, RepositoryNotFoundError):
        return _BY_STATUS[404]
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        status = error.response.status_code
        if status >= 500:
            return f"the Hub has trouble of its own (status {status}); try again later"
        return f"{_BY_STATUS.get(status, 'the Hub refused it')} (status {status}: {_server_message(error)})"
    if isinstance(error, HTTPError | ConnectionError | TimeoutError):
        return f"the connection was lost ({_named(error)}); check the network and try again"
    return _named(error)


def _server_message(error: HfHubHTTPError) -> str:
    return (error.server_message or _first_line(error)).strip().rstrip(".")


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no details"])[0].rstrip(".")
