"""Small sites built by Sphinx with the book's own extensions, in this process."""

from pathlib import Path

from sphinx.cmd.build import main

ROOT = Path(__file__).resolve().parents[1]


def build_site(folder: Path, pages: dict[str, str], conf: str) -> tuple[Path, str]:
    """Pages as HTML: the folder, and the warnings; empty where the strict build succeeded."""
    for name, text in {**pages, "conf.py": conf}.items():
        path = folder / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    warnings = folder / "warnings"
    failed = main(["-W", "-q", "-w", str(warnings), str(folder / "source"), str(folder / "html")])
    said = warnings.read_text(encoding="utf-8")
    assert bool(failed) == bool(said), said
    return folder / "html", said
