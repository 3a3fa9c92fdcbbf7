"""What would be published: every file and no other, readable by anybody, with nothing private in it."""

import json
import os
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from PIL import Image, PngImagePlugin
from transformers import AutoImageProcessor

from bndl_hf import BNDLForImageClassification
from bndl_hf.data.pixel_values import make_image_processor
from bndl_hf.hub import list_contents, push_to_hub
from bndl_hf.hub.contents import check_nothing_private, public_results, write_contents
from model.tiny import IMAGE_SIZE, tiny_model
from test_hub_set import FILES

REPOSITORY = Path(__file__).parents[2]
HUB_SET = {file.name for file in FILES} - {"__init__.py"}
RESULTS = {
    "accuracy": 0.875,
    "negative_log_likelihood": 0.5,
    "num_images": 8,
    "command": "scripts/finetune.py --dataset_name digits",
}


@pytest.fixture(scope="module")
def model():
    return tiny_model("vit")


@pytest.fixture(scope="module")
def processor():
    return make_image_processor(IMAGE_SIZE)


@pytest.fixture
def figure(tmp_path):
    path = tmp_path / "reliability.png"
    Image.new("RGB", (4, 4)).save(path)
    return path


def test_everything_a_checkpoint_needs_and_nothing_else(tmp_path, model, processor, figure):
    folder = tmp_path / "contents"
    folder.mkdir()
    write_contents(folder, model, processor, repo_id="alice/vit-bndl", results=RESULTS, figures=[figure])
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    wanted = {"config.json", "model.safetensors", "preprocessor_config.json", "results.json", "README.md"}
    wanted |= {"handler.py", "requirements.txt"}
    assert found == wanted | HUB_SET | {"figures/reliability.png"}
    assert json.loads((folder / "results.json").read_text()) == RESULTS
    card = (folder / "README.md").read_text()
    assert 'model_id = "alice/vit-bndl"' in card
    assert "![figures/reliability.png](figures/reliability.png)" in card
    assert "87.5 %" in card
    listed = list_contents(model, processor, "alice/vit-bndl", results=RESULTS, figures=[figure])
    assert listed == {name: (folder / name).stat().st_size for name in sorted(found)}


def test_a_card_of_ones_own_is_kept_and_learns_the_repository_s_name(tmp_path, model):
    card = ModelCard("---\nlicense: mit\n---\n# Mine\n\nLoad your-name/your-model. Written by hand.\n")
    write_contents(tmp_path, model, None, repo_id="alice/vit-bndl", card=card)
    text = (tmp_path / "README.md").read_text()
    assert "Load alice/vit-bndl. Written by hand." in text
    assert "license: mit" in text
    assert not (tmp_path / "results.json").exists()
    assert not (tmp_path / "preprocessor_config.json").exists()
    assert not (tmp_path / "handler.py").exists()  # an endpoint needs the processor


def test_results_lose_paths_and_tokens_and_keep_the_rest():
    cleaned = public_results(
        {
            "accuracy": 0.5,
            "evaluated_on": "split 'test' of ../data/private/cifar10",
            "command": "finetune.py --dataset_name /home/alice/data/pets --model uoft-cs/model --output_dir=/tmp/x/run "
            "--hub_token hf_abcdefghijklmnopqrstuvwxyz --image C:\\Users\\alice\\cat.png --lr 1e-3 --a ~/secret/b",
            "nested": {"files": [Path("/srv/photos/cat.png"), "relative/stays.png"], "none": None, "flag": True},
        }
    )
    assert cleaned == {
        "accuracy": 0.5,
        "evaluated_on": "split 'test' of cifar10",
        "command": "finetune.py --dataset_name pets --model uoft-cs/model --output_dir=run "
        "--hub_token ... --image cat.png --lr 1e-3 --a b",
        "nested": {"files": ["cat.png", "relative/stays.png"], "none": None, "flag": True},
    }
    with pytest.raises(ValueError, match="results cannot be written as JSON"):
        public_results({"model": object()})
    with pytest.raises(ValueError, match="leave out what is not a finite number"):
        public_results({"accuracy": float("nan")})


@pytest.mark.parametrize(
    "text",
    ["see /home/alice/notes.txt", r"C:\Users\alice\x", "/Users/alice/model", f"{os.getcwd()}/data", f'"{Path.home()}"'],
)
def test_a_path_of_this_machine_or_anybody_s_home_stops_the_push(tmp_path, text):
    (tmp_path / "README.md").write_text(f"# Card\n{text}\n")
    with pytest.raises(ValueError, match=r"README.md would publish .* nothing was sent"):
        check_nothing_private(tmp_path)


