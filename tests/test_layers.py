"""The map of the house: each room imports only from rooms above it, and importing does nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "aigw"

# Top to bottom. Rooms on one line may not import each other.
FLOORS: list[set[str]] = [
    {"errors"},
    {"config", "sharing", "processes", "host"},
    {"sockets"},
    {"memory"},
    {"wire"},
    {"dialects"},
    {"policy"},
    {"upstreams"},
    {"observe"},
    {"proxy"},
    {"admin"},
    {"mock"},
    {"opening", "worker", "controller"},
    {"master"},
    {"demo"},
    {"cli"},
    {"__main__"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
PURE = {"wire", "dialects", "policy"}
WORLDLY = {"socket", "asyncio", "uvloop", "time", "logging", "threading", "subprocess", "select"}
MOCK_MAY_BE_IMPORTED_BY = {"demo"}


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(file: Path) -> set[str]:
    """The dotted names that a file imports, wherever in the file that stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            module = node.module or ""
            found.add(module)
            if module == "aigw":
                found.update(f"aigw.{alias.name}" for alias in node.names)
    return found


def sources() -> list[Path]:
    return sorted(file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py")


def test_every_room_is_on_the_map() -> None:
    assert {room_of(file) for file in sources()} <= set(FLOOR_OF)


def test_rooms_import_only_from_above() -> None:
    wrong = []
    for file in sources():
        room = room_of(file)
        for name in imports(file):
            parts = name.split(".")
            if parts[0] != "aigw" or len(parts) < 2 or parts[1] == room:
                continue
            if FLOOR_OF[parts[1]] >= FLOOR_OF[room]:
                wrong.append(f"{file.relative_to(PACKAGE)} imports {name}")
            if parts[1] == "mock" and room not in MOCK_MAY_BE_IMPORTED_BY:
                wrong.append(f"{file.relative_to(PACKAGE)} imports the mock")
    assert not wrong, "\n".join(wrong)


def test_pure_rooms_do_not_touch_the_world() -> None:
    wrong = [
        f"{file.relative_to(PACKAGE)} imports {name}"
        for file in sources()
        if room_of(file) in PURE
        for name in imports(file)
        if name.split(".")[0] in WORLDLY
    ]
    assert not wrong, "\n".join(wrong)


def test_importing_does_nothing() -> None:
    """`import aigw` loads no other module of the package, let alone an event loop."""
    loaded = "[m for m in sys.modules if m.startswith('aigw.') or m == 'uvloop']"
    code = f"import sys, aigw; print({loaded})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
