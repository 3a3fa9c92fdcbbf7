"""Pushing and pulling over real HTTP: one commit or nothing, whatever goes wrong on the way."""

import logging
import re
import tempfile
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, constants
from PIL import Image

from bndl_hf.data.pixel_values import make_image_processor
from bndl_hf.hub import HubError, pull_from_hub, push_to_hub
from bndl_hf.hub.contents import write_contents
from bndl_hf.hub.publish import upload_contents
from model.tiny import IMAGE_SIZE, tiny_model
from test_hub_set import FILES

REPO = "alice/vit-bndl"
RESULTS = {"accuracy": 0.875, "negative_log_likelihood": 0.5}
HUB_SET = {file.name for file in FILES} - {"__init__.py"}
PIXEL_VALUES = torch.linspace(-1, 1, 2 * 3 * 30 * 30).view(2, 3, 30, 30)


@pytest.fixture(scope="module")
def model():
    return tiny_model("vit")


@pytest.fixture(scope="module")
def processor():
    return make_image_processor(IMAGE_SIZE)


@pytest.fixture(scope="module")
def other_model():
    model = tiny_model("vit")
    with torch.no_grad():
        model.decision_layer.raw_loadings.mul_(2)
    return model


def push(model, processor, repo=REPO, **arguments):
    return push_to_hub(model, processor, repo, **{"results": RESULTS, **arguments})


def safetensors(model):
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return (Path(folder) / "model.safetensors").read_bytes()


def commits(api, repo=REPO, revision=None):
    return [commit.title for commit in api.list_repo_commits(repo, revision=revision)]


# ---- there and back ----


def test_a_push_is_one_commit_with_everything_and_a_pull_gives_it_back(hub, api, tmp_path, model, processor):
    figure = tmp_path / "reliability.png"
    Image.new("RGB", (4, 4)).save(figure)
    commit = push(model, processor, figures=[figure], base_model="google/vit-base", commit_message="First")
    assert commits(api) == ["First", "initial commit"]
    assert commit.oid == api.model_info(REPO).sha
    files = hub.files(REPO)
    assert set(files) - {".gitattributes"} == HUB_SET | {
        "handler.py",
        "requirements.txt",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "results.json",
        "README.md",
        "figures/reliability.png",
    }
    pulled = pull_from_hub(REPO, cache_dir=tmp_path / "cache")
    assert pulled.results == RESULTS
    assert pulled.card.data.base_model == "google/vit-base"
    assert pulled.revision == commit.oid
    assert pulled.missing == ()
    assert not pulled.model.training
    assert torch.equal(pulled.model.predict(PIXEL_VALUES).probs, model.predict(PIXEL_VALUES).probs)
    assert pulled.processor.to_dict() == processor.to_dict()


def test_a_name_without_namespace_is_ones_own(hub, api, model):
    push(model, None, "vit-bndl")
    assert "model.safetensors" in hub.files(REPO)
    assert 'model_id = "alice/vit-bndl"' in hub.files(REPO)["README.md"].decode()


def test_a_second_push_replaces_what_would_contradict_it_and_keeps_the_rest(hub, api, tmp_path, model, other_model):
    Image.new("RGB", (4, 4)).save(tmp_path / "old.png")
    push(model, None, figures=[tmp_path / "old.png"])
    api.upload_file(path_or_fileobj=b"1", path_in_repo="model-00001-of-00002.safetensors", repo_id=REPO)
    api.upload_file(path_or_fileobj=b"mine", path_in_repo="notes.txt", repo_id=REPO)
    push(other_model, None)
    files = hub.files(REPO)
    assert files["notes.txt"] == b"mine"
    assert not {"model-00001-of-00002.safetensors", "figures/old.png"} & set(files)
    pulled = pull_from_hub(REPO, cache_dir=tmp_path / "cache")
    assert torch.equal(pulled.model.predict(PIXEL_VALUES).probs, other_model.predict(PIXEL_VALUES).probs)


def test_branches_tags_and_pull_requests(hub, api, tmp_path, model, other_model):
    push(model, None)
    api.create_tag(REPO, tag="v1")
    before = hub.files(REPO)
    push(other_model, None, revision="experiment", commit_message="On a branch")
    assert commits(api, revision="experiment")[0] == "On a branch"
    commit = push(other_model, None, create_pr=True)
    assert commit.pr_url
    assert hub.files(REPO) == before
    push(other_model, None)
    for revision, expected in (("v1", model), ("experiment", other_model), ("refs/pr/1", other_model)):
        pulled = pull_from_hub(REPO, revision, cache_dir=tmp_path / "cache")
        assert torch.equal(pulled.model.predict(PIXEL_VALUES).probs, expected.predict(PIXEL_VALUES).probs), revision


