"""The reference on the site says what the code says: parameters, types and defaults."""

import ast
import importlib
import inspect
import json
import re
import sys
from collections import ChainMap
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
griffe = pytest.importorskip("griffe", reason="reads the docstrings; it comes with the extra docs")
mkdocs = pytest.importorskip("mkdocs.commands.build", reason="it comes with the extra docs")
bs4 = pytest.importorskip("bs4", reason="reads the pages; it comes with the extra docs")


@dataclass
class Entry:
    """What a page says of a parameter, attribute or result; `default` is None if there is none."""

    name: str
    type: str | None = None
    default: str | None = None
    section: str = "Parameters:"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages of the API, built as the site is, without the others."""
    from mkdocs.config import load_config
    from mkdocs.utils import yaml_load

    folder = tmp_path_factory.mktemp("site")
    plugins = yaml_load((ROOT / "mkdocs.yml").read_text())["plugins"]
    needed = [p for p in plugins if {"search", "mkdocstrings"} & set([p] if p == "search" else p)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        config = load_config(
            str(ROOT / "mkdocs.yml"),
            site_dir=str(folder),
            exclude_docs="*\n!api/**",
            hooks=[],
            nav=None,
            plugins=needed,
            strict=False,  # links to the other pages are not found
        )
        mkdocs.build(config)
    return folder


def entries_of(html):
    """All of a page: path of the object to entries, one list for each object with a heading."""
    found, path, title = {}, None, None
    for tag in bs4.BeautifulSoup(html, "html.parser").find_all(["h1", "h2", "h3", "span", "li"]):
        kinds = tag.get("class") or ()
        if "doc-heading" in kinds:
            path, title = tag["id"], None
            found[path] = []
        elif "doc-section-title" in kinds:
            title = tag.get_text()
        elif "doc-section-item" in kinds and title in ("Parameters:", "Attributes:", "Returns:"):
            name = tag.find("b", recursive=False)
            codes = [code.get_text() for code in tag.find_all("code", recursive=False)]
            found[path].append(Entry(name and name.get_text(), *codes, section=title))
    return found


def differences(path, entries):
    """Sentences about what a page says of an object and the code does not, or the other way."""
    owner, part = resolved(path)
    is_method = inspect.isclass(owner) and not isinstance(part, staticmethod)
    part = getattr(part, "__func__", part)
    is_error = inspect.isclass(part) and issubclass(part, Exception)
    if is_error or not (inspect.isclass(part) or inspect.isfunction(part)):
        return []
    results = [entry for entry in entries if entry.section == "Returns:" and entry.name]
    entries = [entry for entry in entries if entry.section != "Returns:"]
    known = signature_of(part, is_method)
    names = {entry.name for entry in entries}
    told = [problem for entry in entries for problem in wrong(part, entry, known)]
    if len(results) == 1:
        told += wrong(part, results[0], returned(part, results[0].name))
    if entries or not is_method:  # of a method one sentence may say it all
        told += [f"{name} is not described" for name in known if name not in names]
    return [f"{path}: {problem}" for problem in told]


def wrong(part, entry, known):
    """What is not right about one entry."""
    stated, default = known.get(entry.name, (None, inspect.Parameter.empty))
    if entry.name not in known and inspect.isclass(part):
        stated = attribute_type(part, entry.name)
    if entry.name not in known and stated is None:
        yield f"{entry.name} is described and is no parameter, and no attribute with a type"
        return
    if entry.type is None or plain(entry.type) != plain(stated):
        yield f"{entry.name} is {stated}, not {entry.type}"
    if entry.section == "Attributes:" or (
        entry.default is None and default is inspect.Parameter.empty
    ):
        return
    if entry.default is None or not same_value(part, entry, default):
        yield f"{entry.name} is {default!r} by default, not {entry.default}"


def signature_of(part, is_method):
    """Name to (type, default) of all that a function or constructor takes, handed on or not."""
    signatures = [inspect.signature(part)]
    if inspect.isclass(part):
        own = [
            inspect.signature(vars(c)["__init__"]) for c in part.__mro__ if "__init__" in vars(c)
        ]
        signatures += [without_first(signature) for signature in own]
    elif is_method:
        signatures = [without_first(signatures[0])]
    found = {}
    for signature in signatures:
        rest = False
        for p in signature.parameters.values():
            rest |= p.kind is p.VAR_KEYWORD
            stars = {p.VAR_KEYWORD: "**", p.VAR_POSITIONAL: "*"}.get(p.kind, "")
            if not (inspect.isclass(part) and stars == "**"):
                found.setdefault(stars + p.name, (p.annotation, p.default))
        if not rest:
            break
    return found


def returned(function, name):
    """As `signature_of`, of the one result."""
    signature = inspect.signature(function)
    return {name: (signature.return_annotation, inspect.Parameter.empty)}


def without_first(signature):
    return signature.replace(parameters=[*signature.parameters.values()][1:])


def attribute_type(kind, name):
    """The annotation of an attribute or property, of the class or its parents; else None."""
    for c in kind.__mro__:
        if name in vars(c).get("__annotations__", {}):
            return vars(c)["__annotations__"][name]
        if isinstance(vars(c).get(name), property):
            return inspect.signature(vars(c)[name].fget).return_annotation
    return None


def same_value(part, entry, default):
    """Whether the words of a page give the default, where the parameter is defined."""
    modules = [sys.modules[c.__module__] for c in getattr(part, "__mro__", [part])]
    value = eval(entry.default, {}, ChainMap(*map(vars, modules)))
    if is_dataclass(part):
        factories = {f.name: f.default_factory for f in fields(part)}
        if factories.get(entry.name, MISSING) is not MISSING:
            default = factories[entry.name]()
    return value is default or (type(value) is type(default) and repr(value) == repr(default))


def plain(annotation):
    """A type as it is written."""
    if isinstance(annotation, str):
        return ast.unparse(ast.parse(annotation))
    return getattr(annotation, "__forward_arg__", inspect.formatannotation(annotation))


def resolved(path):
    """The owner and the object that a path such as xcertify.regions.Ball.describe names."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        try:
            owner, part = None, importlib.import_module(".".join(parts[:end]))
            break
        except ModuleNotFoundError:
            continue
    for name in parts[end:]:
        look_up = inspect.getattr_static if inspect.isclass(part) else getattr
        owner, part = part, look_up(part, name)
    return owner, part


