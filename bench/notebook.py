"""Run the code cells of a notebook from top to bottom and keep what they show, without Jupyter.

python bench/notebook.py docs/tutorial.ipynb

Outputs are written into the file. A figure of matplotlib is kept as a picture, an object with `_repr_html_` as HTML.
"""

from __future__ import annotations

import argparse
import ast
import base64
import contextlib
import io
import json
import os
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

_NOTHING = object()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    os.environ.setdefault("MONOSEM_PROGRESS", "off")
    notebook = read(options.notebook)
    start = time.monotonic()
    cells = run(notebook)
    options.notebook.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
    found = {"cells": cells, "seconds": round(time.monotonic() - start, 1)}
    sys.stdout.write(json.dumps(found) + "\n" if options.json else f"{cells} cells in {found['seconds']} s\n")


def read(path: Path) -> dict[str, Any]:
    """A notebook as it lies on disk."""
    return json.loads(path.read_text())


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """The cells that are run, in order."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run(notebook: dict[str, Any], names: dict[str, Any] | None = None) -> int:
    """Run every code cell in one namespace and put its outputs in place of old ones; how many there were."""
    names = {"__name__": "__main__"} if names is None else names
    for number, cell in enumerate(code_cells(notebook), 1):
        cell["execution_count"] = number
        cell["outputs"] = _outputs("".join(cell["source"]), number, names)
    return len(code_cells(notebook))


def _outputs(source: str, number: int, names: dict[str, Any]) -> list[dict[str, Any]]:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        shown = _value(source, f"<cell {number}>", names)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append({"name": "stdout", "output_type": "stream", "text": _lines(printed.getvalue())})
    if shown is not None and shown is not _NOTHING:
        data = {kind: text if kind == "image/png" else _lines(text) for kind, text in _shown(shown).items()}
        outputs.append({"data": data, "execution_count": number, "metadata": {}, "output_type": "execute_result"})
    return outputs


def _value(source: str, name: str, names: dict[str, Any]) -> Any:
    """Run a cell; what its last line is worth, if that is an expression that does not end with a semicolon."""
    tree = ast.parse(source, name)
    last = tree.body[-1] if tree.body else None
    if not isinstance(last, ast.Expr) or source.rstrip().endswith(";"):
        exec(compile(tree, name, "exec"), names)
        return _NOTHING
    exec(compile(ast.Module(tree.body[:-1], []), name, "exec"), names)
    return eval(compile(ast.Expression(last.value), name, "eval"), names)


def _shown(value: Any) -> dict[str, str]:
    found = {"text/plain": repr(value)}
    if hasattr(value, "_repr_html_") and (html := value._repr_html_()):
        found = {"text/plain": textwrap.shorten(found["text/plain"], 200, placeholder=" …"), "text/html": html}
    if type(value).__module__.startswith("matplotlib") and hasattr(value, "savefig"):
        picture = io.BytesIO()
        value.savefig(picture, format="png", dpi=110, bbox_inches="tight")
        found["image/png"] = base64.b64encode(picture.getvalue()).decode()
    return found


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


if __name__ == "__main__":
    main()
