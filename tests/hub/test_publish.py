"""Pushing and pulling over real HTTP: one commit or nothing, whatever goes wrong on the way."""

import pytest
import torch
from PIL import Image

from bndl_hf.hub import HubError, pull_from_hub, push_to_hub
from bndl_hf.training.pixel_values import make_image_processor
from model.tiny import IMAGE_SIZE, tiny_model
from test_hub_set import FILES

REPO = "alice/vit-bndl"
RESULTS = {"accuracy": 0.875, "nll": 0.5}
HUB_SET = {file.name for file in FILES} - {"__init__.py"}
PIXEL_VALUES = torch.linspace(-1, 1, 2 * 3 * 30 * 30).view(2, 3, 30, 30)


@pytest.fixture(scope="module")
def model():
    return tiny_model("vit")


@pytest.fixture(scope="module")
def processor():
    return make_image_processor(IMAGE_SIZE)


@pytest.fixture
def other_model():
    model = tiny_model("vit")
    with torch.no_grad():
        model.decision_layer.raw_loadings.mul_(2)
    return model


def push(model, processor, repo=REPO, **arguments):
    return push_to_hub(model, processor, repo, **{"results": RESULTS, **arguments})


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
    push(model, None)
    pull_from_hub(REPO, cache_dir=tmp_path / "cache")
    hub.close()
    pulled = pull_from_hub(REPO, cache_dir=tmp_path / "cache", local_files_only=True)
    assert torch.equal(pulled.model.predict(PIXEL_VALUES).probs, model.predict(PIXEL_VALUES).probs)
    with pytest.raises(HubError, match="failed: it is not in the local cache and the Hub cannot be reached"):
        pull_from_hub(REPO, cache_dir=tmp_path / "empty", local_files_only=True)


# ---- what goes wrong ----

STATUSES = {
    401: "does not accept the access token; log in again with `hf auth login`",
    403: "this token may not do that; use a token with write access",
    409: "somebody else is changing the repository at this moment; try again",
    429: "limits how often it is asked; wait some minutes",
    500: r"the Hub has trouble of its own \(status 500\); try again later",
}


def number_of_requests(hub, model, repo):
    before = len(hub.requests)
    push(model, None, repo)
    return len(hub.requests) - before


@pytest.mark.parametrize("exists", [False, True], ids=["new", "existing"])
@pytest.mark.parametrize("fault", [*STATUSES, "cut request", "cut response"])
def test_a_fault_at_any_request_leaves_the_remote_as_it_was_and_a_retry_succeeds(
    hub, api, model, other_model, no_waiting, exists, fault
):
    count = number_of_requests(hub, model, "alice/rehearsal")
    if exists:
        push(model, None)
        count = number_of_requests(hub, other_model, "alice/rehearsal")
    assert count >= 5
    failed = 0
    for n in range(1, count + 1):
        before = hub.snapshot(REPO)
        hub.fault_at(n, fault)
        try:
            push(other_model, None)
        except HubError as error:
            failed += 1
            assert "Pushing to alice/vit-bndl failed: " in str(error), (n, error)
            assert "Nothing on the Hub was changed." in str(error), (n, error)
            assert hub.snapshot(REPO) == before, n
        hub.clear_faults()
        push(other_model, None)  # a retry
        assert hub.files(REPO)["model.safetensors"], n
        if not exists:
            api.delete_repo(REPO)
    assert failed


@pytest.mark.parametrize("status", STATUSES)
def test_every_status_says_what_to_do(hub, model, no_waiting, status):
    push(model, None)
    hub.fail(path_contains="/commit/", status=status, times=100)
    with pytest.raises(HubError, match=STATUSES[status]):
        push(model, None)
