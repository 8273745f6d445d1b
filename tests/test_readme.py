"""What README, docs and --help tell people to type works."""

import re
import shlex
from pathlib import Path

import pytest

import run_folder
from monosem.cli import COMMANDS, EPILOG, parse

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def command_lines():
    """Every `monosem …` line of the documents and help texts, continuation lines joined, comments cut."""
    texts = [README, (ROOT / "docs/log.md").read_text(), EPILOG]
    texts += [(ROOT / f"src/monosem/cli/{name}.py").read_text().split('"""')[1] for name in COMMANDS]
    for text in texts:
        for line in text.replace("\\\n", " ").splitlines():
            line = line.strip()
            if line.startswith(tuple(f"monosem {name}" for name in COMMANDS)) and "RUN|SAE" not in line:
                yield re.split(r"\s{3,}|\s#", line)[0].strip()


@pytest.mark.parametrize("line", sorted(set(command_lines())))
def test_documented_commands_are_understood(line):
    words = shlex.split(line)[1:]
    assert parse(words).command == words[0]


def test_readme_names_both_commands_and_its_picture():
    assert "make demo" in README
    assert "make test" in README
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_documents_hold_no_placeholder():
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        assert not re.search(r"DEMO-|TODO|FIXME|XXX", path.read_text()), path


@pytest.mark.slow
def test_the_readme_session_runs_on_the_embedded_model(tmp_path, monkeypatch):
    """Train at the README's site, small, then run the README's Python as it stands."""
    settings = {"n_latents": 512, "tokens": 8192, "batch": 1024, "k": 16, "site": "resid_post.12"}
    monkeypatch.setattr(run_folder, "environment", lambda folder: {**run_folder.os.environ, "MONOSEM_PROGRESS": "off"})
    done = run_folder.monosem(tmp_path, "train", *run_folder.flags(settings), "--run", "runs/first")
    assert done.returncode == 0, done.stderr
    for command in (
        ["evaluate", "runs/first", "--windows", "4", "--loss-windows", "1"],
        ["features", "runs/first", "17", "--windows", "4"],
        ["report", "runs/first", "--windows", "4"],
        ["inspect", "runs/first"],
    ):
        done = run_folder.monosem(tmp_path, *command)
        assert done.returncode == 0, done.stderr
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert names["acts"].shape[1] == 576
    assert names["codes"].dense().shape == (len(names["acts"]), 512)
