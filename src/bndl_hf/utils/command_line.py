"""What every script does alike: a `--help` that keeps its examples, and errors that end in a sentence."""

from __future__ import annotations

from argparse import ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter
from collections.abc import Callable
from typing import Any


class HelpFormatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """Examples as they are written, and every flag's default."""


def run(main: Callable[[], Any]) -> None:
    """Call `main`; what it says of bad input (ValueError, OSError) or of a missing extra (ImportError) becomes the last
    line and a failing exit status.
    """
    try:
        main()
    except (ValueError, OSError, ImportError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no details"]
        # A DataLoader worker puts its traceback before the sentence.
        sentence = lines[-1] if any(line.startswith("Original Traceback") for line in lines) else " ".join(lines)
        raise SystemExit(f"{type(error).__name__}: {sentence.removeprefix('ValueError: ')}") from error
