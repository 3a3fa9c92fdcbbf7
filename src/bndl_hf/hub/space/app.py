"""The app of a Space: answers of one model, each with its verdict, its parts and where in the image they lie."""

import os
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

from bndl_hf.hub.space.interface import serve

# A variable of the Space, or a folder when it is tried at home: BNDL_MODEL=outputs/mine python app.py
MODEL = os.environ.get("BNDL_MODEL", "your-name/your-model")

if __name__ == "__main__":
    serve(MODEL, sorted((Path(__file__).parent / "examples").glob("*")))
