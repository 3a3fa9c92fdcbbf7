"""What the Space shows: one image with verdict, parts and map; many images sorted by doubt; the same as an API.

Gradio hands over the path of what was uploaded and decodes nothing itself: its own reading of an image takes 1.7 GB for
a PNG of 97 kB, and names temporary paths when it fails. Files are read by `read_untrusted_image`, as the endpoint's
handler reads them.
"""

from __future__ import annotations

import csv
import html
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder
from PIL import Image
from transformers import AutoImageProcessor

from bndl_hf.interpretability import load_factor_thumbnails
from bndl_hf.interpretability.maps import class_maps
from bndl_hf.interpretability.pictures import denormalized_images
from bndl_hf.model.answering import ImageAnswers
from bndl_hf.model.modeling_bndl import BNDLForImageClassification
from bndl_hf.model.untrusted_images import ImageLimits
from bndl_hf.model.verdicts import VERDICTS, as_percentage
from bndl_hf.plots import waterfall_plot
from bndl_hf.plots.map_overlays import overlay_colours

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ("file", "answer", "probability", "verdict", "reason")
MAX_FILES = 64  # of the batch tab
_AT_WORK = 2  # requests computed at a time; the others wait in the queue
_WAITING = 1000
_MAX_UPLOAD = ImageLimits().max_bytes  # bytes; Gradio refuses larger files while they arrive
_KEPT = (600, 3600)  # seconds: how often uploads are deleted, and from which age on
_LARGEST_SIDE = 480  # pixels of the map
CSS = """
.bndl-answer {border-left: .4rem solid var(--bndl); padding: .2rem 0 .2rem 1rem; font-size: 1.05rem}
.bndl-answer h3 {font-size: 1.5rem; margin: 0}
.bndl-answer b {color: var(--bndl)}
.bndl-sure {--bndl: #009e73} .bndl-torn {--bndl: #c07a00} .bndl-unfamiliar {--bndl: #d55e00}
.bndl-none {--bndl: #808080}
"""


