"""A settings file as the program uses it: checked by `scaler.config`, and by everything that is built from it.

A selector that no query can be made of, or a header that no request can carry, is found before anything starts and told
with its place. It asks nobody.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from scaler.adapters.connections import connection_of, selector_of
from scaler.config import Config, read_config
from scaler.config.document import Node, read_document
from scaler.errors import ConfigError, ConfigIssue


def read_settings(path: Path) -> Config:
    """The configuration at `path`. Raises `ConfigError` with every problem that was found."""
    config = read_config(path)
    issues = list(_issues(config))
    if issues:
        raise ConfigError(issues, files=config.files)
    return config


def _issues(config: Config) -> Iterator[ConfigIssue]:
    refused: list[tuple[tuple[str | int, ...], str]] = []
    try:
        connection_of(config.prometheus)
    except ValueError as error:
        refused.append((("prometheus",), str(error)))
    for index, policy in enumerate(config.fleet.workloads):
        try:
            selector_of(config, policy)
        except ValueError as error:
            refused.append((("workloads", index, "selector"), str(error)))
    refused += _of_servers(config)
    if refused:
        root = read_document(config.path, str(config.path))
        yield from (_placed(root, steps, text) for steps, text in refused)


def _of_servers(config: Config) -> list[tuple[tuple[str | int, ...], str]]:
    """Servers that cannot be started as they are described."""
    if not config.local.servers:
        return []
    from scaler.adapters.local_vllm import problem_of  # lazy: a daemon of a cluster needs none of it

    problems = ((index, problem_of(entry, config.local)) for index, entry in enumerate(config.local.servers))
    return [(("local", "servers", index), text) for index, text in problems if text]


def _placed(root: Node, steps: tuple[str | int, ...], text: str) -> ConfigIssue:
    """A refusal at the key that its text names; where that stands in `defaults`, there."""
    node = nearest(root, steps)
    if steps[0] == "workloads" and node is nearest(root, steps[:2]):
        node = nearest(root, ("defaults", *steps[2:]))
    setting = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".")
    named = next((word for word in re.findall(r"\w+", text) if node.child(word) is not None), None)
    if named is not None:
        node, setting = nearest(node, (named,)), f"{setting}.{named}"
    place = node.place
    return ConfigIssue(file=place.file, line=place.line, column=place.column, setting=setting, text=text)


def nearest(root: Node, steps: tuple[str | int, ...]) -> Node:
    """The node at the end of these steps, or the last one on the way that is there."""
    node = root
    for step in steps:
        child = node.child(step)
        if child is None:
            return node
        node = child
    return node
