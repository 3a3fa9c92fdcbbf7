"""demo.py as a newcomer runs it, cut short: a real process, its files, and the model it saved."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

from bndl_hf.data import DataArguments, load_image_dataset
from bndl_hf.data.image_dataset import collate

SCRIPT = Path(__file__).parents[2] / "scripts" / "demo.py"


def run_demo(*arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, env=environment)


def test_the_demo_leaves_a_model_that_predicts_what_it_printed_and_the_readme_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    tmp_path = tmp_path / "outputs" / "demo"  # where the README looks for it
    result = run_demo("--output_dir", str(tmp_path), "--max_steps", "20")
    assert result.returncode == 0, result.stderr[-2000:]
    results = json.loads((tmp_path / "results.json").read_text())
    assert f"{100 * results['accuracy']:.1f} %" in result.stdout
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
    assert all(f"  {answer}" in result.stdout or answer in result.stdout for answer in answers)
    assert "unfamiliar_1.png" in result.stdout
    assert results["verdicts"]["ood"]["shuffled pixels"]["share_unfamiliar"] > 0.9
    assert (tmp_path / "page.html").stat().st_size > 1_000_000


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--output_dir", "/dev/null/demo"], "cannot be written to"),
        (["--max_steps", "0"], "trains nothing"),
    ],
)
def test_the_demo_says_what_is_wrong_in_one_sentence(arguments: list[str], sentence: str) -> None:
    result = run_demo(*arguments)
    assert result.returncode != 0
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
