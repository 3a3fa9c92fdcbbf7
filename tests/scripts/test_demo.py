"""demo.py as a newcomer runs it, cut short: a real process, its files, and the model it saved."""

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

from bndl_hf.data import DataArguments, load_image_dataset
from bndl_hf.data.image_dataset import collate
from jobs import JobServer

SCRIPT = Path(__file__).parents[2] / "scripts" / "demo.py"


def test_the_demo_leaves_a_model_that_predicts_what_it_printed_and_the_readme_opens(
    tmp_path: Path, jobs: JobServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    tmp_path = tmp_path / "outputs" / "demo"  # where the README looks for it
    demo = jobs.start_script(SCRIPT, "--output_dir", tmp_path, "--max_steps", "20")
    assert demo.wait() == 0, demo.log[-2000:]
    results = json.loads((tmp_path / "results.json").read_text())
    assert f"{100 * results['accuracy']:.1f} %" in demo.log
    assert (tmp_path / "predictions.png").read_bytes().startswith(b"\x89PNG")
    assert "predictions.png" in (tmp_path / "README.md").read_text()

    model = AutoModelForImageClassification.from_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    test = collate(list(load_image_dataset(DataArguments("digits")).with_pixel_values("test", processor)))
    accuracy = (model.predict(test["pixel_values"]).predicted_labels == test["labels"]).double().mean().item()
    assert accuracy == pytest.approx(results["accuracy"], abs=1e-9)
    assert torch.isfinite(model(**test).loss)

    readme = (SCRIPT.parents[1] / "README.md").read_text()
    code = re.search(r"## One image.*?```python\n(.*?)```", readme, flags=re.S)[1]
    code = re.sub(r'\("sure_1".*?\)', str(sorted(file.stem for file in (tmp_path / "examples").glob("*.png"))), code)
    monkeypatch.chdir(tmp_path.parents[1])
    exec(code, {})  # so few steps may leave nothing to be sure of
    answers = capsys.readouterr().out.splitlines()
    assert answers
    assert all(answer in demo.log for answer in answers)
    assert "unfamiliar_1.png" in demo.log
    assert results["verdicts"]["unfamiliar"]["shuffled pixels"] > 0.9
    assert "which digit is it" in (tmp_path / "page.html").read_text().lower()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--output_dir", "/dev/null/demo"], "cannot be written to"),
        (["--max_steps", "0"], "trains nothing"),
    ],
)
def test_the_demo_says_what_is_wrong_in_one_sentence(arguments: list[str], sentence: str, jobs: JobServer) -> None:
    demo = jobs.start_script(SCRIPT, *arguments)
    assert demo.wait() == 1
    assert sentence in demo.log
    assert "Traceback" not in demo.log
