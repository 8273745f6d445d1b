"""Whole files, leftovers, locks."""

import errno

import pytest

from monosem.disk import lock, read_sealed, sealed, sweep, whole_file, whole_folder, write_json
from monosem.shapes import InputError


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail():
        with whole_file(path) as temporary:
            temporary.write_text("new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"the disk is full .* while writing .*a.txt"), whole_file(tmp_path / "a.txt"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_folder_is_replaced_whole(tmp_path):
    for content in ("one", "two"):
        with whole_folder(tmp_path / "a") as temporary:
            (temporary / content).write_text(content)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["two"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_sweeping_touches_only_what_this_package_left_behind(tmp_path):
    for name in (".bashrc.old", ".keep.tmp", "notes.tmp", ".x.0123abcd.bak"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / ".deep.0123abcd.tmp").write_text("another's")
    before = sorted(tmp_path.rglob("*"))
    (tmp_path / ".a.json.0123abcd.tmp").write_text("torn")
    (tmp_path / ".folder.89abcdef.tmp").mkdir()
    sweep(tmp_path, tmp_path / "missing")
    assert sorted(tmp_path.rglob("*")) == before


def test_what_was_set_aside_is_put_back(tmp_path):
    (tmp_path / ".sae.0123abcd.old").mkdir()
    (tmp_path / ".sae.0123abcd.old" / "weights").write_text("good")
    (tmp_path / ".done.0123abcd.old").mkdir()
    (tmp_path / "done").mkdir()
    sweep(tmp_path)
    assert (tmp_path / "sae" / "weights").read_text() == "good"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["done", "sae"]


def test_a_seal_shows_any_change(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, sealed({"scale": 0.5, "site": "x"}))
    assert read_sealed(path) == {"scale": 0.5, "site": "x"}
    for changed in (path.read_text().replace("0.5", "0.6"), '{"scale": 0.5}'):
        path.write_text(changed)
        with pytest.raises(InputError, match="does not match its own checksum"):
            read_sealed(path)


def test_a_lock_is_given_back(tmp_path):
    with lock(tmp_path), pytest.raises(InputError, match="in use by process"), lock(tmp_path):
        pass
    with lock(tmp_path):
        pass
