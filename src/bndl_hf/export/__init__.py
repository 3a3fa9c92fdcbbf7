"""A model outside of Python: one ONNX graph that answers, says how sure it is and of what its answer consists."""

from bndl_hf.export.onnx_file import OnnxExport, export_onnx

__all__ = ["OnnxExport", "export_onnx"]
