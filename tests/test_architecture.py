"""Import directions that the README promises: a package imports from those to its right, never to its left."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = [
    {"rlp_cli"},
    {"study", "doctor"},
    {"stages"},
    {"training", "generation", "serving", "annotation", "semantics", "evaluation", "report", "sandbox"},
    {"methods", "models"},
    {"data"},
    {"run"},
    {"config"},
    {"distributed"},
    {"errors", "randomness", "safe_text"},
]
HEIGHT = {name: -depth for depth, names in enumerate(LAYERS) for name in names}
FREE = {"rlp_engine"}  # the package itself: its version
TORCH_FREE = {"rlp_cli", "run", "config", "errors", "randomness", "safe_text"}
LIGHT_STAGES = {  # `rlp status` imports these
    *("pipeline", "stage_inputs", "branches", "required_data"),
    *("spec", "plan", "selection", "input_checks", "runner", "group"),
}
HEAVY = {"torch", "transformers", "accelerate", "peft", "datasets", "sklearn"}


def package_of(module: str) -> str:
    """rlp_engine.data.readers -> data; rlp_cli.render -> rlp_cli; "" for what is not ours."""
    parts = module.split(".")
    if parts[0] == "rlp_cli":
        return "rlp_cli"
    if parts[0] != "rlp_engine":
        return ""
    return parts[1] if len(parts) > 1 and parts[1] in HEIGHT else "rlp_engine"


def sources() -> list[Path]:
    return sorted(path for name in ("rlp_cli", "rlp_engine") for path in (ROOT / name).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, *, top_level_only: bool = False) -> list[tuple[int, str]]:
    """(line, module) of every import; those under `if TYPE_CHECKING` are no imports at run time."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {id(inner) for node in ast.walk(tree) if _is_type_checking(node) for inner in ast.walk(node)}
    nodes = tree.body if top_level_only else ast.walk(tree)
    found = []
    for node in nodes:
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write the whole name of the package"
            found.append((node.lineno, node.module or ""))
            if node.module == "rlp_engine":
                found += [(node.lineno, f"rlp_engine.{alias.name}") for alias in node.names]
    return found


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", sources(), ids=shown)
def test_imports_go_down(path):
    own = package_of(module_name(path))
    for line, module in imports(path):
        other = package_of(module)
        if not other or other in FREE or own in FREE or other == own:
            continue
        assert HEIGHT[other] < HEIGHT[own] or _are_siblings(own, other), f"{path}:{line}: {own} imports {module}"


def _are_siblings(own: str, other: str) -> bool:
    """Packages of one layer may use each other; `methods` is pure and uses nothing of ours."""
    return HEIGHT[own] == HEIGHT[other] and own != "methods"


@pytest.mark.parametrize("path", [p for p in sources() if package_of(module_name(p)) == "methods"], ids=shown)
def test_methods_import_torch_and_nothing_of_ours_but_each_other(path):
    for line, module in imports(path):
        ours = package_of(module)
        assert ours in ("", "methods"), f"{path}:{line}: {module}"
        assert module.split(".")[0] not in HEAVY - {"torch"}, f"{path}:{line}: {module}"


@pytest.mark.parametrize("path", [p for p in sources() if package_of(module_name(p)) in TORCH_FREE], ids=shown)
def test_what_help_and_status_read_never_imports_torch(path):
    for line, module in imports(path):
        assert module.split(".")[0] not in HEAVY, f"{path}:{line}: {module}"


@pytest.mark.parametrize("name", sorted(LIGHT_STAGES))
def test_the_table_of_stages_is_light(name):
    path = ROOT / "rlp_engine" / "stages" / f"{name}.py"
    for line, module in imports(path, top_level_only=True):
        assert module.split(".")[0] not in HEAVY, f"{path}:{line}: {module}"
        assert package_of(module) in {
            "",
            "stages",
            "run",
            "config",
            "distributed",
            "errors",
            "randomness",
            "rlp_engine",
        }, f"{line}: {module}"


@pytest.mark.parametrize("path", [p for p in sources() if "rlp_cli" in p.parts], ids=shown)
def test_the_command_line_imports_the_engine_inside_its_functions(path):
    for line, module in imports(path, top_level_only=True):
        light = {"rlp_engine.errors", "rlp_engine.safe_text", "rlp_engine"}
        assert package_of(module) in ("", "rlp_cli") or module in light, f"{path}:{line}: {module}"
        assert module.split(".")[0] not in {"pydantic", "numpy", "rich"} or path.name == "render.py", f"{path}:{line}"


def test_only_render_prints():
    for path in sources():
        if path.name == "render.py" and "rlp_cli" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print", f"{path}:{node.lineno}"
            if isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr") and "rlp_cli" in path.parts:
                # app.py hushes the stream whose reader is gone; streams.py puts the cleaned ones in place.
                allowed = path.name in ("app.py", "streams.py")
                assert allowed, f"{path}:{node.lineno}: only render.py writes to the terminal"


def test_no_bare_except_exception_but_in_app_main():
    # model_folders.py: the tokenizers library raises Exception itself, and everything else is raised again there.
    allowed = ("rlp_cli/app.py", "rlp_engine/models/model_folders.py")
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler) and shown(path) not in allowed:
                names = ast.unparse(node.type) if node.type else "bare"
                assert names not in ("bare", "Exception", "(Exception,)"), f"{path}:{node.lineno}: {names}"


def test_every_public_module_says_what_it_is_for():
    for path in sources():
        if path.stat().st_size:
            assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


def test_only_three_modules_say_that_text_is_safe_html():
    makers = {
        shown(path)
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Markup"
    }
    assert makers == {f"rlp_engine/report/{name}.py" for name in ("html", "svg", "page")}
