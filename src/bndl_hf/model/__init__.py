"""The Hub set: the flat files that travel with every checkpoint (torch, transformers and the standard library only)."""
