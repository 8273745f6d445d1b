"""The layout: arrows point one way, heavy imports wait, functions stay short, rooms have one door."""

import ast
import subprocess
import sys
from pathlib import Path

import monosem

ROOT = Path(monosem.__file__).parent

# Every room may import the rooms to its left; boost, flow, vectors and lime share one column.
LAYERS = [
    {"lazy", "shapes"},
    {"progress", "disk"},
    {"wheel", "kernels"},
    {"sae", "lm"},
    {"text", "formats"},
    {"activations"},
    {"training"},
    {"evaluation"},
    {"interpret"},
    {"report"},
    {"boost", "flow", "vectors", "lime"},
    {"reproduce"},
    {"cli", "explore"},
    {"__main__"},
]


def layer(room):
    return next(number for number, rooms in enumerate(LAYERS) if room in rooms)


def imports(path):
    """Rooms of monosem that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "monosem":
            names = [node.module.split(".")[1]] if "." in node.module else [alias.name for alias in node.names]
            yield from ((node.lineno, name) for name in names)


def test_rooms_import_only_rooms_below_them():
    wrong = []
    for path in sorted(ROOT.rglob("*.py")):
        if path == ROOT / "__init__.py":
            continue
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        for line, other in imports(path):
            if other != "__version__" and other != room and layer(other) >= layer(room):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {other}")
    assert not wrong


def test_public_names_exist_and_the_verbs_are_functions():
    assert len(set(monosem.__all__)) == len(monosem.__all__)
    for name in monosem.__all__:
        assert getattr(monosem, name) is not None
    assert callable(monosem.train)
    assert callable(monosem.evaluate)


def test_import_and_help_load_neither_torch_nor_transformers():
    for arguments in (["--help"], ["train", "--help"], ["evaluate", "--help"], ["--version"]):
        script = (
            "import sys, monosem.cli\n"
            f"try: monosem.cli.main({arguments!r})\n"
            "except SystemExit: pass\n"
            "assert not {'torch', 'transformers', 'numba', 'scipy'} & set(sys.modules), 'heavy import'"
        )
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_functions_fit_on_a_screen():
    lengths = [
        (node.end_lineno - node.lineno + 1, f"{path.relative_to(ROOT)}:{node.name}")
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    lengths.sort()
    assert lengths[int(0.9 * len(lengths))][0] <= 28
    assert lengths[-1][0] <= 60, lengths[-1]


def public_nodes(path):
    """A module, and its public functions and classes where their name alone does not say what they do."""
    tree = ast.parse(path.read_text())
    yield "module", tree
    if "cli" in path.parts or path.name in {"cpu.py", "dispatch.py"}:  # documented once: by table, by reference.py
        return
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node.name, node


def test_every_module_and_public_function_has_a_docstring():
    missing = [
        f"{path.relative_to(ROOT)}:{name}"
        for path in ROOT.rglob("*.py")
        for name, node in public_nodes(path)
        if ast.get_docstring(node) is None
    ]
    assert not missing