@pytest.mark.parametrize("text", ["https://example.org/home/page", "a/home/b", "hf_transfer", "the home/office rug"])
def test_words_that_look_a_little_like_it_do_not(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    check_nothing_private(tmp_path)


def test_tokens_stop_the_push_and_are_not_repeated(tmp_path):
    (tmp_path / "README.md").write_text("token: hf_abcdefghijklmnopqrstuvwxyz0123456789")
    with pytest.raises(ValueError, match=r"README\.md would publish an access token") as error:
        check_nothing_private(tmp_path)
    assert "hf_abc" not in str(error.value)
    (tmp_path / "README.md").write_text("the password is swordfish")
    with pytest.raises(ValueError, match=r"README\.md would publish an access token"):
        check_nothing_private(tmp_path, secrets=["swordfish"])


def test_a_figure_s_metadata_is_searched_too(tmp_path, model):
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Source", "/home/alice/secret/plot.py")
    Image.new("RGB", (4, 4)).save(tmp_path / "plot.png", pnginfo=notes)
    with pytest.raises(ValueError, match=r"figures/plot.png would publish /home/alice"):
        list_contents(model, None, "alice/vit-bndl", figures=[tmp_path / "plot.png"])


def test_figures_that_are_not_there_or_share_a_name_are_errors(tmp_path, model, figure):
    with pytest.raises(ValueError, match=r"figures names nowhere.png, which is not a file here"):
        list_contents(model, None, "alice/vit-bndl", figures=["nowhere.png"])
    (tmp_path / "other").mkdir()
    same = tmp_path / "other" / figure.name
    same.write_bytes(figure.read_bytes())
    with pytest.raises(ValueError, match=r"two files called reliability.png"):
        list_contents(model, None, "alice/vit-bndl", figures=[figure, same])


def test_only_our_classifiers_are_published(model):
    with pytest.raises(ValueError, match="A ViTForImageClassification is not a BNDLForImageClassification"):
        list_contents(model.backbone, None, "alice/vit-bndl")


def test_nothing_of_the_machine_is_in_anything_a_whole_run_publishes(tmp_path, hub, run_python, monkeypatch):
    """Fine-tune and push with the command line somebody would type, publish again, then look into every byte."""
    home = tmp_path / "home_of_jo"
    home.mkdir()
    token = "hf_secretsecretsecretsecretsecret"
    hub.add_user("alice", token=token)
    person = {"HOME": str(home), "USER": "jo_the_user", "LOGNAME": "jo_the_user"}
    environment = {**hub.environment(token, home), **person, "HF_HUB_OFFLINE": "0"}
    command = f"""
        {REPOSITORY}/scripts/finetune.py --model_type resnet --image_size 8 --dataset_name digits
        --config_overrides {{"embedding_size":8,"hidden_sizes":[8,16],"depths":[1,1],"layer_type":"basic"}}
        --max_steps 2 --max_eval_samples 20 --per_device_train_batch_size 9 --output_dir {home}/outputs/run
        --push_to_hub --hub_model_id alice/resnet-bndl --hub_tok {token}
    """
    done = run_python(command.split(), home, **environment)
    assert done.returncode == 0, done.stderr
    assert f"Published: {hub.url}/alice/resnet-bndl/commit/" in done.stdout
    run = home / "outputs" / "run"
    assert (run / "training_args.bin").exists()  # and it stays where it is
    written = (run / "results.json").read_text()
    assert "--hub_tok ..." in written
    assert str(home) not in written

    monkeypatch.chdir(home)
    for name, value in person.items():
        monkeypatch.setenv(name, value)
    push_to_hub(
        BNDLForImageClassification.from_pretrained(run),
        AutoImageProcessor.from_pretrained(run),
        "alice/again",
        results=json.loads((run / "results.json").read_text()),
        base_model=str(run),
        dataset_name=str(run),
    )
    secrets = ("home_of_jo", "jo_the_user", "secretsecret", "hf_alice", str(tmp_path), str(REPOSITORY), sys.prefix)
    for repo in ("alice/resnet-bndl", "alice/again"):
        assert {"results.json", "config.json", "README.md", "model.safetensors", *HUB_SET} <= set(hub.files(repo))
        for title, _, files in hub.snapshot(repo)["commits"].values():  # of every commit on the way
            assert "training_args.bin" not in files
            for path, content in files.items():
                found = [secret for secret in secrets if secret.encode() in content]
                assert not found, (title, path)


def test_a_fact_that_a_card_does_not_have_is_named_with_those_it_has(model):
    with pytest.raises(ValueError, match=r"A model card has no author; pass base_model, dataset_name, license, split,"):
        list_contents(model, None, "alice/vit-bndl", author="Alice")


def test_facts_beside_a_card_of_ones_own_are_refused(model):
    with pytest.raises(ValueError, match="card is a card of your own, which license would not change"):
        list_contents(model, None, "alice/vit-bndl", card="# Mine\n", license="mit", base_model=None)
