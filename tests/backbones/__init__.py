"""Architectures: what `bndl_hf.backbones` adds to transformers."""