def test_the_reference_says_what_the_code_says(site):
    pages = [path.read_text() for path in sorted((site / "api").rglob("index.html"))]
    found = {path: entries for page in pages for path, entries in entries_of(page).items()}
    assert sum(map(len, found.values())) > 500
    assert not [told for path, entries in found.items() for told in differences(path, entries)]


def test_all_that_is_public_is_in_the_reference(site):
    text = "".join(path.read_text() for path in (ROOT / "docs" / "api").glob("*.md"))
    pages = "".join(path.read_text() for path in (site / "api").rglob("index.html"))
    missing = []
    for name in re.findall(r"^::: (\S+)$", text, flags=re.MULTILINE):
        _, module = resolved(name)
        for public in getattr(module, "__all__", ()):
            part = getattr(module, public)
            places = f"{name}.{public}", f"{part.__module__}.{public}" if callable(part) else ""
            is_there = any(f'id="{path}" class="doc doc-heading"' in pages for path in places)
            if (inspect.isclass(part) or inspect.isfunction(part)) and not is_there:
                missing.append(f"{name}.{public}")
    assert not missing


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ([Entry("tau", "Any"), Entry("measure", "str", "'l2_ratio'")], []),
        ([Entry("tau", "Any"), Entry("measure", "str", "'mse'")], ["measure is 'l2_ratio' by"]),
        ([Entry("tau", "Any"), Entry("measure", "str")], ["measure is 'l2_ratio' by default"]),
        ([Entry("tau", "Any", "1"), Entry("measure", "str", "'l2_ratio'")], ["tau is <class"]),
        ([Entry("tau", "int"), Entry("measure", None, "'mse'")], ["tau is", "measure", "measure"]),
        ([Entry("tau", "Any")], ["measure is not described"]),
        (
            [Entry("tau", "Any"), Entry("measure", "str", "'l2_ratio'"), Entry("k")],
            ["k is described and is no parameter"],
        ),
    ],
)
def test_what_is_wrong_is_found(entries, told):
    found = differences("xcertify.criteria.Within", entries)
    assert len(found) == len(told)
    assert all(words in sentence for words, sentence in zip(told, found))


