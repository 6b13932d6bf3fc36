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

from xcertify.commands.loading import check_file
from xcertify.commands.signatures import Setting, meaning, option_of, placeholder

MODE = "xcertify"  # how values are read: as YAML, with inf and none as one writes them
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
        self.words = as_spelled(words)
        self.asks_for_help = bool({"-h", "--help"} & set(self.words))
        self._prefix = f"XCERTIFY_{command.upper()}"
        self._config: dict[str, Any] = {}
        config = self.said("config")
        if config is not None:
            check_file(config)
            self._config = _configuration(config)
        self._types: dict[str, Any] = {}
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
        first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        first.add_argument(option_of(name), dest="value")
        try:
            value = first.parse_known_args(self.words)[0].value
        except argparse.ArgumentError as error:
            raise ValueError(str(error)) from None
        if value is None:
            value = os.environ.get(f"{self._prefix}_{name.upper()}", self._config.get(name))
        return value

    def add(self, *names: str, type: Any = None, group: Any = None, **options: Any) -> None:
        """An option, or a positional argument, which may be said elsewhere as well."""
        if type is bool:
            options["action"] = jsonargparse.ActionYesNo(yes_prefix="", no_prefix="no-")
        elif type is not None:
            options["type"] = type
        if not names[0].startswith("-"):
            options |= {"nargs": "?", "default": SUPPRESS}
        default = options.get("default")
        if options.get("help") and default not in (None, SUPPRESS, False, [], "") and names:
            options["help"] += f" (default: {default})"
        options["help"] = (options.get("help") or "").replace("%", "%%")
        self._types[names[0].lstrip("-").replace("-", "_")] = type
        (group or self._parser).add_argument(*names, **options)

    def group(self, title: str) -> Any:
        """Options that the help shows together."""
        return self._parser.add_argument_group(title)

    def add_settings(self, title: str, settings: Iterable[Setting]) -> None:
        """Options for arguments of a constructor."""
        group = self.group(title)
        for setting in settings:
            options: dict[str, Any] = {"required": True} if setting.is_required else {}
            if not setting.is_required:
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
        return Namespace(**said)

    def need(self, said: Namespace, *names: str) -> None:
        """Refuse to go on without some of the options.

        Raises
        ------
        ValueError
            Naming the first one that nothing is said of.
        """
        for name in names:
            if getattr(said, name, None) is None:
                word = name.upper() if self._is_positional(name) else f"{option_of(name)} ..."
                raise ValueError(
                    f"{self.command} needs {word}: see xcertify {self.command} --help"
                )

    def _is_positional(self, name: str) -> bool:
        return any(a.dest == name and not a.option_strings for a in self._parser._actions)

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
            return f"{self.command} needs {option_of(missing[1])}"
        return " ".join(message.split())

    def _unknown(self, words: str) -> str:
        return f"{self.command} has no option {words}"


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
    except (UnicodeDecodeError, *_yaml_errors()) as error:
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


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _values(text: str) -> Any:
    """The value of a text in YAML, with ``inf``, ``none`` and hyphens in names of options."""
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


def _yaml_errors() -> tuple[type[Exception], ...]:
    import yaml

    return (yaml.YAMLError,)


class _Format(argparse.RawDescriptionHelpFormatter):
    """Descriptions and examples as they are written."""


jsonargparse.set_loader(MODE, _values, exceptions=_yaml_errors())
