"""What a command is told, by words, environment variables or a configuration file."""

from __future__ import annotations

import argparse
import math
import os
import re
from argparse import SUPPRESS, Namespace
from collections.abc import Iterable, Sequence
from typing import Any

import jsonargparse
import yaml

from xcertify.commands.files import check_file
from xcertify.commands.signatures import Setting, meaning, option_of, placeholder

MODE = "xcertify"  # how values are read: as YAML, with inf and none as one writes them
_SEVERAL_WORDS = (list[str], list[str] | None)  # types of options
_CONSTANTS = {"none": None, "inf": math.inf, "infinity": math.inf, "-inf": -math.inf}


class CommandLine:
    """The options of one command, and what was said of them.

    What is not among the words comes from the environment (``XCERTIFY_CERTIFY_EPSILON``), what is
    not there from the file that ``--config`` names, and the rest is left at its default.

    Parameters
    ----------
    command
        Its name.
    words
        What follows the name.
    usage, description, example
        For ``--help``.

    Raises
    ------
    ValueError, OSError
        For a configuration file that is not there or cannot be read.
    """

    def __init__(
        self,
        command: str,
        words: Sequence[str],
        usage: str = "[options]",
        description: str = "",
        example: str = "",
    ) -> None:
        self.command = command
        self.subject = command  # whose options they are, in messages
        self.words = as_spelled(words)
        self.asks_for_help = bool({"-h", "--help"} & set(self.words))
        self._prefix = f"XCERTIFY_{command.upper()}"
        self._config: dict[str, Any] = {}
        config = self.said("config")
        if config is not None:
            check_file(config)
            self._config = _configuration(config)
        self._types: dict[str, Any] = {}
        self._needed: dict[str, str] = {}
        self._parser = jsonargparse.ArgumentParser(
            prog=f"xcertify {command}",
            usage=f"xcertify {command} {usage}",
            description=description,
            epilog=f"Each option may also be an environment variable, {self._prefix}_ and its name "
            f"in capitals,\nor stand in the file of --config.\n\nexample:\n  {example}",
            formatter_class=_Format,
            exit_on_error=False,
            allow_abbrev=False,
            default_env=True,
            env_prefix=self._prefix,
            parser_mode=MODE,
            default_config_files=[] if config is None else [config],
        )
        self.add("--config", type=str, metavar="FILE", help="YAML or JSON with any of the options")

    def said(self, name: str) -> Any:
        """What is said of one option, before all of them are known; None: nothing."""
        values = self.said_words(name)
        return values[0] if values else None

    def said_words(self, name: str) -> list[Any]:
        """The same of an option that takes several words."""
        first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        first.add_argument(option_of(name), dest="value", nargs="+")
        try:
            value = first.parse_known_args(self.words)[0].value
        except argparse.ArgumentError as error:
            raise ValueError(str(error)) from None
        if value is None:
            value = os.environ.get(f"{self._prefix}_{name.upper()}")
            value = self._config.get(name) if value is None else _values(value)
        if value is None or isinstance(value, list):
            return value or []
        return [value]

    def add(
        self, word: str, *, type: Any, group: Any = None, needed: bool = False, **options: Any
    ) -> None:
        """An option, or a positional argument, which may be said elsewhere as well.

        Parameters
        ----------
        word
            ``--grid-size``, or ``model`` for a positional argument.
        type
            As `Setting.type`.
        group
            Of `group`.
        needed
            Whether it must be said.
        options
            For argparse.
        """
        name = word.lstrip("-").replace("-", "_")
        self._types[name] = type
        if needed:
            self._needed[name] = f"{word} {options['metavar']}" if word[0] == "-" else word.upper()
        if type is bool:
            options["action"] = jsonargparse.ActionYesNo(yes_prefix="", no_prefix="no-")
        elif type in _SEVERAL_WORDS:  # several words, and no comma between them
            options |= {"nargs": "+", "type": str}
        else:
            options["type"] = type
        if not word.startswith("-"):
            options |= {"nargs": "?", "default": SUPPRESS}
        default = options.get("default")
        default = " ".join(default) if isinstance(default, list) else default
        if default not in (None, "", SUPPRESS, False, True):
            options["help"] += f" (default: {default})"
        options["help"] = options["help"].replace("%", "%%")
        (group or self._parser).add_argument(word, **options)

    def group(self, title: str) -> Any:
        """Options that the help shows together."""
        return self._parser.add_argument_group(title)

    def add_settings(self, title: str, settings: Iterable[Setting]) -> None:
        """Options for arguments of a constructor."""
        group = self.group(title)
        for setting in settings:
            options: dict[str, Any] = {}
            if setting.is_required:
                options["required"] = True
            else:
                options["default"] = setting.default
            if setting.type is not bool:
                options["metavar"] = placeholder(setting.type)
            self.add(setting.option, type=setting.type, group=group, help=setting.help, **options)

    def read(self) -> Namespace:
        """Values of all options.

        Raises
        ------
        ValueError
            For unknown words and values of another type, in one sentence.
        """
        try:
            said = self._parser.parse_args(self.words).as_dict()
        except argparse.ArgumentError as error:
            raise ValueError(self._sentence(str(error))) from None
        said.pop("__default_config__", None)
        for name, value in said.items():
            if self._types.get(name) in _SEVERAL_WORDS:
                said[name] = _as_words(value)
            elif isinstance(value, dict):  # as of --of-settings.nb-samples 5
                said[name] = {str(key).replace("-", "_"): one for key, one in value.items()}
        for name, word in self._needed.items():
            if said.get(name) is None:
                raise ValueError(f"{self.command} needs {word}: see xcertify {self.command} --help")
        return Namespace(**said)

    def _sentence(self, message: str) -> str:
        """What jsonargparse says, as one sentence with the words of the command line."""
        key = re.match(r'Parser key "(\w+)"', message)
        value = re.findall(r"(?:Got|Given) value: (.*)", message)
        if key and value and self._types.get(key[1]) is not None:
            wanted = meaning(self._types[key[1]])
            return f"{option_of(key[1])} takes {wanted}. Received: {value[-1]}"
        unknown = re.match(r"unrecognized arguments: (.*)", message)
        if unknown:
            return f"{self._unknown(unknown[1])}: see xcertify {self.command} --help"
        unknown = re.match(r"Option '([^']*)' is not accepted", message)
        if unknown:
            return f"the configuration file has the unknown option {unknown[1]!r}"
        missing = re.match(r"the following arguments are required: (.*)", message)
        if missing:
            return f"{self.subject} needs {option_of(missing[1])}"
        return " ".join(message.split())

    def _unknown(self, words: str) -> str:
        if not words.startswith("-"):
            first = words.split()[0]
            before = self.words[max(0, self.words.index(first) - 1)]
            if first.lower() in ("true", "false") and before.startswith("--"):
                return f"{before} takes no {first}: write {before} or --no-{before[2:]}"
            return f"{self.command} does not take the words {words}"
        return f"{self.subject} has no setting {words.split()[0].partition('=')[0]}"


