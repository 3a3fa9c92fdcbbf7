"""What every script does alike: a `--help` that keeps its examples, errors that end in a sentence, and the record of
its command line in a result file.
"""

from __future__ import annotations

import os
import re
import shlex
from argparse import ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from typing import Any

from bndl_hf.utils.privacy import HIDDEN, is_secret_name, last_part, public_text


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


def recorded_command(script: str | os.PathLike[str], argv: Sequence[str]) -> str:
    """The command line as it may be published: secrets are "...", paths of this machine are cut to their last part.

    Args:
        script: how the script is called, as in "scripts/finetune.py".
        argv: its arguments, `sys.argv[1:]`.

    Returns:
        One line that a shell reads, so that a run can be repeated once names and tokens are filled in.

    Example:
        >>> recorded_command("scripts/finetune.py", ["--dataset_name", "/home/jo/pets", "--hub_token=hf_abc"])
        'scripts/finetune.py --dataset_name pets --hub_token=...'
    """
    words, is_secret = [_public_argument(os.fspath(script))], False
    for argument in map(str, argv):
        flag, value = "", argument
        if match := re.match(r"--?[A-Za-z][\w.-]*=?", argument):
            flag, value = match[0], argument[match.end() :]
        is_secret = is_secret_name(flag.rstrip("=")) if flag else is_secret
        words.append(flag + (HIDDEN if value and is_secret else _public_argument(value)))
        is_secret = is_secret and flag == argument and not flag.endswith("=")  # its value comes next
    return " ".join(shlex.quote(word) for word in words)


def _public_argument(value: str) -> str:
    """One argument, which is a path as a whole where it begins like one: names of folders hold spaces."""
    is_path = os.path.isabs(value) or value.startswith("~") or re.match(r"[A-Za-z]:[/\\]|\\\\", value)
    return last_part(value) if is_path and "," not in value else public_text(value)
