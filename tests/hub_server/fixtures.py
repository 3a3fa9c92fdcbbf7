"""A Hub on this machine with two users, and a client in this process that may talk to it."""

import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.utils import _http
from transformers.utils import hub as transformers_hub

from hub_server import HubServer


@pytest.fixture
def hub(monkeypatch):
    """The Hub of alice, who is logged in here, and of bob, who is not."""
    with HubServer() as server:
        server.add_user("alice", token="hf_alice", organisations=("lab",))
        server.add_user("bob", token="hf_bob")
        # The suite is offline; this process reads its settings once, so they are changed where they are kept.
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(transformers_hub, "_hf_api", None)  # the client transformers keeps
        monkeypatch.setenv("HF_TOKEN", "hf_alice")
        yield server


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.url, token="hf_alice")


@pytest.fixture
def no_waiting(monkeypatch):
    """The client waits up to half a minute before it gives up; its repetitions stay, their pauses go."""
    monkeypatch.setattr(_http.time, "sleep", lambda _seconds: None)
