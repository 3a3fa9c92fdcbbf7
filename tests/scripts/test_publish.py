"""publish.py as its user runs it: look first, publish, and be told what is wrong in one sentence."""

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from bndl_hf.data.pixel_values import make_image_processor
from bndl_hf.hub import create_model_card, pull_from_hub, push_to_hub
from bndl_hf.interpretability import collect_factor_thumbnails, load_factor_thumbnails
from model.tiny import IMAGE_SIZE, tiny_model
from script_modules import load_script

publish = load_script("publish")
SCRIPT = Path(publish.__file__)
REPO = "alice/vit-bndl"
PIXEL_VALUES = torch.linspace(-1, 1, 2 * 3 * 30 * 30).view(2, 3, 30, 30)


@pytest.fixture
def folder(tmp_path):
    """What finetune.py leaves behind."""
    folder = tmp_path / "outputs" / "mine"
    model = tiny_model("vit")
    model.save_pretrained(folder)
    make_image_processor(IMAGE_SIZE).save_pretrained(folder)
    results = {"accuracy": 0.875, "command": f"finetune.py --output_dir {folder} --hub_token hf_alice"}
    (folder / "results.json").write_text(json.dumps(results))
    create_model_card(model, results, dataset_name="digits").save(folder / "README.md")
    (folder / "training_args.bin").write_bytes(b"private")
    return folder


def arguments(folder, *more):
    return ["--model_name_or_path", str(folder), "--repo_id", REPO, *map(str, more)]


def test_a_dry_run_lists_exactly_what_a_push_then_publishes(hub, folder, tmp_path, capsys):
    figure = tmp_path / "reliability.png"
    Image.new("RGB", (4, 4)).save(figure)
    more = ("--figures", figure)
    publish.main(arguments(folder, *more, "--dry_run"))
    assert hub.requests == []
    printed = capsys.readouterr().out
    lines = re.findall(r"^  (\S+) +([\d,]+) bytes$", printed, re.MULTILINE)
    listed = {name: int(size.replace(",", "")) for name, size in lines}

    publish.main(arguments(folder, *more))
    files = hub.files(REPO)
    assert listed == {name: len(files[name]) for name in set(files) - {".gitattributes"}}
    assert f"{len(listed)} files, {sum(listed.values()):,} bytes, would be uploaded to {REPO} in one commit" in printed
    assert re.search(rf"Published: {hub.url}/{REPO}/commit/\w+", capsys.readouterr().out)
    assert {"results.json", "README.md", "figures/reliability.png", "modeling_bndl.py"} <= set(listed)
    assert "training_args.bin" not in listed
    assert json.loads(files["results.json"])["command"] == "finetune.py --output_dir mine --hub_token ..."
    pulled = pull_from_hub(REPO, cache_dir=tmp_path / "cache")
    expected = tiny_model("vit").predict(PIXEL_VALUES).probs
    assert torch.equal(pulled.model.predict(PIXEL_VALUES).probs, expected)


def test_a_new_card_with_facts_a_branch_and_a_pull_request(hub, api, folder, capsys):
    publish.main(arguments(folder))
    main = hub.files(REPO)
    facts = ("--base_model", "google/vit-base", "--license", "apache-2.0", "--tags", "pets", "--language", "en")
    facts += ("--commit_message", "With a licence")
    publish.main(arguments(folder, *facts, "--revision", "trial"))
    publish.main(arguments(folder, *facts, "--create_pr"))
    assert "/discussions/1" in capsys.readouterr().out
    assert hub.files(REPO) == main
    for revision in ("trial", "refs/pr/1"):
        card = hub.files(REPO, revision)["README.md"].decode()
        assert all(line in card for line in ("license: apache-2.0", "- pets", "- en"))
    assert api.list_repo_commits(REPO, revision="trial")[0].title == "With a licence"


