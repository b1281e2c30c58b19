"""Parse `vllm serve` argument lists with vLLM's own parser and say what it understood.

    echo '[["MODEL", "--port", "8000"], …]' | .venv-vllm/bin/python parse_serve.py

Prints one JSON object a list on the last line of standard output: the values by destination name, or
`{"refused": …}` with the parser's own message for an unknown flag or a value that vLLM does not take.
One process for all lists, because importing vLLM takes several seconds.
"""

from __future__ import annotations

import json
import sys
from typing import NoReturn

from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.utils.argparse_utils import FlexibleArgumentParser


class Refused(Exception):
    """The parser's message, raised where argparse would end the process."""


class TalkingParser(FlexibleArgumentParser):
    """vLLM's parser, with an error that can be reported."""

    def error(self, message: str) -> NoReturn:
        raise Refused(message)


def understood(arguments: list[str]) -> dict[str, object]:
    """Every plain value of the parsed namespace, or why there is none."""
    try:
        namespace = make_arg_parser(TalkingParser(prog="vllm serve", allow_abbrev=False)).parse_args(arguments)
        validate_parsed_serve_args(namespace)
    except (Refused, TypeError, ValueError) as error:
        return {"refused": str(error)}
    return {name: value for name, value in vars(namespace).items() if _plain(value)}


def _plain(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


if __name__ == "__main__":
    sys.stdout.write(json.dumps([understood(arguments) for arguments in json.load(sys.stdin)]) + "\n")
