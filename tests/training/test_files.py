"""Folders that several processes prepare at once."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from atlas_fast.errors import UserError
from atlas_fast.training.files import make_folder


def test_a_folder_that_several_make_at_once(tmp_path):
    """As the processes of one evaluation do; each proves by a file of its own that it can write."""
    with ThreadPoolExecutor(8) as pool:
        for number in range(20):
            list(pool.map(make_folder, [tmp_path / str(number) / "deep"] * 16))
    assert all(not any((tmp_path / str(number) / "deep").iterdir()) for number in range(20))


def test_what_cannot_be_made_leaves_nothing_behind(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written .Not a directory"):
        make_folder(tmp_path / "file" / "deep")
    with pytest.raises(UserError, match="cannot be written"):
        make_folder(tmp_path / "new" / ("a" * 300))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
