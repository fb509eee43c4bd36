"""Files appear complete or not at all."""

import pytest

from esrgan_deploy import OutputError
from esrgan_deploy.system.files import replacing


def test_new_content_replaces_the_old_at_the_end_only(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with replacing(target) as partial:
        partial.write_text("new")
        assert target.read_text() == "old"
        assert partial.suffix == ".txt"
        assert partial.parent == tmp_path
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_any_exception_leaves_the_old_content(tmp_path, error):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(error), replacing(target) as partial:
        partial.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_only_errors_of_this_file_are_called_errors_of_this_file(tmp_path):
    target = tmp_path / "a.txt"
    with pytest.raises(FileNotFoundError), replacing(target):
        (tmp_path / "another").read_text()
    with pytest.raises(BrokenPipeError), replacing(target):
        raise BrokenPipeError
    with pytest.raises(OutputError, match=r"a\.txt: cannot be written: No space left"), replacing(target):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []
