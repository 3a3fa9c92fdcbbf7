"""scripts/export.py as its user runs it."""

import pytest

from bndl_hf.data.pixel_values import make_image_processor
from model.tiny import tiny_model
from script_modules import load_script

export = load_script("export")


@pytest.fixture
def folder(tmp_path):
    """A trained model with its processor, whose images are larger than the backbone would need."""
    tiny_model("resnet").save_pretrained(tmp_path / "mine")
    make_image_processor(34).save_pretrained(tmp_path / "mine")
    return str(tmp_path / "mine")


def test_a_file_that_answers_differently_is_not_written(folder, tmp_path):
    output = tmp_path / "model.onnx"
    with pytest.raises(ValueError, match=r"answers differently from the model: .*tolerance=0\)\. Nothing was written"):
        export.main(["--model_name_or_path", folder, "--output", str(output), "--tolerance", "0"])
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_the_size_of_the_images_is_the_processors(folder):
    assert export.processed_size(folder) == (34, 34)


def test_a_page_of_one_file(folder, tmp_path, capsys):
    output = tmp_path / "page.html"
    arguments = ["--model_name_or_path", folder, "--format", "page", "--output", str(output), "--title", "Mine"]
    export.main([*arguments, "--runtime", "cdn"])
    assert "<h1>Mine</h1>" in output.read_text()
    assert "When opened, it loads onnxruntime-web from a CDN" in capsys.readouterr().out


def test_a_flag_of_the_other_format_is_refused(folder):
    with pytest.raises(ValueError, match="--format onnx does not read --title; leave it out"):
        export.main(["--model_name_or_path", folder, "--output", "model.onnx", "--title", "Mine"])