def test_a_private_repository_is_hidden_from_others(hub, api, tmp_path, model):
    push(model, None, private=True)
    assert api.model_info(REPO).private
    with pytest.raises(HubError, match=r"alice/vit-bndl failed: the Hub does not know it, or hides it from this token"):
        pull_from_hub(REPO, token="hf_bob", cache_dir=tmp_path)


def test_the_standard_push_to_hub_publishes_a_model_that_loads(hub, tmp_path, model):
    model.push_to_hub(REPO)
    assert set(hub.files(REPO)) >= HUB_SET | {"config.json", "model.safetensors"}
    pulled = pull_from_hub(REPO, cache_dir=tmp_path)
    assert torch.equal(pulled.model.predict(PIXEL_VALUES).probs, model.predict(PIXEL_VALUES).probs)
    assert pulled.missing == ("preprocessor_config.json", "results.json")
    assert pulled.processor is None
    assert pulled.results is None


def test_offline_takes_the_cache_and_says_so_where_there_is_none(hub, tmp_path, model, monkeypatch):
    commit = push(model, None)
    pull_from_hub(REPO, cache_dir=tmp_path / "cache")
    hub.close()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for arguments in ({}, {"local_files_only": True}):
        pulled = pull_from_hub(REPO, cache_dir=tmp_path / "cache", **arguments)
        assert torch.equal(pulled.model.predict(PIXEL_VALUES).probs, model.predict(PIXEL_VALUES).probs)
        assert pulled.revision == commit.oid
    with pytest.raises(HubError, match="failed: it is not in the local cache and the Hub cannot be reached"):
        pull_from_hub(REPO, cache_dir=tmp_path / "empty", local_files_only=True)
    with pytest.raises(HubError, match=r"failed: offline mode is on \(HF_HUB_OFFLINE=1\); unset it"):
        pull_from_hub(REPO, cache_dir=tmp_path / "empty")
    with pytest.raises(HubError, match=r"Pushing to alice/vit-bndl failed: offline mode is on"):
        push(model, None)


def test_an_old_copy_is_taken_with_a_warning_where_the_hub_is_down_and_never_where_it_says_no(
    hub, tmp_path, model, caplog, monkeypatch
):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    push(model, None)
    here = {"cache_dir": tmp_path / "cache"}
    pull_from_hub(REPO, **here)
    assert "cache" not in caplog.text
    with pytest.raises(HubError, match="does not accept the access token"):
        pull_from_hub(REPO, token="hf_expired", **here)
    hub.fail(404, path_contains="/api/models/alice/vit-bndl")
    with pytest.raises(HubError, match="does not know it"):
        pull_from_hub(REPO, **here)
    hub.fail(500, path_contains="/api/models/alice/vit-bndl")
    pulled = pull_from_hub(REPO, **here)
    assert torch.equal(pulled.model.predict(PIXEL_VALUES).probs, model.predict(PIXEL_VALUES).probs)
    assert "the Hub has trouble of its own (status 500); try again later" in caplog.text
    assert f"Its copy in the local cache is taken, commit {pulled.revision}" in caplog.text
    caplog.clear()
    hub.close()
    assert pull_from_hub(REPO, **here).revision == pulled.revision
    assert "the connection was lost" in caplog.text
    with pytest.raises(HubError, match="the connection was lost"):
        pull_from_hub(REPO, cache_dir=tmp_path / "empty")


# ---- what goes wrong ----

STATUSES = {
    401: "does not accept the access token; log in again with `hf auth login`",
    403: "this token may not do that; use a token with write access",
    404: "does not know it, or hides it from this token; check the name",
    409: "somebody else is changing the repository at this moment; try again",
    429: "limits how often it is asked; wait some minutes",
    500: r"the Hub has trouble of its own \(status 500\); try again later",
}


CARD = "---\nlibrary_name: bndl-hf\n---\nShort, for these tests push a hundred times."


@pytest.fixture(scope="module")
def contents(tmp_path_factory, other_model):
    """What `push(other_model, None, card=CARD)` uploads, which is written once for a hundred uploads."""
    return contents_of(other_model, tmp_path_factory.mktemp("contents"))


