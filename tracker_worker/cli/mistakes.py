# SPDX-License-Identifier: Apache-2.0
"""What is wrong in a configuration, as one sentence that names the option or the file and holds no piece of a secret."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from oslo_config import cfg

# oslo.config's sentence about a value, which holds a representation of an object of its own.
_BAD_VALUE = re.compile(
    r"Value for option (?P<option>\S+) from LocationInfo\(.*?detail='(?P<place>[^']*)'\) is not valid: (?P<reason>.*)"
)
# argparse's sentence about the value of an option that might also be given on a command line.
_BAD_CLI_VALUE = re.compile(r"argument --(?P<option>\S+): (?P<reason>.*)")
# The end of the sentence about a line that cannot be parsed: the line itself, which may hold a password.
_LINE_CONTENTS = re.compile(r"(:\d+, (?:[^:]|:(?! ))*): .*$")


def explain(error: BaseException, files: Iterable[str], directories: Iterable[str]) -> str:
    """The sentence for ``error``, with which reading these configuration files and directories has failed."""
    if isinstance(error, UnicodeDecodeError):
        broken = next(_undecodable(files, directories), "a configuration file")
        return f"the configuration file {broken} is no text in UTF-8"
    if isinstance(error, OSError):
        return f"the configuration file {error.filename} cannot be read: {error.strerror}"
    text = " ".join(str(error).split())
    if isinstance(error, cfg.ConfigFileParseError):
        return _LINE_CONTENTS.sub(r"\1", text)
    if isinstance(error, cfg.TemplateSubstitutionError | cfg.NoSuchOptError):
        # What follows the $ may be a piece of a password.
        return "a value has a $, which stands for the value of another option: write $$ for $"
    return explain_text(text)


def explain_text(text: str) -> str:
    """What oslo.config says about a value, without the representation of objects of its own."""
    text = " ".join(text.split())
    if (value := _BAD_VALUE.fullmatch(text)) is not None:
        return f"the value of {value['option']} in {value['place']} is not valid: {value['reason']}"
    if (value := _BAD_CLI_VALUE.search(text)) is not None:
        return f"the value of {value['option']} is not valid: {value['reason']}"
    return text


def _undecodable(files: Iterable[str], directories: Iterable[str]) -> Iterator[str]:
    if not files and not directories:
        files, directories = cfg.find_config_files("tracker-worker"), cfg.find_config_dirs("tracker-worker")
    for path in [*map(Path, files), *(found for name in directories for found in sorted(Path(name).glob("*.conf")))]:
        if path.is_file():  # a pipe can be read only once
            try:
                path.read_text()
            except UnicodeDecodeError:
                yield str(path)
