"""The scripts as modules, so that tests can call what they are made of."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

SCRIPTS = Path(__file__).parents[1] / "scripts"
TINY_RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}


def load_script(name: str) -> ModuleType:
    known_as = f"script_{name}"  # a bare `evaluate` would hide Hugging Face's library
    spec = importlib.util.spec_from_file_location(known_as, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[known_as] = module  # dataclasses look their module up
    beside = str((SCRIPTS / name).parent)  # where a script finds its siblings
    sys.path.append(beside)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(beside)
    return module
