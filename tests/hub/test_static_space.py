"""A page as a static Space, and beside a model, over real HTTP."""

import pytest
from huggingface_hub import SpaceCard
from PIL import Image

from bndl_hf.data.pixel_values import make_image_processor
from bndl_hf.hub import HubError, push_gradio_space, push_space, push_to_hub
from bndl_hf.hub.static_space import publish_folder
from hub_server.faults import Fault
from model.tiny import IMAGE_SIZE, tiny_model

SPACE = "alice/what-is-it"


@pytest.fixture(scope="module")
def model():
    return tiny_model("resnet")


@pytest.fixture(scope="module")
def processor():
    return make_image_processor(IMAGE_SIZE)


def test_a_space_holds_the_page_and_names_its_model(hub, api, model, processor):
    push_space(SPACE, model, processor, model_id="alice/resnet-bndl", title='A "page"', runtime="cdn")
    files = hub.files(SPACE)
    assert set(files) - {".gitattributes"} == {"README.md", "index.html", "style.css", "app.js", "model.onnx.gz"}
    card = SpaceCard(files["README.md"].decode())
    assert card.data.to_dict() == {
        "title": 'A "page"',
        "sdk": "static",
        "app_file": "index.html",
        "tags": ["bndl"],
        "models": ["alice/resnet-bndl"],
    }


def test_a_page_takes_the_place_of_an_earlier_one(hub, api, tmp_path):
    (tmp_path / "index.html").write_text("first")
    (tmp_path / "example-1.png").write_bytes(b"1")
    publish_folder(SPACE, tmp_path, commit_message="First")
    (tmp_path / "index.html").write_text("second")
    (tmp_path / "example-1.png").unlink()
    publish_folder(SPACE, tmp_path, commit_message="Second")
    assert [commit.title for commit in api.list_repo_commits(SPACE, repo_type="space")][:2] == ["Second", "First"]
    assert set(hub.files(SPACE)) == {".gitattributes", "index.html"}
    assert hub.files(SPACE)["index.html"] == b"second"


def test_a_gradio_space_is_pushed_with_its_app_and_examples(hub, api, tmp_path):
    Image.new("RGB", (20, 20), "red").save(tmp_path / "red.png")
    push_gradio_space("alice/app", "alice/resnet-bndl", examples=[tmp_path / "red.png"])
    files = hub.files("alice/app")
    assert set(files) - {".gitattributes"} == {"README.md", "app.py", "requirements.txt", "examples/red.png"}
    assert SpaceCard(files["README.md"].decode()).data.sdk == "gradio"
    assert b'"alice/resnet-bndl"' in files["app.py"]


def test_a_failed_push_leaves_no_space_behind(hub, tmp_path):
    (tmp_path / "index.html").write_text("page")
    hub.faults.add(Fault(403), "/commit/", "POST", 1)
    with pytest.raises(HubError, match="Nothing on the Hub was changed"):
        publish_folder(SPACE, tmp_path, commit_message="Page")
    assert hub.snapshot(SPACE) is None


def test_a_model_may_bring_its_page(hub, model, processor):
    with pytest.raises(ValueError, match="page=True needs the image processor"):
        push_to_hub(model, None, "alice/resnet-bndl", page=True)
    with pytest.raises(ValueError, match="pass page=True"):
        push_to_hub(model, processor, "alice/resnet-bndl", page_examples=["cat.jpg"])
    push_to_hub(model, processor, "alice/resnet-bndl", page=True)
    files = hub.files("alice/resnet-bndl")
    assert b"[page.html](page.html)" in files["README.md"]
    assert files["page.html"].startswith(b"<!doctype html>")
