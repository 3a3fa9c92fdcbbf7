"""What every script does alike: a `--help` that keeps its examples, and errors that end in a sentence."""

from __future__ import annotations

import re
import shlex
from argparse import ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
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


def recorded_command(script: str, argv: Sequence[str]) -> str:
    """The command line as it may be published: values of --hub_token and the like are left out.

    Example:
        >>> recorded_command("scripts/finetune.py", ["--hub_token", "hf_abc", "--seed", "1"])
        'scripts/finetune.py --hub_token ... --seed 1'
    """
    words, hides_next = [script], False
    for word in argv:
        flag, equals, _ = word.partition("=")
        is_secret = re.match(r"--.*(token|password|secret|api_key)", flag) is not None
        words.append("..." if hides_next else f"{flag}=..." if is_secret and equals else word)
        hides_next = is_secret and not equals
    return " ".join(map(shlex.quote, words))
