"""The authors' released checkpoints: their names, their state dicts, and their conversion to BNDL artefacts."""
