"""Files appear whole or not at all, whoever else writes; links are not followed."""

from __future__ import annotations

import os
import stat
import threading

import pytest

from export import files


def test_a_failed_block_leaves_what_was_there(tmp_path):
    old, new = tmp_path / "old.txt", tmp_path / "new.nii.gz"
    old.write_text("old")
    with pytest.raises(RuntimeError), files.replacing(old, new) as scratch:
        assert [path.name.endswith(end) for path, end in zip(scratch, (".txt", ".nii.gz"))] == [True, True]
        for path in scratch:
            path.write_text("half")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["old.txt"] and old.read_text() == "old"


def test_files_that_belong_together_appear_together(tmp_path):
    with files.replacing(tmp_path / "a" / "mask.txt", tmp_path / "b" / "other.txt") as scratch:
        for path in scratch:
            path.write_text("whole")
            assert not (tmp_path / "a" / "mask.txt").exists()
    assert (tmp_path / "a" / "mask.txt").read_text() == (tmp_path / "b" / "other.txt").read_text() == "whole"


def test_a_place_that_cannot_be_written_leaves_the_others_alone(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"), files.replacing(tmp_path / "a.txt", tmp_path / "folder"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot be written"):
        files.write_text("x", tmp_path / "file" / "b.txt")
    with pytest.raises(OSError, match="cannot be written"):
        files.write_text("x", tmp_path / ("n" * 300))


def test_a_device_is_not_replaced():
    with pytest.raises(OSError, match="it is no file"):
        files.write_text("x", "/dev/null")


@pytest.mark.parametrize("name", ["out.txt", "out.txt.part"])
def test_a_link_in_the_way_is_replaced_not_followed(name, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / name).symlink_to(precious)
    files.write_text("new", tmp_path / "out.txt")
    assert precious.read_text() == "precious" and (tmp_path / "out.txt").read_text() == "new"
    assert not (tmp_path / "out.txt").is_symlink()


def test_the_mode_is_that_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    files.write_text("", tmp_path / "ours")
    assert stat.S_IMODE(os.stat(tmp_path / "ours").st_mode) == stat.S_IMODE(os.stat(tmp_path / "plain").st_mode)


def test_readers_see_one_writer_or_the_other(tmp_path):
    path = tmp_path / "shared.txt"
    contents = [letter * 200_000 for letter in "abcd"]
    files.write_text(contents[0], path)
    errors: list[Exception] = []

    def write(text: str) -> None:
        try:
            for _ in range(20):
                files.write_text(text, path)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(text,)) for text in contents]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert path.read_text() in contents
    assert not errors and [entry.name for entry in tmp_path.iterdir()] == ["shared.txt"]
