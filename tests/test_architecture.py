"""The floor plan as a test: imports point down, Ray and torch live on different floors, and nothing hides in strings."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ccray"

# One floor a line, top first. A room imports only from floors below its own.
FLOORS = [
    {"__main__"},
    {"stages"},
    {"sharded"},
    {"data", "training", "evaluation", "publishing", "serving"},
    {"models", "diffusion", "shapes"},
    {"recipes", "governance", "planning"},
    {"components", "takedowns", "probing"},
    {"storage"},
    {"config"},
    {"overrides", "leases"},
    {"schema", "interfaces"},
    {"licenses", "rejects", "flags", "spot"},
    {"license_texts"},
    {"license_names"},
]
FLOOR_OF = {room: depth for depth, rooms in enumerate(FLOORS) for room in rooms}
MAY_IMPORT_RAY = {"stages", "sharded"}
MAY_IMPORT_TORCH = {"data", "training", "evaluation", "serving", "models", "diffusion", "shapes"}
LINES_AT_MOST = 500


def imports(path: Path) -> set[str]:
    """Dotted names imported anywhere in the file, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: absolute imports only"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def faults(path: Path, room: str) -> list[str]:
    """What the imports of one file do that its floor forbids."""
    found = []
    for name in imports(path):
        top, *rest = name.split(".")
        if top == "ray" and room not in MAY_IMPORT_RAY:
            found.append(f"{room} imports ray")
        if top in ("torch", "diffusers", "transformers") and room not in MAY_IMPORT_TORCH:
            found.append(f"{room} imports {top}")
        if top == "ccray" and rest and rest[0] in FLOOR_OF and rest[0] != room and FLOOR_OF[rest[0]] <= FLOOR_OF[room]:
            found.append(f"{room} imports {rest[0]}")
        if top == "importlib" and rest[:1] == ["import_module"]:
            found.append(f"{room} imports by string")
    return found


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if room_of(path) != "__init__"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    assert room_of(path) in FLOOR_OF, f"{path} stands on no floor"
    assert faults(path, room_of(path)) == []


@pytest.mark.parametrize("path", sorted((PACKAGE / "stages").glob("*.py")), ids=lambda path: path.stem)
def test_stages_meet_only_on_disk(path: Path) -> None:
    assert not {name for name in imports(path) if name.startswith("ccray.stages")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LINES_AT_MOST


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("models", "import ray"),
        ("stages", "import torch"),
        ("data", "from ccray.training import loop"),
        ("config", "from ccray.storage import Root"),
        ("models", "def f():\n    import ray.data"),
        ("recipes", "import transformers"),
    ],
)
def test_a_planted_fault_is_found(tmp_path: Path, room: str, line: str) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text(line)
    assert faults(planted, room)


@pytest.mark.parametrize(
    "command",
    [
        ["show", "--recipe", "commonart-beta", "--origins"],
        ["plan", "--recipe", "commoncanvas-s-c", "--gpus", "8", "--gpu-type", "a100"],
        ["license", "CC0-1.0"],
        ["status", "--root", "nowhere"],
    ],
    ids=lambda command: command[0],
)
def test_light_commands_import_neither_ray_nor_torch(command: list[str]) -> None:
    program = f"import sys\nfrom ccray.__main__ import main\ncode = main({command!r})\nassert code == 0\nprint(sorted({{'ray', 'torch'}} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert answer.stdout.splitlines()[-1] == "[]"
