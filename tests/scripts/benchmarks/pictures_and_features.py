"""A tiny classifier for the digits with a features file of its width, for benchmarks that need images and features."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import ResNetConfig, ResNetForImageClassification

from bndl_hf.data.image_dataset import make_image_processor
from script_modules import TINY_RESNET


def make(folder: Path, image_size: int) -> Path:
    """The folder, with the classifier and digits.safetensors: features drawn at random, not those of the digits."""
    torch.manual_seed(0)
    ResNetForImageClassification(ResNetConfig(**TINY_RESNET, num_labels=10)).save_pretrained(folder)
    make_image_processor(image_size).save_pretrained(folder)
    tensors = {}
    for part, count in (("train", 200), ("test", 50)):
        tensors |= {f"{part}.features": torch.rand(count, 16), f"{part}.labels": torch.arange(count) % 10}
    save_file(tensors, folder / "digits.safetensors")
    return folder


def arguments(folder: Path, output: Path) -> list[str]:
    """Flags that name all of it."""
    argv = ["--features", str(folder / "digits.safetensors"), "--model_name_or_path", str(folder)]
    return [*argv, "--dataset_name", "digits", "--quiet", "--epochs", "1", "--output", str(output)]
