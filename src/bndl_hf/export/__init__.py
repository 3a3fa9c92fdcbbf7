"""A model outside of Python: one ONNX graph, and a page that answers in the browser."""

from bndl_hf.export.onnx_file import OnnxExport, export_onnx
from bndl_hf.export.web_page import PageExport, export_page

__all__ = ["OnnxExport", "PageExport", "export_onnx", "export_page"]
