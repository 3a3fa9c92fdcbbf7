"""Architectures that papers compare on and transformers lacks; `import bndl_hf` makes the Auto classes know them."""

from bndl_hf.backbones.cifar_resnet import CifarResNetConfig, CifarResNetForImageClassification, CifarResNetModel

__all__ = ["CifarResNetConfig", "CifarResNetForImageClassification", "CifarResNetModel"]