class SpaceAnswers:
    """What the events of the page call; everything that comes from a visitor enters here.

    Args:
        model_id: Hub id or folder of the checkpoint.
    """

    def __init__(self, model_id: str | os.PathLike[str]) -> None:
        self.model = BNDLForImageClassification.from_pretrained(model_id)
        self.processor = AutoImageProcessor.from_pretrained(model_id)
        self.answers = ImageAnswers(self.model, self.processor, workers=_AT_WORK)
        self.thumbnails = load_factor_thumbnails(model_id)
        self.rule = self.model.config.verdict

    def one(self, path: str | None, risk: float | None) -> tuple[str, Any, Any, Any]:
        """The answer in words, the probabilities, the figure of its parts and the map; nothing but words of a file that
        cannot be read.
        """
        if path is None:
            return "", None, None, None
        try:
            picture, answer = self.answers.read_and_answer(_content(path), risk=self._risk(risk))
        except ValueError as error:
            return _in_words("none", "Not answered", str(error)), None, None, None
        where, place = self.answers.at_work(self._map, picture)
        words = _in_words(
            answer["verdict"] or "none",
            f"{answer['label']}, {as_percentage(answer['probability'])}",
            f"{answer['reason'] or 'No verdicts were fitted for this model.'}{place}",
        )
        scores = {entry["label"]: entry["score"] for entry in answer["scores"]}
        return words, scores, self._parts(answer["evidence"]), where

    def as_json(self, path: str | None, risk: float | None = None) -> dict[str, Any]:
        """The whole answer, as the endpoint gives it (`answer_images`)."""
        if path is None:
            raise _refusal("Send an image.")
        try:
            return self.answers.read_and_answer(_content(path), risk=self._risk(risk))[1]
        except ValueError as error:
            raise _refusal(str(error)) from error

    def many(self, paths: Sequence[str] | None, risk: float | None) -> tuple[list[list[str]], str | None]:
        """A row of `COLUMNS` for each file, most doubtful first, and the path of the same as CSV."""
        if not paths:
            return [], None
        if len(paths) > MAX_FILES:
            raise _refusal(f"{len(paths)} files; send {MAX_FILES} at most.")
        rows = []
        for path in paths:
            name = Path(path).name
            try:
                answer = self.answers.read_and_answer(_content(path), risk=self._risk(risk))[1]
            except ValueError as error:
                rows.append((3, 0.0, [name, "", "", "not answered", str(error)]))
                continue
            verdict, probability = answer["verdict"] or "", answer["probability"]
            doubt = -VERDICTS.index(verdict) if verdict else 0  # unfamiliar, torn, sure
            row = [name, answer["label"], f"{probability:.4f}", verdict, answer["reason"] or ""]
            rows.append((doubt, probability, row))
        table = [row for _, _, row in sorted(rows, key=lambda row: row[:2])]
        return table, save_bytes_to_cache(as_csv(table), "answers.csv", get_upload_folder())

    def _risk(self, risk: float | None) -> float | None:
        return None if self.rule is None else risk

    def _parts(self, evidence: dict[str, Any]) -> Figure:
        parts = evidence["factors"]
        thumbnails = self.thumbnails
        return waterfall_plot(
            [part["contribution"] for part in parts],
            evidence["rest"],
            evidence["bias"],
            part_std=[part["std"] for part in parts],
            names=[f"{part['name']} (factor {part['factor']})" for part in parts],
            title=f"Why {evidence['label']}?",
            dpi=120,
            thumbnails=None if thumbnails is None else [thumbnails.images(part["factor"]) for part in parts],
        )

    def _map(self, picture: Image.Image) -> tuple[Image.Image | None, str]:
        """The evidence for the answer over what the model saw; a sentence where there is none or it is not exact."""
        inputs = dict(self.processor(images=picture, return_tensors="pt").to(self.model.device))
        seen = inputs.pop("pixel_values")
        try:
            maps = class_maps(self.model, seen, **inputs)
        except ValueError as error:  # a backbone that keeps no positions has no map
            return None, f" There is no map: {error}"
        pixels = denormalized_images(self.processor, seen)[0]
        grey = Image.fromarray(pixels).convert("L").convert("RGBA")
        evidence = maps.maps[0].float().cpu().numpy()
        largest = np.abs(evidence).max()
        colours = overlay_colours(evidence / largest if largest > 0 else evidence)
        over = Image.fromarray((255 * colours).round().astype(np.uint8), "RGBA")
        laid = Image.alpha_composite(grey, over).convert("RGB")
        scale = max(1, _LARGEST_SIDE // max(laid.size))
        laid = laid.resize((laid.width * scale, laid.height * scale), Image.Resampling.BICUBIC)
        return laid, "" if maps.exact else " The map is an approximation for this model."


def as_csv(table: Sequence[Sequence[str]]) -> bytes:
    """Rows of `COLUMNS` as CSV with a byte-order mark; what a spreadsheet would take for a formula begins with '."""
    text = io.StringIO()
    writer = csv.writer(text)
    for row in [COLUMNS, *table]:
        writer.writerow([f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell for cell in row])
    return text.getvalue().encode("utf-8-sig")


def build_interface(model_id: str | os.PathLike[str], examples: Sequence[str | os.PathLike[str]] = ()) -> gr.Blocks:
    """The page of one model, to be launched (`serve` does).

    Args:
        model_id: Hub id or folder of the checkpoint.
        examples: image files that visitors may try.
    """
    space = SpaceAnswers(model_id)
    name = Path(os.fspath(model_id)).name
    with gr.Blocks(title=name, analytics_enabled=False, delete_cache=_KEPT) as page:
        gr.Markdown(f"# {html.escape(name)}\nAn answer, whether to rely on it, and of what it consists.")
        with gr.Tab("One image"):
            with gr.Row():
                with gr.Column():
                    image = gr.Image(
                        label="Image", type="filepath", image_mode=None, height=320, sources=["upload", "clipboard"]
                    )
                    image.preprocess = _path_of  # type: ignore[method-assign]  # see the top of this file
                    risk = _risk_slider(space.rule)
                    if examples:
                        gr.Examples([[os.fspath(path)] for path in examples], [image], cache_examples=False)
                with gr.Column():
                    words = gr.HTML(label="Answer")
                    scores = gr.Label(label="Probabilities", num_top_classes=5)
            with gr.Row():
                parts = gr.Plot(label="Parts of the answer", show_label=False)  # the figure has a title
                where = gr.Image(
                    label="Where the evidence lies",
                    height=320,
                    interactive=False,
                    format="png",
                    buttons=["fullscreen", "download"],
                    alt_text="The image in grey, with evidence for the answer in green and against it in orange",
                )
            gr.on(
                [image.change, risk.release],
                space.one,
                [image, risk],
                [words, scores, parts, where],
                api_visibility="private",
            )
            with gr.Accordion("Everything, as JSON", open=False):
                answer = gr.JSON(label="Answer")
                gr.Button("Answer as JSON").click(space.as_json, [image, risk], answer, api_name="answer")
        with gr.Tab("Many images"):
            files = gr.File(
                label=f"Up to {MAX_FILES} images",
                file_count="multiple",
                file_types=["image"],
                type="filepath",
                height=200,
            )
            ask = gr.Button("Answer all", variant="primary")
            table = gr.Dataframe(
                headers=list(COLUMNS),
                datatype="str",
                type="array",
                interactive=False,
                label="Most doubtful first",
                wrap=True,
                column_widths=["18%", "16%", "14%", "14%", "38%"],
            )
            download = gr.DownloadButton("Download as CSV")
            ask.click(space.many, [files, risk], [table, download], api_name="answer_many")
    page.queue(max_size=_WAITING, default_concurrency_limit=_AT_WORK)
    return page


def serve(model_id: str | os.PathLike[str], examples: Sequence[str | os.PathLike[str]] = (), **launch: Any) -> None:
    """Build the page and serve it until the process ends.

    Args:
        model_id: Hub id or folder of the checkpoint.
        examples: image files that visitors may try.
        **launch: passed on to gradio's `launch`.
    """
    page = build_interface(model_id, examples)
    page.launch(css=CSS, max_file_size=_MAX_UPLOAD, ssr_mode=False, **launch)


def _risk_slider(rule: dict[str, Any] | None) -> gr.Slider:
    """The share of errors a visitor accepts; hidden where no decisions were fitted."""
    return gr.Slider(
        0.001,
        0.3,
        value=0.02 if rule is None else rule["risk"],
        step=0.001,
        label="Share of errors you accept among answers called sure",
        visible=rule is not None,
    )


def _path_of(payload: Any) -> str | None:
    """The path of what was uploaded, in place of gr.Image's own reading, which opens it."""
    if payload is None:
        return None
    if payload.path is None:
        raise _refusal("Send the image as a file.")
    return payload.path


def _refusal(sentence: str) -> gr.Error:
    """What a visitor is told, without a traceback in the log."""
    return gr.Error(sentence, print_exception=False)


def _content(path: str) -> bytes:
    return Path(path).read_bytes()


def _in_words(verdict: str, answer: str, reason: str) -> str:
    said = "" if verdict == "none" else f"<b>{verdict}</b>: "
    return (
        f'<div class="bndl-answer bndl-{verdict}" role="status"><h3>{html.escape(answer)}</h3>'
        f"<p>{said}{html.escape(reason)}</p></div>"
    )


__all__ = ["SpaceAnswers", "as_csv", "build_interface", "serve"]
