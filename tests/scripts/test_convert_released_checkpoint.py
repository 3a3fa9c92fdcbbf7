"""convert_released_checkpoint.py as a user runs it: a process of its own."""

from pathlib import Path

import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

from jobs import JobServer
from released.released_reference import Head, vit_features, vit_state

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_released_checkpoint.py"


@torch.no_grad()
def test_a_checkpoint_becomes_a_model_with_names_processor_and_the_same_answers(
    tmp_path: Path, jobs: JobServer
) -> None:
    torch.manual_seed(0)
    head = Head(32, projection=True, score_threshold=0.0, loading_threshold=0.02)
    state = {**vit_state(), **{f"classifier.{name}": tensor for name, tensor in head.state_dict().items()}}
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "vit.pth")
    (tmp_path / "labels.txt").write_text("bee\ncat\ndog\nelk\nfox\n")
    options = ["--labels", "labels.txt", "--num_attention_heads", "2", "--image_mean", "0.4", "0.5", "0.6"]
    done = jobs.start_script(SCRIPT, "--checkpoint", "vit.pth", "--output_dir", "converted", *options, cwd=tmp_path)
    assert done.wait() == 0, done.log
    assert "preset 'released', 5 classes, 32 factors, vit" in done.log
    assert "AutoModelForImageClassification.from_pretrained('converted')" in done.log
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "converted")
    pixel_values = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    expected, _ = head.double().moments(
        vit_features({name: tensor.double() for name, tensor in state.items()}, pixel_values.double(), heads=2)
    )
    torch.testing.assert_close(
        model(pixel_values).logits_mean.double(), expected, rtol=0, atol=1e-6 * expected.max().item()
    )
    assert model.config.id2label[4] == "fox"
    processor = AutoImageProcessor.from_pretrained(tmp_path / "converted")
    assert list(processor.image_mean) == [0.4, 0.5, 0.6]

    again = jobs.start_script(SCRIPT, "--checkpoint", "vit.pth", "--output_dir", "converted", cwd=tmp_path)
    assert again.wait() == 1
    assert again.log.splitlines()[-1].startswith("FileExistsError: converted holds files already")
    assert "Traceback" not in again.log


def test_help_teaches_by_example(jobs: JobServer) -> None:
    done = jobs.start_script(SCRIPT, "--help")
    assert done.wait() == 0, done.log
    for word in ("--checkpoint finetune_cifar10.pth", "--head_only", "cifar10, cifar100", "one for every", "3x3"):
        assert word in done.log
