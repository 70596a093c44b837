"""The rooms of the module: who may import whom, how many modules stand at the root, how long the core may be."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1] / "ctrlib"
ROOMS = ["errors", "config", "models", "coupling", "training", "fast", "data", "stats", "store", "study", "run"]
LAYERS = {room: place for place, room in enumerate(ROOMS)} | {"publish": len(ROOMS), "cli": len(ROOMS) + 1}
ARCHITECTURE_LINES = 120  # a file each
# 1,930 of 2,400 without the architectures, and on top register_model, bounds of settings, a fingerprint made once, a
# model's own term in the loss, the second rule of early stopping, dropout masks, rivals without peers, negative
# weights, stale peers, a head for the peers, synthetic data over time and random embeddings
CORE_LINES = 2310


def imports() -> Iterator[tuple[str, str, str]]:
    """File, its room and the room of each of its imports, those inside functions too."""
    for path in sorted(ROOT.rglob("*.py")):
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [
                    f"{node.module}.{alias.name}" if node.module == "ctrlib" else node.module for alias in node.names
                ]
            for name in {name for name in names if name.startswith("ctrlib.")}:
                yield str(path.relative_to(ROOT)), room, name.split(".")[1]


def test_every_room_imports_only_what_stands_before_it() -> None:
    """So there is no circle between rooms, and the core, which stands first, imports no other room."""
    known = [(path, room, other) for path, room, other in imports() if room != "__init__" and other != "__version__"]
    assert {room for _, room, _ in known} <= LAYERS.keys()
    assert [f"{path} imports {other}" for path, room, other in known if LAYERS[other] > LAYERS[room]] == []


def test_the_core_is_small() -> None:
    assert {path.stem for path in ROOT.glob("*.py")} == {"__init__", "config", "coupling", "errors"}
    files = [*ROOT.glob("*.py"), *(ROOT / "models").glob("*.py"), *(ROOT / "training").glob("*.py")]
    lines = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    parts = {f"models/{name}.py" for name in ("__init__", "layers", "operations")}
    architectures = {name: count for name, count in lines.items() if name.startswith("models/") and name not in parts}
    assert max(architectures.values()) <= ARCHITECTURE_LINES, architectures
    assert sum(lines.values()) - sum(architectures.values()) <= CORE_LINES, lines
