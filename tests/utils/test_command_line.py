"""What a script says when something is wrong, and what it records of its command line."""

import shlex

import pytest

from bndl_hf.utils.command_line import recorded_command, run


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError("top=0 shows nothing; pass 1 or more."), "ValueError: top=0 shows nothing; pass 1 or more."),
        (
            ImportError('LIME needs captum; pip install "bndl-hf[explain]".'),
            "ImportError: LIME needs captum; pip install",
        ),
        (FileNotFoundError("no such file"), "FileNotFoundError: no such file"),
        (
            ValueError("Original Traceback (most recent call last):\n  a line\nValueError: row 3 is no image"),
            "row 3",
        ),
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


@pytest.mark.parametrize(
    ("argv", "recorded"),
    [
        (["--hub_token", "short", "--seed", "0"], "--hub_token ... --seed 0"),
        (["--hub_token=short", "--seed=0"], "--hub_token=... --seed=0"),
        (["--hub_tok", "short"], "--hub_tok ..."),
        (["--hub_to=short"], "--hub_to=..."),
        (["--api-key", "short", "org/name"], "--api-key ... org/name"),
        (["--push_to_hub", "--hub_model_id", "org/name"], "--push_to_hub --hub_model_id org/name"),
        (["--dataset_name", "https://jo:pw@host.org/x.zip"], "--dataset_name https://host.org/x.zip"),
        (["--dataset_name", "/home/jo smith/My Photos"], "--dataset_name 'My Photos'"),
        (["--images", "/a/b.png", "rel/c.png", "~/d.png"], "--images b.png rel/c.png d.png"),
        (["--output_dir=/home/jo"], "'--output_dir=~'"),
        (["-o/home/jo/x", "-1"], "-ox -1"),
        (
            ["--config_overrides", '{"hidden_size": 8, "token": "x"}'],
            """--config_overrides '{"hidden_size": 8, "token": "..."}'""",
        ),
        (["--note", ""], "--note ''"),
    ],
)
def test_a_recorded_command_holds_no_secret_and_no_path_of_this_machine(argv, recorded):
    assert recorded_command("scripts/finetune.py", argv) == f"scripts/finetune.py {recorded}"


def test_a_recorded_command_can_be_read_by_a_shell():
    argv = ["--config_overrides", '{"depths": [1, 1]}', "--title", "it's"]
    assert shlex.split(recorded_command("/home/jo/scripts/finetune.py", argv)) == ["finetune.py", *argv]
