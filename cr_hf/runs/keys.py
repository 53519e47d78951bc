"""Which keys a recipe may have and what their values are, read out of the sources of the classes that have them.

Importing these classes, of transformers above all, takes seconds; a misspelt key is refused at once.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import RecipeError, nearest

NUMBER_TEXT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
MEANING = re.compile(r"^ {4}(\w+)(?: ?\(.*\))?:(.*(?:\n {8}.*)*)", re.MULTILINE)
"""A field and what it means, in the docstring of its class."""
TRIALS = 20
"""How many settings a search tries unless it says so."""
KINDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "list": "a list",
    "dict": "a block of keys",
}


@functools.cache
def declared_fields(module: str, name: str) -> dict[str, set[str]]:
    """The fields that a dataclass declares and the names of the types that each may have.

    Args:
        module: where its source stands, such as "transformers.training_args".
        name: of the class; fields that it inherits and private ones are not told.
    """
    fields = {field.target.id: _types(field.annotation) for field in _fields(_class_of(module, name))}
    return {field: types for field, types in fields.items() if not field.startswith("_") and "ClassVar" not in types}


def described_fields(module: str, name: str) -> dict[str, tuple[str, str]]:
    """The default of each field, as a recipe writes it, and what its class's docstring says of it.

    Args:
        module: as of `declared_fields`.
        name: likewise.
    """
    found = _class_of(module, name)
    meanings = {key: " ".join(text.split()) for key, text in MEANING.findall(ast.get_docstring(found) or "")}
    return {field.target.id: (_default(field.value), meanings.get(field.target.id, "")) for field in _fields(found)}


def _class_of(module: str, name: str) -> ast.ClassDef:
    package, *inner = module.split(".")
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    path = Path(spec.submodule_search_locations[0], *inner).with_suffix(".py")
    classes = (node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef))
    return next(node for node in classes if node.name == name)


def _fields(found: ast.ClassDef) -> list[Any]:
    return [field for field in found.body if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)]


def _default(value: ast.expr | None) -> str:
    if isinstance(value, ast.Call):  # field(default=..., ...)
        value = next((given.value for given in value.keywords if given.arg == "default"), None)
    if value is None:
        return ""
    text = ast.unparse(value).strip("'")
    return {"None": "null", "True": "true", "False": "false"}.get(text, text)


def _types(hint: ast.expr) -> set[str]:
    if isinstance(hint, ast.BinOp):
        return _types(hint.left) | _types(hint.right)
    return {ast.unparse(hint.value if isinstance(hint, ast.Subscript) else hint)}


def as_number(value: Any) -> Any:
    """The number that a text such as "3e-4" is, which YAML 1.1 reads as text; any other value as it is."""
    if isinstance(value, str) and NUMBER_TEXT.fullmatch(value):
        return float(value)
    return value


def check_types(values: dict[str, Any], fields: dict[str, set[str]], place: str, prefix: str = "") -> None:
    """Refuse a value of another type than its field has.

    Raises:
        RecipeError: naming the field and what it may be.
    """
    for name, value in values.items():
        types = fields[name]
        # transformers takes fsdp=true, which its hint does not say.
        if _fits(value, types) or _fits(as_number(value), types) or name == "fsdp":
            continue
        wanted = [word for kind, word in {**KINDS, "None": "null"}.items() if kind in types]
        quotes = " (put it in quotes)" if "str" in types and not isinstance(value, list | dict) else ""
        raise RecipeError(f"{place}: {prefix}{name}={value!r} must be {' or '.join(wanted)}{quotes}")


def _fits(value: Any, types: set[str]) -> bool:
    if isinstance(value, float) and math.isnan(value):
        return False
    if value is None:
        return "None" in types
    kind = type(value).__name__
    if kind == "bool":
        return kind in types
    return kind in types or (kind == "int" and "float" in types) or bool(types - {*KINDS, "None"})


def searched_values(search: dict[str, Any], known: set[str], place: str) -> Iterator[tuple[str, Any]]:
    """The keys of a `search:` block, each with every value of its list or with both ends of its range.

    Raises:
        RecipeError: naming the key that is not one of `known`, or has neither.
    """
    trials = search.get("trials", TRIALS)
    if type(trials) is not int or trials < 1 or not search.keys() - {"trials"}:
        raise RecipeError(
            f"{place}: search must name keys, and how many trials (a whole number, {TRIALS} by default), such as "
            "search: {trials: 10, dropout: [0.1, 0.3]}"
        )
    for key, wanted in search.items():
        if key == "trials":
            continue
        if key not in known:
            raise RecipeError(f"{place}: search.{key} cannot be searched{nearest(str(key), known)}: leave it out")
        values = wanted
        if isinstance(wanted, dict) and {"low", "high"} <= wanted.keys() <= {"low", "high", "log"}:
            values = low, high = [as_number(wanted[end]) for end in ("low", "high")]
            is_sound = isinstance(low, int | float) and isinstance(high, int | float) and low < high < math.inf
            is_sound &= type(wanted.get("log", False)) is bool
            values = values if is_sound and (low > 0 or not wanted.get("log")) else None
        if not isinstance(values, list) or not values:
            raise RecipeError(
                f"{place}: search.{key}={wanted!r} must be a list of values, or a range such as {{low: 0.001, high: "
                "0.1, log: true}, with low above 0 if log"
            )
        yield from ((key, value) for value in values)
