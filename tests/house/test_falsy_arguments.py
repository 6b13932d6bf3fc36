"""An argument of 0, "", False or an empty array is a value: `argument or default` would drop it."""

import ast
from pathlib import Path

import numpy as np
import pytest

import xcertify
from xcertify.attributions import RelEx
from xcertify.perturbation import Perturbation

PACKAGE = Path(xcertify.__file__).parent
FALSY = {"int", "float", "str", "bool", "Any", "ArrayLike", "np.ndarray", "os.PathLike[str]"}


def swallowed(tree):
    """Lines ``x or default`` where x is an argument that may be None, or something falsy."""
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        arguments = [*function.args.args, *function.args.kwonlyargs]
        kinds = {
            a.arg: {*ast.unparse(a.annotation).split(" | ")} for a in arguments if a.annotation
        }
        for node in ast.walk(function):
            if not isinstance(node, ast.BoolOp) or not isinstance(node.op, ast.Or):
                continue
            first, second = node.values[:2]
            known = kinds.get(first.id, set()) if isinstance(first, ast.Name) else set()
            is_same = isinstance(second, ast.Constant) and not second.value
            if "None" in known and known & FALSY and not is_same:
                yield node.lineno


def test_finds_them():
    of = "def f(x: int | None, y: list[int] | None, z: str | None):\n"
    assert [*swallowed(ast.parse(of + "    return x or 3"))] == [2]
    assert not [*swallowed(ast.parse(of + "    return y or [1], z or ''"))]


def test_no_argument_is_dropped_because_it_is_falsy():
    found = {path: [*swallowed(ast.parse(path.read_text()))] for path in PACKAGE.rglob("*.py")}
    assert not {str(path): lines for path, lines in found.items() if lines}


def test_falsy_values_are_values():
    with pytest.raises(ValueError, match="sparsity"):
        RelEx(lambda x: x, sparsity="")
    arrays = Perturbation(0.1, clip=np.array([0.0, 1.0]))
    assert arrays == Perturbation(0.1, clip=(0.0, 1.0))
