"""A file appears whole or stays as it was, and nothing else is left behind."""

import pytest

from bndl_hf.utils.files import written_whole


def test_a_file_appears_whole_in_a_folder_that_is_made(tmp_path):
    path = tmp_path / "new" / "results.json"
    with written_whole(path) as partial:
        partial.write_text("half")
        assert not path.exists()
        partial.write_text("whole")
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "results.json"
    path.write_text("old")

    def fail():
        with written_whole(path) as partial:
            partial.write_text("half")
            raise RuntimeError("no space left")

    with pytest.raises(RuntimeError, match="no space left"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
