from __future__ import annotations

import logging
import os
import sys
import zipfile
from pathlib import Path

import pytest

from monosem import wheel as wheel_file
from monosem.disk import cache_folder, sha256
from monosem.shapes import InputError
from monosem.wheel import WHEELS, fetch

NAME, VERSION = "tiny-data", "1.2"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MONOSEM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """A folder that pip uses as its only index."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def build(folder: Path, text: str = "a,b\n") -> Path:
    """A wheel with two data files, and nothing that could run."""
    path = folder / f"tiny_data-{VERSION}-py3-none-any.whl"
    info = f"tiny_data-{VERSION}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_data/table.csv", text)
        archive.writestr("tiny_data/other.csv", "unused")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {VERSION}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def member(tmp_path: Path, text: str = "a,b\n") -> dict[str, str]:
    file = tmp_path / "member"
    file.write_text(text)
    return {"tiny_data/table.csv": sha256(file)}


def refused(*args) -> str:
    with pytest.raises(InputError) as caught:
        fetch(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_wheel_is_downloaded_unpacked_and_not_kept(index, tmp_path):
    wheel = build(index)
    folder = fetch(NAME, VERSION, sha256(wheel), member(tmp_path))
    assert folder == cache_folder() / "wheels" / "tiny-data-1.2"
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    assert files == ["tiny_data/table.csv"]
    assert list(folder.parent.iterdir()) == [folder]
    assert NAME not in sys.modules


def test_a_wheel_without_members_is_kept_as_one_file(index, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "monosem")
    args = (NAME, VERSION, sha256(build(index)), {})
    kept = fetch(*args) / "tiny-data.whl"
    assert [*kept.parent.iterdir()] == [kept]
    assert sha256(kept) == args[2]
    kept.write_bytes(b"cut")
    fetch(*args)
    assert sha256(kept) == args[2]
    assert "fetching it again" in caplog.text
    monkeypatch.setattr(wheel_file, "_pip", lambda *args: pytest.fail("pip was called"))
    fetch(*args)


def test_files_that_are_there_need_no_index(index, tmp_path, monkeypatch):
    wheel = build(index)
    args = (NAME, VERSION, sha256(wheel), member(tmp_path))
    fetch(*args)
    monkeypatch.setattr(wheel_file, "_pip", lambda *args: pytest.fail("pip was called"))
    fetch(*args)


@pytest.mark.parametrize("damage", ["altered", "truncated", "missing"])
def test_a_damaged_file_is_fetched_again(index, tmp_path, damage, caplog):
    caplog.set_level(logging.INFO, "monosem")
    wheel = build(index)
    args = (NAME, VERSION, sha256(wheel), member(tmp_path))
    table = fetch(*args) / "tiny_data" / "table.csv"
    match damage:
        case "altered":
            table.write_text("a,c\n")
        case "truncated":
            table.write_text("a,")
        case _:
            table.unlink()
    fetch(*args)
    assert table.read_text() == "a,b\n"
    assert "fetching it again" in caplog.text


def test_a_tampered_wheel_on_the_index_is_refused(index, tmp_path):
    want = sha256(build(index))
    build(index, "evil\n")
    message = refused(NAME, VERSION, want, member(tmp_path))
    assert "tiny-data==1.2" in message
    assert want in message
    assert not (cache_folder() / "wheels" / "tiny-data-1.2").exists()


def test_a_wheel_put_there_by_hand_is_used_without_pip(index, tmp_path, monkeypatch):
    folder = cache_folder() / "wheels"
    folder.mkdir(parents=True)
    wheel = build(folder)
    monkeypatch.setattr(wheel_file, "_pip", lambda *args: pytest.fail("pip was called"))
    table = fetch(NAME, VERSION, sha256(wheel), member(tmp_path)) / "tiny_data" / "table.csv"
    assert table.read_text() == "a,b\n"
    assert wheel.exists()


def test_a_wheel_put_there_by_hand_with_another_hash_is_not_used(index, tmp_path, caplog):
    caplog.set_level(logging.INFO, "monosem")
    want = sha256(build(index))
    by_hand = cache_folder() / "wheels"
    by_hand.mkdir(parents=True)
    build(by_hand, "evil\n")
    table = fetch(NAME, VERSION, want, member(tmp_path)) / "tiny_data" / "table.csv"
    assert table.read_text() == "a,b\n"
    assert "not used" in caplog.text


def test_without_an_index_the_message_says_what_to_put_where(index, tmp_path):
    message = refused(NAME, VERSION, "0" * 64, member(tmp_path))
    for part in (
        "tiny-data==1.2",
        "tiny_data-1.2-py3-none-any.whl",
        "0" * 64,
        str(cache_folder() / "wheels"),
    ):
        assert part in message
    assert list((cache_folder() / "wheels").iterdir()) == []


def test_without_pip_the_message_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", _python_without_pip(tmp_path))
    message = refused(NAME, VERSION, "0" * 64, member(tmp_path))
    assert "No module named pip" in message
    assert "tiny_data-1.2-py3-none-any.whl" in message


def _python_without_pip(tmp_path: Path) -> str:
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
    script.chmod(0o755)
    return str(script)


def test_a_member_that_is_not_what_the_table_says_is_refused(index, tmp_path):
    wheel = build(index)
    assert "does not have sha256" in refused(NAME, VERSION, sha256(wheel), {"tiny_data/table.csv": "0" * 64})
    assert "no readable tiny_data/absent" in refused(NAME, VERSION, sha256(wheel), {"tiny_data/absent": "0" * 64})
    assert "leaves the folder" in refused(NAME, VERSION, sha256(wheel), {"../escape": "0" * 64})
    assert not (cache_folder() / "wheels" / "tiny-data-1.2").exists()


def test_the_table_pins_every_file():
    for name, row in WHEELS.items():
        hashes = [row.sha256, *row.members.values()]
        assert all(len(hash_) == 64 for hash_ in hashes), name
        assert len(set(hashes)) == len(hashes)
