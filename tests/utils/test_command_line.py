"""What a script says when something is wrong: one sentence, and a failing exit status."""

import pytest

from bndl_hf.utils.command_line import run


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError("top=0 shows nothing; pass 1 or more."), "ValueError: top=0 shows nothing; pass 1 or more."),
        (
            ImportError('LIME needs captum; pip install "bndl-hf[explain]".'),
            "ImportError: LIME needs captum; pip install",
        ),
        (FileNotFoundError("no such file"), "FileNotFoundError: no such file"),
        (ValueError("Original Traceback (most recent call last):\n  a line\nValueError: row 3 is no image"), "row 3"),
    ],
)
def test_bad_input_and_missing_extras_end_in_a_sentence(error, says):
    def main():
        raise error

    with pytest.raises(SystemExit) as stopped:
        run(main)
    assert says in str(stopped.value)
    assert "\n" not in str(stopped.value)


def test_a_mistake_of_ours_keeps_its_traceback():
    def main():
        raise RuntimeError("this should not happen")

    with pytest.raises(RuntimeError):
        run(main)
