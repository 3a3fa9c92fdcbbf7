r"""Turn a checkpoint of the BNDL authors' code into a folder that AutoModelForImageClassification loads.

    python scripts/convert_released_checkpoint.py --checkpoint finetune_cifar10.pth --labels cifar10 \
        --output_dir outputs/vit-released

    python scripts/convert_released_checkpoint.py --checkpoint resnet50.pt --labels classes.txt --image_size 224 \
        --output_dir outputs/resnet50-released

    python scripts/convert_released_checkpoint.py --checkpoint resnet18wide.pkl --head_only \
        --output_dir outputs/cifar-head

A ViT (vit.*, classifier.linear*) becomes preset="released", a ResNet with torchvision's names (conv1, layer1.0.conv1,
..., fc, linear_k, linear_kw) preset="released_resnet". The ResNets for CIFAR start with a 3x3 convolution, which no
ResNet of transformers has: convert their decision layer alone with --head_only and open it with
bndl_hf.released.load_decision_layer. No code in the checkpoint is run. Nothing is written when anything
is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import HfArgumentParser

from bndl_hf.released import KNOWN_LABELS, Conversion, convert_released_checkpoint, read_labels
from bndl_hf.utils.command_line import HelpFormatter, run


@dataclass
class ConvertArguments:
    """What to convert, where to, and what the weights alone do not tell."""

    checkpoint: str = field(
        metadata={"help": "The .pt, .pth, .bin or .safetensors file with the state dict, wrapped or not."}
    )
    output_dir: str = field(metadata={"help": "New or empty folder for the model and its image processor."})
    labels: str | None = field(
        default=None,
        metadata={
            "help": "Class names in the order of the logits: a text file with one a line, or built in: "
            f"{', '.join(KNOWN_LABELS)}. Without it they are LABEL_0, LABEL_1, ..."
        },
    )
    head_only: bool = field(default=False, metadata={"help": "Convert the decision layer alone, for features."})
    num_attention_heads: int | None = field(
        default=None, metadata={"help": "Of a ViT; no weight tells. Without it: one for every 64 features (12 of 768)."}
    )
    backbone_config: str | None = field(
        default=None,
        metadata={"help": "Hub id, folder or JSON file of the backbone's configuration. Without it: from the shapes."},
    )
    image_processor: str | None = field(
        default=None, metadata={"help": "Hub id or folder of the image processor that goes with the weights."}
    )
    image_size: int | None = field(
        default=None,
        metadata={"help": "Side in pixels of a ResNet's images, 224 without it. A ViT's is in its weights."},
    )
    image_mean: list[float] | None = field(
        default=None,
        metadata={"help": "One number a channel. Without it: the checkpoint's, else .5 (ViT) or ImageNet's (ResNet)."},
    )
    image_std: list[float] | None = field(default=None, metadata={"help": "Likewise, of the deviations."})
    score_threshold: float | None = field(
        default=None, metadata={"help": "c_theta it was trained with. Without it: 0 (ViT), 1 (ResNet)."}
    )
    loading_threshold: float | None = field(
        default=None, metadata={"help": "c_phi it was trained with ('w0.02' in a name). Without it: 0.02 (ViT), 0."}
    )


def summary(conversion: Conversion) -> str:
    """What was written, and how to open it."""
    config = conversion.config
    lines = [f"{conversion.output_dir}: preset {config.preset!r}, {config.num_labels} classes, "]
    lines[0] += f"{config.num_factors} factors, {'no backbone' if conversion.backbone is None else conversion.backbone}"
    if conversion.backbone == "vit":
        heads = getattr(config.backbone_config, "num_attention_heads", None)
        lines.append(f"attention heads: {heads} (no weight tells; check them)")
    if conversion.left_out:
        lines.append(f"left out: {len(conversion.left_out)} weights that are not part of it")
    if config.id2label[0] == "LABEL_0":
        lines.append("the classes have no names; pass --labels to give them theirs")
    if conversion.backbone is None:
        lines.append(f"open it with bndl_hf.released.load_decision_layer({str(conversion.output_dir)!r})")
    else:
        lines.append(f"open it with AutoModelForImageClassification.from_pretrained({str(conversion.output_dir)!r})")
    return "\n  ".join(lines)


def main(argv: list[str] | None = None) -> Conversion:
    """Parse the command line and convert."""
    parser = HfArgumentParser(ConvertArguments, description=__doc__, formatter_class=HelpFormatter)
    (arguments,) = parser.parse_args_into_dataclasses(argv)
    processor_fields = {name: getattr(arguments, name) for name in ("image_size", "image_mean", "image_std")}
    conversion = convert_released_checkpoint(
        arguments.checkpoint,
        arguments.output_dir,
        labels=None if arguments.labels is None else read_labels(arguments.labels),
        head_only=arguments.head_only,
        num_attention_heads=arguments.num_attention_heads,
        backbone_config=arguments.backbone_config,
        image_processor=arguments.image_processor,
        processor_fields={name: value for name, value in processor_fields.items() if value is not None},
        score_threshold=arguments.score_threshold,
        loading_threshold=arguments.loading_threshold,
    )
    print(summary(conversion))
    return conversion


if __name__ == "__main__":
    run(main)