def test_a_card_and_results_of_ones_own(hub, folder, tmp_path):
    (tmp_path / "CARD.md").write_text("---\nlicense: mit\n---\n# Mine: your-name/your-model\n")
    (tmp_path / "figures.json").write_text('{"accuracy": 0.5}')
    publish.main(arguments(folder, "--card", tmp_path / "CARD.md", "--results", tmp_path / "figures.json", "--private"))
    assert "# Mine: alice/vit-bndl" in hub.files(REPO)["README.md"].decode()
    assert json.loads(hub.files(REPO)["results.json"]) == {"accuracy": 0.5}
    assert hub.store.repos[REPO].private


def test_thumbnails_go_only_with_consent_and_go_again_without_it(hub, folder):
    with pytest.raises(ValueError, match=r"--publish_thumbnails: .* has no factor_thumbnails; collect them"):
        publish.main(arguments(folder, "--publish_thumbnails"))
    processor, model = make_image_processor(IMAGE_SIZE), tiny_model("vit")
    rows = [{"image": Image.new("RGB", (30, 30), (90 * i, 40, 200 - 90 * i))} for i in range(3)]
    collect_factor_thumbnails(model, processor, rows, progress=False).save(folder)
    publish.main(arguments(folder))
    assert not [name for name in hub.files(REPO) if name.startswith("factor_thumbnails/")]
    publish.main(arguments(folder, "--publish_thumbnails"))
    assert {"factor_thumbnails/index.json", "factor_thumbnails/sheet-0.webp"} <= set(hub.files(REPO))
    found = load_factor_thumbnails(REPO)
    assert found.images(found.factors[0])[0].size == (64, 64)
    publish.main(arguments(folder))
    assert not [name for name in hub.files(REPO) if name.startswith("factor_thumbnails/")]
    smaller = found.renumbered(found.factors[:2])
    with pytest.raises(ValueError, match=r"The thumbnails are of 2 factors; this model has \d+"):
        push_to_hub(model, processor, REPO, thumbnails=smaller)


def test_help_teaches_by_example(jobs):
    done = jobs.start_script(SCRIPT, "--help")
    assert done.wait() == 0
    command = "    python scripts/publish.py --model_name_or_path outputs/mine --repo_id alice/vit-bndl --dry_run"
    assert command in done.log
    assert "hf auth login" in done.log
    fields = publish.PublishArguments.__dataclass_fields__
    assert all(f"--{name}" in done.log for name in fields)


@pytest.mark.parametrize(
    ("flag", "value", "sentence"),
    [
        ("--results", "nowhere.json", "--results nowhere.json is not a file here."),
        ("--card", "nowhere.md", "--card nowhere.md is not a file here."),
        ("--figures", "nowhere.png", "nowhere.png"),
        ("--repo_id", "alice/a/b", "Repo id must be in the form"),
    ],
)
def test_what_is_wrong_is_said(hub, folder, flag, value, sentence):
    with pytest.raises((ValueError, OSError), match=re.escape(sentence)):
        publish.main([*arguments(folder), flag, value])
    assert hub.store.repos == {}


def test_results_that_are_not_json_are_named(hub, folder):
    (folder / "results.json").write_text("{")
    with pytest.raises(ValueError, match=r"results\.json is not JSON .*; name another file with --results"):
        publish.main(arguments(folder))
    assert hub.store.repos == {}


def test_in_a_process_of_its_own_errors_end_in_a_sentence(hub, folder, tmp_path, run_python):
    online = {**hub.environment("hf_bob", tmp_path), "HF_HUB_OFFLINE": "0"}
    done = run_python([SCRIPT, *arguments(folder)], tmp_path, **online)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("HubError: Pushing to alice/vit-bndl failed: this token may")
    assert hub.store.repos == {}


def test_a_model_that_is_nowhere_ends_in_transformers_first_line(hub):
    with pytest.raises(SystemExit, match=r"^OSError: alice/nowhere is not a local folder"):
        publish.run(lambda: publish.main(arguments("alice/nowhere")))
    assert hub.store.repos == {}