@pytest.fixture(scope="module")
def earlier_contents(tmp_path_factory, model):
    """What `push(model, None, card=CARD)` uploads."""
    return contents_of(model, tmp_path_factory.mktemp("contents"))


def contents_of(model, folder):
    write_contents(folder, model, None, repo_id=REPO, results=RESULTS, card=CARD)
    return folder


# Where a push may go: whether the repository is there, what is asked for, where it is to be found afterwards.
PLACES = {
    "new repository": (False, {}, "main"),
    "main branch": (True, {}, "main"),
    "new branch": (True, {"revision": "trial"}, "trial"),
    "pull request": (True, {"create_pr": True}, "refs/pr/1"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("fault", [*STATUSES, "cut request", "cut response"])
def test_a_fault_at_any_request_leaves_the_remote_as_it_was_and_a_retry_succeeds(
    hub, api, other_model, earlier_contents, contents, no_waiting, place, fault
):
    exists, arguments, revision = PLACES[place]
    weights = (contents / "model.safetensors").read_bytes()
    if exists:
        upload_contents(earlier_contents, REPO, "First")
    kept, before = hub.keep(REPO), hub.snapshot(REPO)
    number_of_requests, n, failed = 0, 0, 0
    while n <= number_of_requests:  # n = 0: nothing goes wrong, and the requests are counted
        hub.put_back(REPO, kept)
        count = len(hub.requests)
        if n:
            hub.fault_at(n, fault)
        sentence = None
        try:
            if n:
                upload_contents(contents, REPO, "Again", **arguments)
            else:
                push(other_model, None, card=CARD, **arguments)
        except HubError as error:
            sentence = str(error)
        hub.clear_faults()
        if n == 0:
            assert sentence is None
            # What the client asks once a process, whatever it is used for, is not counted.
            number_of_requests = sum(request["path"] != "/api/agent-harnesses" for request in hub.requests[count:])
            assert number_of_requests >= 6
        if sentence is not None:
            failed += 1
            assert sentence.startswith("Pushing to alice/vit-bndl failed: "), (n, sentence)
            assert sentence.endswith(" Nothing on the Hub was changed."), (n, sentence)
            if not isinstance(fault, str):
                assert re.search(STATUSES[fault], sentence), (n, sentence)
            assert hub.snapshot(REPO) == before, n
        n += 1
        if sentence is not None and fault in (401, 404, 409):
            continue  # they leave what 403 leaves, from where a retry is made
        if sentence is not None:
            upload_contents(contents, REPO, "Again", **arguments)
        assert len(commits(api, revision=revision)) == (3 if exists else 2), n
        assert hub.files(REPO, revision)["model.safetensors"] == weights, n
        assert len(hub.snapshot(REPO)["commits"]) == (3 if exists else 2), n
        if revision != "main":
            assert hub.files(REPO) == before["commits"][before["refs"]["refs/heads/main"]][2], n
    # The client repeats most requests after trouble and lost connections; every refusal ends the push.
    assert failed == number_of_requests if fault in (401, 403, 404, 409) else failed


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("fault", [429, 500, "cut request", "cut response"])
def test_a_fault_that_outlasts_the_clients_repetitions_fails_and_changes_nothing(
    hub, earlier_contents, contents, no_waiting, place, fault
):
    exists, arguments, revision = PLACES[place]
    if exists:
        upload_contents(earlier_contents, REPO, "First")
    before = hub.snapshot(REPO)
    for path in ("/preupload/", "/objects/batch", "/lfs/", "/commit/"):
        if isinstance(fault, int):
            hub.fail(fault, path_contains=path, times=100)
        else:
            hub.cut(fault.split()[1], path_contains=path, times=100)
        if path == "/commit/" and fault == "cut response":
            commit = upload_contents(contents, REPO, "Again", **arguments)  # it was made; only the answer was lost
            assert hub.files(REPO, revision)["model.safetensors"] == (contents / "model.safetensors").read_bytes()
            assert commit.pr_revision == (revision if "create_pr" in arguments else None)
            break
        with pytest.raises(HubError, match=r"Pushing to alice/vit-bndl failed: .*Nothing on the Hub was changed\."):
            upload_contents(contents, REPO, "Again", **arguments)
        hub.clear_faults()
        assert hub.snapshot(REPO) == before, path


@pytest.mark.parametrize("arguments", [{}, {"create_pr": True}], ids=["branch", "pull request"])
def test_a_commit_that_may_or_may_not_have_arrived_is_not_called_undone(hub, model, other_model, arguments):
    push(model, None)
    hub.cut("response", path_contains="/commit/")
    if arguments:
        hub.fail(500, path_contains="blobs=", times=100)
    else:
        hub.fail(500, path_contains="/api/models/alice/vit-bndl?", times=100)
    with pytest.raises(HubError, match=r"could not be asked whether the commit arrived; look at the repository before"):
        push(other_model, None, **arguments)


@pytest.mark.parametrize("what", ["/api/repos/create", "/branch/"])
def test_what_somebody_else_made_at_the_same_moment_is_not_taken_away(hub, api, model, no_waiting, what):
    # The Hub says that there is none, and then that there is one already: an empty one, but not ours.
    api.create_repo(REPO)
    api.create_branch(REPO, branch="trial")
    before = hub.snapshot(REPO)
    if what == "/branch/":
        hub.hide(path_contains="/revision/trial", code="RevisionNotFound")
    else:
        hub.hide(path_contains="/api/models/alice/vit-bndl", code="RepoNotFound")
    with pytest.raises(HubError, match="Nothing on the Hub was changed"):
        push(model, None, revision="trial")
    assert any(what in request["path"] and request["outcome"] == 409 for request in hub.requests)
    assert hub.snapshot(REPO) == before


def test_what_cannot_be_taken_away_again_is_told(hub, model, no_waiting):
    hub.fail(500, path_contains="/preupload/", times=100)
    hub.fail(500, path_contains="/api/repos/delete", times=100)
    with pytest.raises(HubError, match=r"An empty alice/vit-bndl may be left there; push again, or delete it\."):
        push(model, None)
    hub.clear_faults()
    push(model, None)
    hub.fail(500, path_contains="/preupload/", times=100)
    hub.fail(500, path_contains="/branch/", method="DELETE", times=100)
    with pytest.raises(HubError, match=r"The new branch trial may be left there; push again, or delete it\."):
        push(model, None, revision="trial")


def test_ctrl_c_takes_away_what_was_made(hub, model, monkeypatch):
    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(HfApi, "create_commit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        push(model, None)
    assert hub.snapshot(REPO) is None


@pytest.mark.parametrize("status", STATUSES)
def test_every_status_says_what_to_do(hub, model, other_model, no_waiting, status):
    push(model, None)
    hub.fail(path_contains="/commit/", status=status, times=100)
    with pytest.raises(HubError, match=STATUSES[status]):
        push(other_model, None)


def test_somebody_elses_push_in_between_is_not_overwritten(hub, api, model, other_model):
    push(model, None)
    api.upload_file(path_or_fileobj=b"theirs", path_in_repo="notes.txt", repo_id=REPO)
    before = hub.snapshot(REPO)
    hub.fail(path_contains="/commit/", status=412)
    with pytest.raises(HubError, match="somebody else pushed in the meantime; look at their commit and push again"):
        push(other_model, None)
    assert hub.snapshot(REPO) == before


@pytest.mark.parametrize(
    ("repo", "message"),
    [
        ("bob/vit-bndl", "use a token with write access"),
        ("alice/a/b", "Repo id must be in the form"),
        ("alice/vit--bndl", "Cannot have -- or .. in repo_id"),
    ],
)
def test_a_repository_that_cannot_be_pushed_to(hub, model, repo, message):
    with pytest.raises(HubError, match=message):
        push(model, None, repo)


def test_a_push_without_an_access_token(hub, model, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    for repo in ("vit-bndl", REPO):
        with pytest.raises(HubError, match="failed: there is no access token here; log in with `hf auth login`"):
            push(model, None, repo)


def test_an_access_token_that_expired(hub, model):
    with pytest.raises(HubError, match="the Hub does not accept the access token; log in again"):
        push(model, None, token="hf_expired")


# ---- downloads that go wrong ----


@pytest.mark.parametrize("direction", ["request", "response"])
def test_a_download_cut_short_is_repeated_and_complete(hub, tmp_path, model, no_waiting, direction):
    push(model, None)
    hub.cut(direction, path_contains="/lfs/", method="GET", times=2)
    pulled = pull_from_hub(REPO, cache_dir=tmp_path)
    assert torch.equal(pulled.model.predict(PIXEL_VALUES).probs, model.predict(PIXEL_VALUES).probs)


@pytest.mark.parametrize("direction", ["request", "response"])
def test_a_download_that_never_ends_well_says_so_and_a_later_pull_succeeds(hub, tmp_path, model, no_waiting, direction):
    push(model, None)
    hub.cut(direction, path_contains="/lfs/", method="GET", times=1000)
    with pytest.raises(HubError, match=r"Pulling from alice/vit-bndl failed: the connection was lost .*try again"):
        pull_from_hub(REPO, cache_dir=tmp_path)
    hub.clear_faults()
    pulled = pull_from_hub(REPO, cache_dir=tmp_path)
    assert torch.equal(pulled.model.predict(PIXEL_VALUES).probs, model.predict(PIXEL_VALUES).probs)


@pytest.mark.parametrize("fault", [*STATUSES, "cut request", "cut response"])
def test_a_fault_at_any_request_of_a_pull_is_said_and_a_later_pull_succeeds(
    hub, tmp_path, model, earlier_contents, no_waiting, fault
):
    upload_contents(earlier_contents, REPO, "First")
    expected = model.predict(PIXEL_VALUES).probs
    count = len(hub.requests)
    pull_from_hub(REPO, cache_dir=tmp_path / "first")
    number_of_requests, failed = len(hub.requests) - count, 0
    for n in range(1, number_of_requests + 1):
        hub.fault_at(n, fault, times=100)
        sentence = None
        try:
            pulled = pull_from_hub(REPO, cache_dir=tmp_path / str(n))
        except HubError as error:
            sentence = str(error)
        hub.clear_faults()
        if sentence is not None:
            failed += 1
            assert sentence.startswith("Pulling from alice/vit-bndl failed: "), (n, sentence)
            says = "try again" if isinstance(fault, str) else STATUSES[fault]
            assert re.search(says, sentence), (n, sentence)
            if fault in (401, 404, 409):
                continue  # they leave what 403 leaves, from where a later pull is made
            pulled = pull_from_hub(REPO, cache_dir=tmp_path / str(n))
        assert torch.equal(pulled.model.predict(PIXEL_VALUES).probs, expected), n
    assert failed


@pytest.mark.parametrize(
    ("repo", "revision", "message"),
    [
        ("alice/nothing", None, "the Hub does not know it, or hides it from this token; check the name"),
        (REPO, "v9", "v9"),
        ("alice", None, "alice"),
    ],
)
def test_what_is_not_there_is_named(hub, tmp_path, model, repo, revision, message):
    push(model, None)
    with pytest.raises(HubError, match=message):
        pull_from_hub(repo, revision, cache_dir=tmp_path)


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("config.json", None, r"config\.json"),
        ("model.safetensors", None, r"model\.safetensors"),
        ("model.safetensors", b"\x00" * 40, "damaged|incomplete"),
        ("config.json", b'{"model_type": "resnet"}', "resnet"),
        ("results.json", b'{"accuracy": ', r"results\.json"),
        ("results.json", b"[0.98]", r"results\.json of alice/vit-bndl is not a JSON object of results"),
        ("model.safetensors.index.json", b"[]", r"model\.safetensors\.index\.json of alice/vit-bndl does not list"),
    ],
)
def test_a_repository_that_is_no_whole_checkpoint_says_what_is_wrong(hub, api, tmp_path, model, path, content, message):
    push(model, None)
    if content is None:
        api.delete_file(path, REPO)
    else:
        api.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id=REPO)
    with pytest.raises(ValueError, match=message) as caught:
        pull_from_hub(REPO, cache_dir=tmp_path)
    assert "Traceback" not in str(caught.value)


def test_a_sharded_checkpoint_comes_back_and_a_missing_shard_is_named(hub, api, tmp_path, model):
    model.push_to_hub(REPO, max_shard_size="40KB")
    shards = [name for name in hub.files(REPO) if name.startswith("model-0")]
    assert len(shards) > 1
    pulled = pull_from_hub(REPO, cache_dir=tmp_path)
    assert torch.equal(pulled.model.predict(PIXEL_VALUES).probs, model.predict(PIXEL_VALUES).probs)
    api.delete_file(shards[0], REPO)
    with pytest.raises(ValueError, match=shards[0]):
        pull_from_hub(REPO, cache_dir=tmp_path)
