"""The page on the command line: its commands run on its files, as they stand there."""

import re
import shlex
from pathlib import Path

import keras
import pytest

from xcertify.commands import COMMANDS, main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
# A block of commands, and the block of text right below it that says what they print.
COMMAND = re.compile(
    r"^```bash\n(xcertify .+?)^```\n(?:\n```text\n(.+?)^```\n)?", flags=re.DOTALL | re.MULTILINE
)


def written(page, language):
    return re.findall(rf"^```{language}\n(.+?)^```$", page, flags=re.DOTALL | re.MULTILINE)


def lines(block):
    """The words of each command of a block."""
    return [shlex.split(line)[1:] for line in block.replace("\\\n", " ").strip().splitlines()]


def is_as_printed(printed, page):
    """Whether a text is that of the page, where ... stands for anything, but for numbers.

    Those are of a network that is trained here, and of the time that it takes.
    """
    printed, page = (
        re.sub(r"[-+]?\d[\d.,e+-]*", "#", " ".join(x.split())) for x in (printed, page)
    )
    pattern = ".*".join(re.escape(part) for part in page.split("..."))
    return re.fullmatch(pattern, printed) is not None


def test_every_command_is_there():
    words = {line[0] for block in written(PAGE, "bash") for line in lines(block)}
    assert words | {"benchmark", "demo"} == set(COMMANDS)
    assert all(f"`xcertify {command}" in PAGE for command in COMMANDS)


@pytest.mark.filterwarnings("ignore::xcertify.usefulness.VacuousWarning")
def test_commands_run_as_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    keras.utils.clear_session()  # names of layers as in a new process
    for code in written(PAGE, "python"):
        exec(compile(code, "command-line.md", "exec"), {})
    for configuration in written(PAGE, "yaml"):
        Path("eva.yaml").write_text(configuration)
    for block, printed in COMMAND.findall(PAGE):
        capsys.readouterr()
        for words in lines(block):
            if "--help" in words:
                with pytest.raises(SystemExit) as stopped:
                    main(words)
                assert stopped.value.code == 0
            else:
                assert main(words) == 0, words
        out = capsys.readouterr().out
        assert not printed or is_as_printed(out, printed), out
