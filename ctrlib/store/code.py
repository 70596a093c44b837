"""A digest of the code that decides a number, so that one made by other code is never taken for today's.

The digest of a function or class covers the syntax tree of its definition and, by name, of everything in
:data:`FOLLOWED` that it refers to, wherever that stands. Comments, docstrings, annotations, the texts of errors and
the order of definitions are not part of it: they decide no number. Nothing is imported or executed, and Python 3.11,
3.12 and 3.13 give the same digest. What a method is called on is not resolved; whoever makes the object names its
class, which is covered whole.
"""

import ast
import hashlib
import inspect
import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ctrlib.errors import UserError

if TYPE_CHECKING:
    from ctrlib.config import Run

PACKAGE = Path(__file__).resolve().parent.parent
FOLLOWED = ("config", "coupling", "models", "training", "fast", "data.synthetic", "stats", "store.measures", "study")
TRAINING = ("training.loop.train", "fast.install", "models.build_model")
SAME = PACKAGE / "store" / "same_code.json"  # digests of parts that gave the same bits (ctrlib.store.battery)
TABLES = {"MODELS", "measured"}  # the registry, so that a new architecture changes no other's digest; the keeper
LEFT_OUT = {"annotation", "returns", "ctx", "kind", "type_comment", "type_params"}

Bindings = dict[str, tuple[str, str]]  # name -> module and the name there, "" for the module itself


def other_parts(recorded: dict[str, str]) -> list[str]:
    """The parts of the code in a record that are not today's and not known to give the same bits."""
    return [part for part, one in recorded.items() if one != (now := _code(part)) and not _is_same(part, one, now)]


def run_code(run: "Run") -> dict[str, str]:
    """The digest of each part of the code that decides the numbers of a run: trainer, architectures, synthetic data.

    Prepared rows are covered by their own fingerprint, checkpoints and teachers by their checksums.
    """
    parts = ["training", *sorted({member.architecture for member in run.members})]
    return {part: _code(part) for part in parts + ["synthetic"] * (run.data.synthetic is not None)}


def _code(part: str) -> str:
    return all_parts().get(part) or architecture_code(part)


@cache
def all_parts(package: Path = PACKAGE) -> dict[str, str]:
    """The digest of every part, as :func:`run_code` gives those of one run."""
    parts = {"training": _digest(package, *TRAINING, without=frozenset(_classes(package).values()))}
    parts |= {name: architecture_code(name, package) for name in sorted(_classes(package))}
    return parts | {"synthetic": _digest(package, "data.synthetic.generate")}


