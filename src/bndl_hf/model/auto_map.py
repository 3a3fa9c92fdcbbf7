"""What config.json says of the code saved beside the weights, so that the Auto classes can load it.

`save_pretrained` of a model puts the files of this folder beside the weights (transformers follows their imports). They
are named in config.json only where they are, and only in the file: an installed package uses its own classes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import PretrainedConfig

# Entries of config.json that name code beside the weights.
CODE_ENTRIES = ("auto_map", "custom_pipelines")

_AUTO_MAP = {
    "AutoConfig": "configuration_bndl.BNDLConfig",
    "AutoModel": "modeling_bndl.BNDLModel",
    "AutoModelForImageClassification": "modeling_bndl.BNDLForImageClassification",
}
_PIPELINES = {
    "image-classification": "pipeline_bndl.BNDLImageClassificationPipeline",
    "bndl-image-classification": "pipeline_bndl.BNDLAnswerPipeline",
}


@contextmanager
def naming_the_code_in(folder: str | os.PathLike[str], config: PretrainedConfig) -> Iterator[None]:
    """Inside the block `config` names the classes and pipelines whose files lie in `folder`; after it, as before."""
    auto_map = {auto_class: name for auto_class, name in _AUTO_MAP.items() if _file_of(name, folder).is_file()}
    pipelines = {task: name for task, name in _PIPELINES.items() if _file_of(name, folder).is_file()}
    before = {name: config.__dict__.pop(name) for name in CODE_ENTRIES if name in config.__dict__}
    if auto_map:
        config.auto_map = auto_map
    if pipelines:
        loaded_by = ["AutoModelForImageClassification"]
        config.custom_pipelines = {task: {"impl": name, "pt": loaded_by} for task, name in pipelines.items()}
    try:
        yield
    finally:
        for name in CODE_ENTRIES:
            config.__dict__.pop(name, None)
        config.__dict__.update(before)


def _file_of(class_name: str, folder: str | os.PathLike[str]) -> Path:
    """Where the file of "module.Class" lies in `folder`."""
    return Path(folder) / f"{class_name.split('.')[0]}.py"
