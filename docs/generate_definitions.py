"""Writes `xcertify/definitions.json.gz`: definitions of nouns, their kinds, and synonyms.

    python docs/generate_definitions.py /usr/share/wordnet

From WordNet 3.0, as Debian's package wordnet-base installs it. Definitions are short, of four kinds
of nouns. A synonym of a word is another one in a set of synonyms that is among the first meanings
of both; they are ordered by how common they are.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

TARGET = Path(__file__).parents[1] / "xcertify" / "definitions.json.gz"
KINDS = {"05": "animal", "13": "food", "20": "plant", "18": "person"}
NB_EACH, LONGEST = 900, 12  # definitions of each kind, and words of a definition
FEWEST = 3  # times that a word occurs
NB_MEANINGS = 3  # of a word that count
COMMON = 12  # times that all of WordNet uses a synonym
MOST = 5  # synonyms of a word, those of the most common meanings
PARTS = ("noun", "verb", "adj", "adv")
OFFENSIVE = re.compile(r"offensive|derogat|disparag|ethnic|slur|slave|prostitut|contempt|caste")
FUNCTION_WORDS = re.compile(
    "an?|and|any|as|at|be|by|for|from|get|have|having|he|in|is|it|like|more|no|of|on|one|or|out|"
    "over|so|than|that|the|to|two|up|with|who"
)

LICENCE = (
    "WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved. Permission to use, "
    "copy, modify and distribute this software and database and its documentation for any purpose "
    "and without fee or royalty is hereby granted, provided that you agree to comply with the "
    "following copyright notice and statements, including the disclaimer, and that the same appear "
    "on ALL copies of the software, database and documentation, including modifications that you "
    'make for internal use or for distribution. THIS SOFTWARE AND DATABASE IS PROVIDED "AS IS" '
    "AND PRINCETON UNIVERSITY MAKES NO REPRESENTATIONS OR WARRANTIES, EXPRESS OR IMPLIED. BY WAY "
    "OF EXAMPLE, BUT NOT LIMITATION, PRINCETON UNIVERSITY MAKES NO REPRESENTATIONS OR WARRANTIES "
    "OF MERCHANTABILITY OR FITNESS FOR ANY PARTICULAR PURPOSE OR THAT THE USE OF THE LICENSED "
    "SOFTWARE, DATABASE OR DOCUMENTATION WILL NOT INFRINGE ANY THIRD PARTY PATENTS, COPYRIGHTS, "
    "TRADEMARKS OR OTHER RIGHTS. The name of Princeton University or Princeton may not be used in "
    "advertising or publicity pertaining to distribution of the software and/or database. Title to "
    "copyright in this software, database and any associated documentation shall at all times "
    "remain with Princeton University and LICENSEE agrees to preserve same."
)


def definitions(folder: Path) -> list[tuple[str, str]]:
    """Kind and definition of nouns, as many of each kind."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in _lines(folder / "data.noun"):
        kind = KINDS.get(line.split(" ", 2)[1])
        text = line.split("| ", 1)[1].split(";")[0].split('"')[0].strip().lower()
        words = re.findall(r"[a-z]+", text)
        if OFFENSIVE.search(line):
            continue
        if kind and 4 <= len(words) <= LONGEST and re.fullmatch(r"[a-z' ,\-]+", text):
            found[kind].append(" ".join(words))
    generator = np.random.default_rng(0)
    return [
        (kind, text)
        for kind in KINDS.values()
        for text in sorted(generator.permutation(sorted(set(found[kind])))[:NB_EACH].tolist())
    ]


def common_words(folder: Path) -> set[str]:
    """Words that many definitions and examples use."""
    counts: Counter[str] = Counter()
    for kind in PARTS:
        for line in _lines(folder / f"data.{kind}"):
            counts.update(re.findall(r"[a-z]+", line.split("| ", 1)[1].lower()))
    return {word for word, count in counts.items() if count >= COMMON}


def synonyms(folder: Path, words: set[str]) -> dict[str, list[str]]:
    """Common words that have one of their first meanings in common with another word."""
    common = common_words(folder)
    members: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
    for kind in PARTS:
        for line in _lines(folder / f"index.{kind}"):
            word, _, count, *_ = parts = line.split()
            if word.isalpha() and len(word) > 2 and not FUNCTION_WORDS.fullmatch(word):
                for rank, meaning in enumerate(parts[-int(count) :][:NB_MEANINGS]):
                    members[kind, meaning].append((rank, word))
                    if kind == "noun" and not word.endswith(("s", "x", "z", "ch", "sh", "y")):
                        members["plural", meaning].append((rank, f"{word}s"))
    found: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for group in members.values():
        for rank, word in group:
            if word in words:
                others = [(rank + other, name) for other, name in group if name != word]
                found[word] += [pair for pair in others if pair[1] in common]
    ordered = {word: [name for _, name in sorted(others)] for word, others in found.items()}
    return {
        word: [*dict.fromkeys(names)][:MOST] for word, names in sorted(ordered.items()) if names
    }


def _lines(path: Path) -> list[str]:
    """Those of a file of WordNet behind its licence, which is indented."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("  ")]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    texts = definitions(folder)
    counts = Counter(word for _, text in texts for word in text.split())
    known = {word for word, count in counts.items() if count >= FEWEST}
    found = {"licence": LICENCE, "texts": texts, "synonyms": synonyms(folder, known)}
    TARGET.write_bytes(gzip.compress(json.dumps(found).encode(), mtime=0))
    print(f"{len(texts)} definitions, {len(found['synonyms'])} words with synonyms")
