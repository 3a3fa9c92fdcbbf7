"""Export a BNDL classifier for use without Python: one ONNX file that answers, says how sure it is, and why.

    python scripts/export.py --model_name_or_path outputs/mine --output outputs/mine/model.onnx

    python scripts/export.py --model_name_or_path outputs/mine --output outputs/mine/model.onnx --half

The file is checked against the model in onnxruntime before it is written; docs/export.md says what it holds. Needs
`pip install 'bndl-hf[export]'`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import AutoImageProcessor, HfArgumentParser

from bndl_hf import BNDLForImageClassification
from bndl_hf.export import export_onnx
from bndl_hf.utils.command_line import HelpFormatter, run


@dataclass
class ExportArguments:
    """What to export, and where to."""

    model_name_or_path: str = field(metadata={"help": "Folder or Hub id of a BNDL classifier."})
    output: str = field(metadata={"help": "File to write."})
    format: str = field(default="onnx", metadata={"help": "What to write.", "choices": ["onnx"]})
    top_k: int | None = field(default=None, metadata={"help": "Parts of the answer to name; default: five, or all."})
    half: bool = field(default=False, metadata={"help": "Store large weights as float16: half the bytes."})
    image_size: int | None = field(
        default=None, metadata={"help": "Side of the images, in pixels; default: what the image processor makes."}
    )
    opset: int = field(default=20, metadata={"help": "Version of the ONNX operators."})
    tolerance: float | None = field(
        default=None, metadata={"help": "Largest deviation accepted; default: 1e-4, and 1e-2 with --half."}
    )


def processed_size(name: str) -> tuple[int, int] | None:
    """(height, width) in pixels of what the model's image processor makes; None where it leaves sizes as they are."""
    processor = AutoImageProcessor.from_pretrained(name)
    wanted = dict(processor.size or {})
    if getattr(processor, "do_center_crop", False):
        wanted = dict(processor.crop_size or {})
    if not getattr(processor, "do_resize", True) or not {"height", "width"} <= wanted.keys():
        return None
    return wanted["height"], wanted["width"]


def main(argv: list[str] | None = None) -> None:
    """Load, export, say what was written."""
    parser = HfArgumentParser(ExportArguments, description=__doc__, formatter_class=HelpFormatter)
    (arguments,) = parser.parse_args_into_dataclasses(argv)
    model = BNDLForImageClassification.from_pretrained(arguments.model_name_or_path)
    export = export_onnx(
        model,
        arguments.output,
        top_k=arguments.top_k,
        half=arguments.half,
        opset=arguments.opset,
        image_size=arguments.image_size or processed_size(arguments.model_name_or_path),
        tolerance=arguments.tolerance,
    )
    height, width = export.image_size
    print(f"Written to {export.path}: {export.size / 1e6:.2f} MB, for images of {height}x{width} pixels.")
    print("Outputs: " + ", ".join(export.outputs) + ".")
    print(f"Largest deviation from the model: {max(export.deviations.values()):.1e}.")


if __name__ == "__main__":
    run(main)
