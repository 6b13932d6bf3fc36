"""Options that the command line once had, answered by what to write now."""

from __future__ import annotations

from collections.abc import Sequence

_OF_RUNS = {
    "--figure": "every run writes a picture of its maps, maps.png, into the folder of --output",
    "--no-certify": "write xcertify explain for maps, and xcertify certify for certificates",
    "--verifier": "write --method",
}
_OF_COMMANDS = {
    "explain": _OF_RUNS,
    "certify": _OF_RUNS,
    "benchmark": {"--methods": "write --explainers"},
}
_FILES = (".npz", ".npy")  # that --output once named
_EXPLAINERS = ("eva", "evahybrid", "sufficientreason")  # that --method once named


def refuse_old_words(command: str, words: Sequence[str]) -> None:
    """Refuse what the command line once had.

    Raises
    ------
    ValueError
        With what to write now.
    """
    old = _OF_COMMANDS.get(command, {})
    for place, word in enumerate(words):
        option, equals, value = word.partition("=")
        if not equals:
            value = words[place + 1] if place + 1 < len(words) else ""
        if option in old:
            raise ValueError(f"{option} is no longer an option of {command}: {old[option]}")
        if old is not _OF_RUNS:
            continue
        if option == "--output" and value.endswith(_FILES):
            raise ValueError(
                f"output is a folder now, with maps and one row for each input: write "
                f"--output {value.rpartition('.')[0]}. Received: {value}"
            )
        if option == "--method" and value.replace("-", "").lower() in _EXPLAINERS:
            raise ValueError(f"method is how bounds are made: write --explainer {value}")
