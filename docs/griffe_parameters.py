"""An extension of griffe: the reference says of each parameter its own type and default.

Docstrings group names that share a text, and point to where it stands::

    model, batch_size, verbose
        As for `Saliency`.

On the site this is one entry for each name, with type and default of the signature, the text of
that class, and links: a name in backticks leads to where it is described. Settings that a
constructor hands on (``**settings``) have the type and default of the constructor that takes them.
What only a parent class describes (fields of a certificate, parameters of a method) stands with its
children, too.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import griffe

from xcertify.perturbation import OF_REGIONS, PARTS

PARAMETERS = griffe.DocstringSectionKind.parameters
ATTRIBUTES = griffe.DocstringSectionKind.attributes
STARRED = {griffe.ParameterKind.var_positional: "*", griffe.ParameterKind.var_keyword: "**"}
NAMES = re.compile(r"(?<![`\w])`([A-Za-z_][\w.]*)`(?!`)")
AS_FOR = re.compile(r"As for (?:the class )?`([A-Za-z_][\w.]*)`")


class OneEntryForEachName(griffe.Extension):
    """Rewrites the parsed docstrings of a package once all of it is loaded."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Called by griffe, behind its own extension for dataclasses."""
        parts = list(_parts(pkg))
        for part in parts:
            if part.is_class:
                _take_perturbation(part)
        for part in parts:
            for section in _described(part):
                _set_types(part, section)
            if part.is_function:
                _set_returned(part)
        index = _index(pkg, parts)
        for part in parts:
            _follow(part, index)
        for part in parts:
            if part.is_class or part.is_function:
                _inherit(part)
        for part in parts:
            _link(part, index)


def _parts(part: griffe.Object) -> Iterator[griffe.Object]:
    """The object and all that is defined in it."""
    yield part
    for member in part.members.values():
        if not member.is_alias:
            yield from _parts(member)


def _sections(part: griffe.Object) -> list[griffe.DocstringSection]:
    return part.docstring.parsed if part.docstring else []


# --- types and defaults ---


def taken(part: griffe.Object) -> dict[str, griffe.Parameter]:
    """All that a function, or the constructor of a class, takes: name to parameter."""
    if part.is_function:
        return _of_function(part, None)
    constructors = _constructors(part)
    return _of_function(constructors[0], part) if constructors else {}


def _of_function(
    function: griffe.Function, kind: griffe.Class | None
) -> dict[str, griffe.Parameter]:
    """`kind` is the class that is constructed, which is not always the one of the constructor."""
    parameters = list(function.parameters)
    if function.parent.is_class and "staticmethod" not in function.labels:
        parameters = parameters[1:]
    found = {
        STARRED.get(parameter.kind, "") + parameter.name: parameter for parameter in parameters
    }
    if kind is not None:
        for name, parameter in _handed_on(function, kind).items():
            found.setdefault(name, parameter)
    return found


def _handed_on(function: griffe.Function, kind: griffe.Class) -> dict[str, griffe.Parameter]:
    """What a constructor takes as ``**settings`` for ``super().__init__(..., **settings)``."""
    rest = [p.name for p in function.parameters if p.kind is griffe.ParameterKind.var_keyword]
    constructors = _constructors(kind)
    further = constructors[constructors.index(function) + 1 :]
    if not rest or not further or not function.source:
        return {}
    for call in ast.walk(ast.parse(textwrap.dedent(function.source))):
        if not isinstance(call, ast.Call) or ast.unparse(call.func) != "super().__init__":
            continue
        if any(k.arg is None and ast.unparse(k.value) == rest[0] for k in call.keywords):
            found = _of_function(further[0], kind)
            given = {k.arg for k in call.keywords} | set([*found][: len(call.args)])
            return {name: found[name] for name in found if name not in given}
    return {}


def _constructors(kind: griffe.Class) -> list[griffe.Function]:
    """Those of the class and its parents, in the order in which they call each other."""
    classes = [kind, *kind.mro()]
    return [c.members["__init__"] for c in classes if "__init__" in c.members]


def _take_perturbation(kind: griffe.Class) -> None:
    """What the metaclass of `Settings` adds to each constructor that takes a part of it."""
    constructor = kind.members.get("__init__")
    if constructor is None or not any(c.path == "xcertify.settings.Settings" for c in kind.mro()):
        return
    replaced = [p.name for p in constructor.parameters if p.name in PARTS]
    if not OF_REGIONS.intersection(replaced):
        return
    rest = [p for p in constructor.parameters if p.kind is griffe.ParameterKind.var_keyword]
    for parameter in rest:
        del constructor.parameters[parameter.name]
    type_of_it = griffe.ExprBinOp(
        griffe.ExprName("Perturbation", parent=kind.modules_collection["xcertify.perturbation"]),
        "|",
        "None",
    )
    added = griffe.Parameter(
        "perturbation",
        annotation=type_of_it,
        kind=griffe.ParameterKind.keyword_only,
        default="None",
    )
    for parameter in [added, *rest]:
        constructor.parameters.add(parameter)
    for section in _sections(kind):
        if section.kind is PARAMETERS:
            names = " and ".join(", ".join(f"`{name}`" for name in replaced).rsplit(", ", 1))
            text = f"A `Perturbation`, in the place of {names}."
            section.value.append(griffe.DocstringParameter("perturbation", description=text))


def _set_types(part: griffe.Object, section: griffe.DocstringSection) -> None:
    """One entry for each name, in the order of the signature, with the type and default there."""
    known = taken(part) if part.is_class or part.is_function else {}
    order = [*known]
    entries = []
    for group in section.value:
        for name in group.name.split(", "):
            entry = type(group)(name, description=group.description)
            parameter = known.get(name)
            if section.kind is ATTRIBUTES:
                member = part.all_members.get(name)
                of_it = member if member is not None and member.is_attribute else parameter
                entry.annotation = of_it.annotation if of_it is not None else None
            elif parameter is not None:
                entry.annotation = parameter.annotation
                entry.value = None if parameter.kind in STARRED else parameter.default
            entries.append(entry)
    section.value[:] = sorted(
        entries, key=lambda e: order.index(e.name) if e.name in known else len(order)
    )


def _set_returned(function: griffe.Function) -> None:
    """What stands under Returns is the name of a result, not its type, unless it has a dot."""
    for section in _sections(function):
        if section.kind is not griffe.DocstringSectionKind.returns:
            continue
        for entry in section.value:
            names = str(entry.annotation).strip("()")
            if not entry.name and re.fullmatch(r"[a-z_]\w*(, [a-z_]\w*)*", names):
                entry.name = names
                entry.annotation = function.returns if len(section.value) == 1 else None


# --- texts ---


def _index(pkg: griffe.Module, parts: list[griffe.Object]) -> dict[str, griffe.Object]:
    """What a name in backticks means where it is no parameter and no member: public objects."""
    exported = [p.members[str(name)] for p in parts if p.is_module for name in p.exports or ()]
    defined = [p for p in parts if p.parent is not None and p.parent.is_module and p.is_public]
    public = [p for p in [*exported, *defined] if p.is_class or p.is_function]
    found: dict[str, griffe.Object] = {}
    for part in public:
        part = part.final_target if part.is_alias else part
        found.setdefault(part.name, part)
        for name, member in part.members.items() if part.is_class else ():
            if member.is_public and not member.is_alias:
                found.setdefault(f"{part.name}.{name}", member)
    return found


def _meant(name: str, part: griffe.Object, index: dict[str, griffe.Object]) -> griffe.Object | None:
    """What a docstring means by a name: a method of its class, or what is public."""
    kind = part if part.is_class else part.parent
    if kind is not None and kind.is_class and name in kind.all_members:
        member = kind.all_members[name]
        return member.final_target if member.is_alias else member
    return index.get(name)


def _described(part: griffe.Object) -> list[griffe.DocstringSection]:
    """The sections of parameters and of attributes."""
    return [s for s in _sections(part) if s.kind in (PARAMETERS, ATTRIBUTES)]


def _entries(part: griffe.Object) -> dict[str, Any]:
    return {entry.name: entry for section in _described(part) for entry in section.value}


def _follow(part: griffe.Object, index: dict[str, griffe.Object], seen: tuple = ()) -> None:
    """Put the text of `Saliency` before each "As for `Saliency`."."""
    if part in seen or part.extra["parameters"].get("followed"):
        return
    part.extra["parameters"]["followed"] = True
    for name, entry in _entries(part).items():
        pointer = AS_FOR.match(entry.description)
        there = pointer and _meant(pointer.group(1), part, index)
        if not there:
            continue
        _follow(there, index, (*seen, part))
        found = _entries(there).get(name)
        if found is not None and found is not entry:
            text = re.split(r"\s*As for ", found.description)[0]
            entry.description = f"{text} {entry.description}".strip()


def _inherit(part: griffe.Object) -> None:
    """Add what only the parents of a class, or the method that is overridden, describe."""
    kind = part if part.is_class else part.parent
    if part.docstring is None or kind is None or not kind.is_class:
        return
    known, described = taken(part), {*_entries(part)}
    for parent in kind.mro():
        there = parent if part.is_class else parent.members.get(part.name)
        for section in _described(there) if there is not None else ():
            missing = [e for e in section.value if e.name in known and e.name not in described]
            if not missing:
                continue
            described |= {e.name for e in missing}
            own = next((s for s in _sections(part) if s.kind is section.kind), None)
            if own is None:
                own = type(section)([])
                part.docstring.parsed.insert(1, own)  # behind the text that every docstring has
            for entry in missing:
                text = f"{entry.description} As for `{parent.name}`."
                own.value.append(type(entry)(entry.name, description=text))
            _set_types(part, own)


def _link(part: griffe.Object, index: dict[str, griffe.Object]) -> None:
    """Names of public objects in backticks become links, wherever they are described."""
    near = {*taken(part)} if part.is_class or part.is_function else set()
    kind = part if part.is_class else part.parent
    near |= {*kind.all_members} if kind is not None and kind.is_class else set()

    def linked(text: str) -> str:
        lines = re.sub(r"::$", ":", text, flags=re.MULTILINE).split("\n")  # before indented code
        return "\n".join(x if x.startswith("    ") else NAMES.sub(replace, x) for x in lines)

    def replace(match: re.Match[str]) -> str:
        there = index.get(match.group(1))
        if there is None or there is part or match.group(1) in near:
            return match.group()
        return f'<autoref identifier="{there.path}" optional>{match.group()}</autoref>'

    for section in _sections(part):
        if section.kind is griffe.DocstringSectionKind.text:
            section.value = linked(section.value)
        elif isinstance(section.value, griffe.DocstringAdmonition):
            section.value.description = linked(section.value.description)
        elif section.kind is not griffe.DocstringSectionKind.examples:
            for entry in section.value:
                entry.description = linked(entry.description)