def _configuration(path: str) -> dict[str, Any]:
    """What a configuration file says.

    Raises
    ------
    ValueError
        If it is no YAML or JSON, or not options with their values.
    """
    try:
        with open(path, encoding="utf-8") as file:
            content = _values(file.read())
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is neither YAML nor JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must have lines such as epsilon: 0.02. Received: {content!r}")
    return content


def as_spelled(words: Sequence[str]) -> list[str]:
    """Words as the parser takes them.

    Options may have underscores as in Python (``--grid_size``), and numbers that follow an option
    are one list (``--clip 0 1`` is ``--clip "[0, 1]"``).
    """
    spelled: list[str] = []
    numbers: list[str] = []
    for word in [*words, None]:
        if word is not None and numbers and _is_number(word):
            numbers.append(word)
            continue
        if len(numbers) > 2:  # the option and more than one
            spelled.append(f"[{', '.join(numbers[1:])}]")
        else:
            spelled += numbers[1:]
        numbers = []
        if word is None:
            break
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            word = name.replace("_", "-") + equals + value
            numbers = [] if equals else [word]
        spelled.append(word)
    return spelled


def _as_words(value: list[str] | None) -> list[str] | None:
    """Words, also those that were given as one list: ``[age, income]``."""
    if value and len(value) == 1 and value[0].startswith("["):
        return [str(word) for word in _values(value[0])]
    return value


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _values(text: str) -> Any:
    """The value of a text in YAML, with ``inf``, ``none`` and hyphens in names of options."""
    if "*" in text and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
        raise yaml.YAMLError("it has aliases (*name), which are not taken: write each value out")
    found = jsonargparse.get_loader("yaml")(text)
    if isinstance(found, dict):
        found = {str(name).replace("-", "_"): value for name, value in found.items()}
    return _with_constants(found)


def _with_constants(value: Any) -> Any:
    if isinstance(value, str):
        return _CONSTANTS.get(value.strip().lower(), value)
    if isinstance(value, list):
        return [_with_constants(part) for part in value]
    if isinstance(value, dict):
        return {name: _with_constants(part) for name, part in value.items()}
    return value


class _Format(argparse.RawDescriptionHelpFormatter):
    """Descriptions and examples as they are written."""


jsonargparse.set_loader(MODE, _values, exceptions=(yaml.YAMLError,))