def remember_same(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """Write down that the parts that differ gave the same bits; their names."""
    from ctrlib.data.files import replace_file

    known = _same()
    changed = [part for part in now if before.get(part, now[part]) != now[part]]
    for part in changed:
        if (pair := [before[part], now[part]]) not in known.setdefault(part, []):
            known[part].append(pair)
    if changed:
        replace_file(SAME, (json.dumps(known, indent=1) + "\n").encode())
    return changed


def _same() -> dict[str, list[list[str]]]:
    return json.loads(SAME.read_text(encoding="utf-8")) if SAME.is_file() else {}


def _is_same(part: str, digest: str, now: str) -> bool:
    """Whether pairs that were written down lead from one digest to the other."""
    reached, pairs = {digest}, _same().get(part, [])
    for _ in pairs:
        reached.update(*(pair for pair in pairs if reached & set(pair)))
    return now in reached


def is_registered(architecture: str) -> bool:
    """Whether only this process knows the architecture, from :func:`ctrlib.register_model`."""
    return architecture not in _classes(PACKAGE)


def architecture_code(name: str, package: Path = PACKAGE) -> str:
    """The digest of an architecture: of the class in the registry, or of the one that was registered by this process;
    empty for one that it does not know.

    Raises:
        UserError: the source of a registered class cannot be read.
    """
    if name in (classes := _classes(package)):
        return _digest(package, f"models.{classes[name]}")
    from ctrlib.models import MODELS

    return _hash(sorted(_foreign(MODELS[name], {}).values())) if name in MODELS else ""


def function_code(function: Callable) -> str:
    """The digest of a function, one inside another counts as that whole one; of a foreign one, by its own source."""
    function = getattr(function, "func", function)  # of a partial
    module, name = function.__module__, function.__qualname__.partition(".")[0]
    if module.startswith("ctrlib."):
        return _digest(PACKAGE, f"{module.removeprefix('ctrlib.')}.{name}")
    return _hash(sorted(_foreign(function, {}).values()))


def _classes(package: Path) -> dict[str, str]:
    """The registry as it is written, with entries added below it: architecture -> class."""
    classes = {}
    for node in _module(package, "models").definitions["MODELS"]:
        whole = isinstance(node.value, ast.Dict)
        entries = (
            zip(node.value.keys, node.value.values, strict=True) if whole else [(node.targets[0].slice, node.value)]
        )
        classes |= {key.value: value.id for key, value in entries}
    return classes


def definitions(package: Path, *roots: str, without: frozenset[str] = frozenset()) -> dict[tuple[str, str], list[str]]:
    """All that ``roots`` (``room.module.name``) refer to: module and name -> the tokens of its definition."""
    found: dict[tuple[str, str], list[str]] = {}
    left = [tuple(root.rsplit(".", 1)) for root in roots]
    while left:
        module, name = left.pop()
        if (module, name) in found or name in TABLES | without or not _is_followed(module):
            continue
        source = _module(package, module)
        if name in source.definitions:
            tokens, references = [], Bindings()
            for node in source.definitions[name]:
                bindings = source.bindings | _imports(node, module, package)
                for token in _walk(node):
                    if isinstance(token, str):
                        tokens.append(token)
                        continue
                    first, attribute = token
                    tokens += [first, attribute]
                    references[f"{first}.{attribute}"] = _resolved(bindings, first, attribute, module)
            outside = sorted(
                f"{used}={place}.{there}" for used, (place, there) in references.items() if place.startswith("!")
            )
            found[module, name] = tokens + outside
            left += [(place, there) for place, there in references.values() if place and not place.startswith("!")]
        elif name in source.bindings:
            left.append(source.bindings[name])
    return found


class _Source:
    """A module of the package as it is written: what its names are bound to."""

    def __init__(self, package: Path, module: str) -> None:
        path = package.joinpath(*module.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        self.definitions: dict[str, list[ast.stmt]] = {}
        self.bindings: Bindings = {}
        for node in tree.body:
            targets = [node.target] if isinstance(node, ast.AnnAssign | ast.AugAssign) else getattr(node, "targets", [])
            names = [found.id for target in targets for found in ast.walk(target) if isinstance(found, ast.Name)]
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names = [node.name]
            for name in names:
                self.definitions.setdefault(name, []).append(node)
            self.bindings |= _imports(node, module, package)


@cache
def _module(package: Path, module: str) -> _Source:
    return _Source(package, module)


@cache
def _digest(package: Path, *roots: str, without: frozenset[str] = frozenset()) -> str:
    return _hash([" ".join(tokens) for tokens in sorted(definitions(package, *roots, without=without).values())])


def _hash(texts: list[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def _is_followed(module: str) -> bool:
    return any(module == one or module.startswith(f"{one}.") for one in FOLLOWED)


def _imports(node: ast.AST, module: str, package: Path) -> Bindings:
    """What the imports inside a node bind; modules that are not of this package begin with ``!``."""
    bound: Bindings = {}
    for one in ast.walk(node):
        if isinstance(one, ast.Import):
            bound |= {(a.asname or a.name).partition(".")[0]: (f"!{a.name}", "") for a in one.names}
        elif isinstance(one, ast.ImportFrom):
            inside = (one.module or "").partition(".")[0] == "ctrlib"
            place = one.module.partition(".")[2] if inside else f"!{one.module}"
            for alias in one.names:
                whole = f"{place}.{alias.name}".strip(".")
                path = package.joinpath(*whole.split("."))
                is_module = inside and (path.is_dir() or path.with_suffix(".py").is_file())
                bound[alias.asname or alias.name] = (whole, "") if is_module else (place, alias.name)
    return bound


def _resolved(bindings: Bindings, first: str, attribute: str, module: str) -> tuple[str, str]:
    """Where ``first.attribute`` is defined; a name that is no import may be the module's own."""
    if first not in bindings:
        return module, first
    place, name = bindings[first]
    return (place, name) if name or place.startswith("!") else (place, attribute)


def _walk(node: object) -> Iterator[str | tuple[str, str]]:
    """The syntax tree as tokens, and each name as a pair with the attribute that is taken of it."""
    if isinstance(node, ast.Raise):
        yield "Raise"
    elif isinstance(node, ast.Name):
        yield node.id, ""
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        yield node.value.id, node.attr
    elif isinstance(node, ast.Import | ast.ImportFrom) or _is_text(node):
        pass  # what an import binds counts where it is used; a text that stands alone is a docstring
    elif isinstance(node, ast.AnnAssign) and node.value is not None:
        yield from _walk(ast.Assign(targets=[node.target], value=node.value))
    elif isinstance(node, ast.AST):
        yield type(node).__name__
        for name, value in ast.iter_fields(node):
            if name not in LEFT_OUT and value is not None and value != []:
                yield name
                yield from _walk(value)
    elif isinstance(node, list):
        yield "["
        for one in node:
            yield from _walk(one)
        yield "]"
    else:
        yield repr(node)


def _is_text(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _foreign(thing: Callable, found: dict[str, str]) -> dict[str, str]:
    """Of a class or function from outside ctrlib and all that it names in its module: name -> tokens or digest."""
    if thing.__qualname__ in found:
        return found
    try:
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(thing))).body
    except (OSError, TypeError):
        raise UserError(f"{thing.__qualname__}: its source cannot be read, so no record can say what it was") from None
    tokens = list(_walk(node))
    found[thing.__qualname__] = " ".join(token if isinstance(token, str) else ".".join(token) for token in tokens)
    names = vars(sys.modules[thing.__module__])
    for first, _ in [token for token in tokens if not isinstance(token, str)]:
        used = names.get(first)
        if isinstance(used, int | float | str | tuple):
            found[first] = f"{first}={used!r}"
        elif getattr(used, "__module__", "").startswith("ctrlib."):
            found[first] = function_code(used)
        elif getattr(used, "__module__", None) == thing.__module__:
            _foreign(used, found)
    return found