SAMPLE = '''
from dataclasses import dataclass
import numpy as np


class Parent:
    """A parent.

    Parameters
    ----------
    model
        What is looked at.
    size, share
        How much of it.
    """

    def __init__(self, model: object, size: int = 3, share: float = 0.5) -> None: ...

    def find(self, place: np.ndarray, depth: int = 1) -> int:
        """Find it.

        Parameters
        ----------
        place, depth
            Where.
        """


class Child(Parent):
    """A child of `Parent`.

    Parameters
    ----------
    size, model
        As for `Parent`.
    name
        Of its own.
    """

    def __init__(self, name: str = "a", **settings: object) -> None:
        super().__init__(share=0.1, **settings)

    def find(self, place: np.ndarray, depth: int = 2) -> int:
        """See `Parent`."""


@dataclass
class Found:
    """What was found.

    Attributes
    ----------
    low, high
        Limits.
    """

    low: float
    high: np.ndarray


@dataclass
class FoundToo(Found):
    """More of it.

    Attributes
    ----------
    count
        How often.
    """

    count: int = 0
'''


def test_each_name_of_a_group_has_its_own_type_default_and_text(tmp_path):
    (tmp_path / "sample.py").write_text(SAMPLE)
    extensions = griffe.load_extensions("dataclasses", str(ROOT / "docs/griffe_parameters.py"))
    options = {"extensions": extensions, "search_paths": [tmp_path], "docstring_parser": "numpy"}
    sample = griffe.load("sample", docstring_options={"warnings": False}, **options)

    def entries(path):
        _, section = sample[path].docstring.parsed
        return [
            (
                e.name,
                str(e.annotation),
                e.value and str(e.value),
                re.sub("<.*?>", "", e.description),
            )
            for e in section.value
        ]

    assert entries("Parent") == [
        ("model", "object", None, "What is looked at."),
        ("size", "int", "3", "How much of it."),
        ("share", "float", "0.5", "How much of it."),
    ]
    assert entries("Child") == [
        ("name", "str", "'a'", "Of its own."),
        ("model", "object", None, "What is looked at. As for `Parent`."),
        ("size", "int", "3", "How much of it. As for `Parent`."),
    ]
    assert entries("Child.find") == [
        ("place", "np.ndarray", None, "Where. As for `Parent`."),
        ("depth", "int", "2", "Where. As for `Parent`."),
    ]
    assert entries("FoundToo") == [
        ("low", "float", None, "Limits. As for `Found`."),
        ("high", "np.ndarray", None, "Limits. As for `Found`."),
        ("count", "int", None, "How often."),
    ]
    assert 'A child of <autoref identifier="sample.Parent" optional>`Parent`</autoref>.' in str(
        sample["Child"].docstring.parsed[0].value
    )


def test_words_inside_code_are_found(site):
    index = json.loads((site / "search" / "search_index.json").read_text())
    separator = re.compile(index["config"]["separator"])
    assert {"certify", "images"} <= set(separator.split("explainer.certify(images)"))
    titles = {e["location"]: separator.split(e["title"]) for e in index["docs"]}
    for words, page in [
        (["EVA", "certify"], "explainers"),
        (["epsilon"], "usefulness"),
        (["plot", "attributions"], "plots"),
    ]:
        assert any(set(words) <= set(t) for place, t in titles.items() if f"/{page}/" in place)
