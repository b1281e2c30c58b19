"""Parse `vllm serve` arguments with vLLM's own parser and print what it understood, as JSON on the last line.

    .venv-vllm/bin/python parse_serve.py ARGUMENTS…     the values, by destination name
    .venv-vllm/bin/python parse_serve.py --flags        every option string that the parser knows

An argument that vLLM does not know, or a value that it refuses, ends it with status 2 and the parser's own message.
"""

from __future__ import annotations

import json
import sys

from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.utils.argparse_utils import FlexibleArgumentParser


def main(arguments: list[str]) -> None:
    parser = make_arg_parser(FlexibleArgumentParser(prog="vllm serve"))
    if arguments == ["--flags"]:
        known: object = sorted(flag for action in parser._actions for flag in action.option_strings)
    else:
        namespace = parser.parse_args(arguments)
        validate_parsed_serve_args(namespace)
        known = {name: value for name, value in vars(namespace).items() if _plain(value)}
    sys.stdout.write(json.dumps(known) + "\n")


def _plain(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


if __name__ == "__main__":
    main(sys.argv[1:])
