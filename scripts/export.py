"""Export a BNDL classifier for use without Python: an ONNX file that answers with its reasons, or a page that runs it.

    python scripts/export.py --model_name_or_path outputs/mine --output outputs/mine/model.onnx

    python scripts/export.py --model_name_or_path outputs/mine --output outputs/mine/model.onnx --half

    python scripts/export.py --model_name_or_path outputs/mine --format page --output page.html --examples a.jpg b.jpg

A page whose output ends in .html is one file, which opens by double click; any other output is a folder for a web
server. The graph is checked against the model in onnxruntime before anything is written; docs/export.md says what it
holds. Needs `pip install 'bndl-hf[export]'`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import AutoImageProcessor, HfArgumentParser

from bndl_hf import BNDLForImageClassification
from bndl_hf.export import export_onnx, export_page
from bndl_hf.export.onnx_file import DEFAULT_OPSET
from bndl_hf.interpretability import load_factor_thumbnails
from bndl_hf.utils.command_line import HelpFormatter, run


@dataclass
class ExportArguments:
    """What to export, and where to."""

    model_name_or_path: str = field(metadata={"help": "Folder or Hub id of a BNDL classifier."})
    output: str = field(metadata={"help": "File to write; with --format page also a folder."})
    format: str = field(default="onnx", metadata={"help": "What to write.", "choices": ["onnx", "page"]})
    top_k: int | None = field(default=None, metadata={"help": "Parts of the answer to name; default: five, or all."})
    half: bool = field(default=False, metadata={"help": "Store large weights as float16: half the bytes."})
    image_size: int | None = field(
        default=None, metadata={"help": "Side of the images, in pixels; default: what the image processor makes."}
    )
    opset: int = field(default=DEFAULT_OPSET, metadata={"help": "Version of the ONNX operators."})
    tolerance: float | None = field(
        default=None, metadata={"help": "Largest deviation accepted; default: 1e-4, and 1e-2 with --half."}
    )
    examples: list[str] = field(
        default_factory=list, metadata={"help": "Images to choose from on the page; they become part of it."}
    )
    title: str | None = field(default=None, metadata={"help": "Heading of the page; default: What does the model see?"})
    thumbnails: bool = field(
        default=False, metadata={"help": "Show the checkpoint's factor_thumbnails on the page, beside the parts."}
    )
    runtime: str | None = field(
        default=None,
        metadata={"help": "Folder with onnxruntime-web's files, or cdn; default: the cache, else fetched by npm."},
    )

    def __post_init__(self) -> None:
        others = {"page": ("image_size", "tolerance"), "onnx": ("examples", "title", "thumbnails", "runtime")}
        given = [f"--{name}" for name in others[self.format] if getattr(self, name)]
        if given or (self.format == "page" and self.opset != DEFAULT_OPSET):
            raise ValueError(f"--format {self.format} does not read {', '.join(given) or '--opset'}; leave it out.")


def processed_size(name: str) -> tuple[int, int] | None:
    """(height, width) in pixels of what the model's image processor makes; None where it leaves sizes as they are."""
    processor = AutoImageProcessor.from_pretrained(name)
    wanted = dict(processor.size or {})
    if getattr(processor, "do_center_crop", False):
        wanted = dict(processor.crop_size or {})
    if not getattr(processor, "do_resize", True) or not {"height", "width"} <= wanted.keys():
        return None
    return wanted["height"], wanted["width"]


def write_page(arguments: ExportArguments, model: BNDLForImageClassification) -> None:
    """Export the page, say what was written."""
    thumbnails = load_factor_thumbnails(arguments.model_name_or_path) if arguments.thumbnails else None
    if arguments.thumbnails and thumbnails is None:
        raise ValueError(f"--thumbnails: {arguments.model_name_or_path} has no factor_thumbnails; leave the flag out.")
    export = export_page(
        model,
        AutoImageProcessor.from_pretrained(arguments.model_name_or_path),
        arguments.examples,
        arguments.output,
        single_file=arguments.output.lower().endswith((".html", ".htm")),
        **({} if arguments.title is None else {"title": arguments.title}),
        thumbnails=thumbnails,
        runtime=arguments.runtime,
        top_k=arguments.top_k,
        half=arguments.half,
    )
    print(f"Written to {export.path}: {export.size / 1e6:.2f} MB in {len(export.files)} files.")
    if export.page != export.path:
        print(f"Serve the folder: python -m http.server --directory {export.path}")
    if not export.is_runtime_embedded:
        print("When opened, it loads onnxruntime-web from a CDN, with pinned hashes.")
    print(f"Largest deviation from the model: {max(export.onnx.deviations.values()):.1e}.")


def main(argv: list[str] | None = None) -> None:
    """Load, export, say what was written."""
    parser = HfArgumentParser(ExportArguments, description=__doc__, formatter_class=HelpFormatter)
    (arguments,) = parser.parse_args_into_dataclasses(argv)
    model = BNDLForImageClassification.from_pretrained(arguments.model_name_or_path)
    if arguments.format == "page":
        return write_page(arguments, model)
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
