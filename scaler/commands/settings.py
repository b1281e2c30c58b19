"""`validate` and `schema`: a settings file checked and described, with nothing started.

What is wrong with the file decides `validate`'s exit code. What servers say of it, unless it is offline, is told beside
it: a file is right before its cluster is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from scaler.commands.printing import Output, put, put_json, say
from scaler.config import Config
from scaler.errors import ConfigError, ConfigIssue

if TYPE_CHECKING:
    from forecaster.sources.promql import Query
    from forecaster.sources.selector import WorkloadSelector
    from scaler.doctor.finding import Finding


def validate(path: Path, output: Output, *, offline: bool) -> int:
    """Check a file and print what was found; the exit code.

    Every query that the settings lead to is built and parsed. Unless `offline`, the secret files that they name must
    be readable here too, and the servers that a right file names are asked about it.
    """
    from scaler.adapters.settings import read_settings

    issues: tuple[ConfigIssue, ...] = ()
    config = None
    findings: tuple[Finding, ...] = ()
    try:
        config = read_settings(path)
        issues = (*_queries(config), *(() if offline else _secret_files(config)))
    except ConfigError as error:
        issues = error.issues
    if config is not None and not issues and not offline:
        findings = _asked(config)
    if output is Output.JSON:
        put_json({**_document(path, issues), "findings": [asdict(each) for each in findings]})
    elif issues:
        for issue in issues:
            put(str(issue))
        say(f"{len(issues)} problem{'s' if len(issues) > 1 else ''} found")
    elif config is not None:
        put(summary(config))
        for each in findings:
            say(f"{each.health.value} {each.workload} {each.check}: {each.found}; fix: {each.fix}")
    return 2 if issues else 0


def _asked(config: Config) -> tuple[Finding, ...]:
    """What is not well by the servers: `doctor`'s checks without this machine's."""
    from scaler.commands.doctor import examined
    from scaler.doctor.finding import Health

    chosen = [policy.workload for policy in config.fleet.workloads]
    found = examined(config, chosen, host=False)
    return tuple(each for each in found if each.health in (Health.WARN, Health.FAIL))


def summary(config: Config) -> str:
    """What a correct file says, in one line."""
    policies = config.fleet.workloads
    active = sum(policy.mode.value == "active" for policy in policies)
    budget = "no GPU budget" if config.fleet.budget.gpus is None else f"a budget of {config.fleet.budget.gpus} GPUs"
    count = f"{len(policies)} workload{'s' if len(policies) != 1 else ''}"
    return f"{config.path}: ok, {count} ({active} active), {budget}"


def _document(path: Path, issues: tuple[ConfigIssue, ...]) -> dict[str, object]:
    return {
        "apiVersion": "headstart/v1",
        "kind": "Validation",
        "file": str(path),
        "ok": not issues,
        "issues": [
            {"file": each.file, "line": each.line, "column": each.column, "setting": each.setting, "text": each.text}
            for each in issues
        ],
    }


def _queries(config: Config) -> list[ConfigIssue]:
    """Queries that are no PromQL. None is expected, because names are checked and values quoted before."""
    import promql_parser

    from scaler.adapters.settings import nearest
    from scaler.config.document import read_document

    issues = []
    for index, selector in enumerate(_selectors(config)):
        for query in _queries_of(selector):
            try:
                promql_parser.parse(query.text)
            except ValueError as error:
                text = f"leads to a query that is no PromQL ({error}): {query.text}"
                setting = f"workloads[{index}].selector"
                root = read_document(config.path, str(config.path))
                place = nearest(root, ("workloads", index, "selector")).place
                issues.append(
                    ConfigIssue(file=place.file, line=place.line, column=place.column, setting=setting, text=text)
                )
    return issues


def _selectors(config: Config) -> tuple[WorkloadSelector, ...]:
    from scaler.adapters.connections import selectors_of

    return selectors_of(config)


def _queries_of(selector: WorkloadSelector) -> Iterator[Query]:
    """Everything that may be asked for one workload: with each signal from its first metric, and which are live."""
    from forecaster.sources.catalogue import CATALOGUE
    from forecaster.sources.plan import candidates_of, model_query, presence_query, reading_queries
    from forecaster.sources.promql import Choice, Reach

    choices = {
        (selector.workload, signal.name): Choice(candidate=candidates_of(signal, selector)[0], reach=Reach.OWN)
        for signal in CATALOGUE
    }
    yield from reading_queries((selector,), (selector,), choices, {})
    yield model_query((selector,))
    yield presence_query((selector,), {})


def _secret_files(config: Config) -> list[ConfigIssue]:
    """Secret files that are named but cannot be read here; their content is not looked at."""
    from scaler.config.document import read_document

    prometheus, http = config.prometheus, config.http
    named = {
        ("prometheus", "bearer_token_file"): prometheus.bearer_token_file,
        ("prometheus", "password_file"): prometheus.password_file,
        ("prometheus", "ca_file"): prometheus.ca_file,
        ("prometheus", "cert_file"): prometheus.cert_file,
        ("prometheus", "key_file"): prometheus.key_file,
        ("kubernetes", "kubeconfig"): config.kubernetes.kubeconfig,
        ("http", "token_file"): http.token_file,
    }
    tree = read_document(config.path, str(config.path))
    issues = []
    for (section, key), file in named.items():
        if file is None:
            continue
        try:
            file.open("rb").close()
        except OSError as error:
            node = tree.child(section) or tree
            place = (node.child(key) or node).place
            text = f"{file} cannot be read here ({error.strerror}); --offline leaves secret files out of the check"
            setting = f"{section}.{key}"
            issues.append(
                ConfigIssue(file=place.file, line=place.line, column=place.column, setting=setting, text=text)
            )
    return issues


def schema(*, markdown: bool) -> None:
    """The JSON schema of a settings file, or the page docs/configuration.md."""
    from scaler.config import schema as config_schema

    if markdown:
        put(config_schema.markdown())
    else:
        put_json(config_schema.json_schema())
