"""The settings file: what a correct one becomes, and that a wrong one names every problem at its place.

Properties: any text at all is either a configuration or a `ConfigError`, never another exception; a duration that is
shown is read back as itself.
"""

from __future__ import annotations

import dataclasses
import typing
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster import registry
from forecaster.models.memory import family
from forecaster.models.stored import KINDS
from forecaster.sources.selector import WorkloadSelector
from scaler.config import Config, data_folder, parse_config, read_config, read_profile, shipped_profiles
from scaler.config.check import duration_of, shown_duration
from scaler.config.holidays import holidays_of
from scaler.config.values import MODELS, ON_REQUEST, SelectorConfig
from scaler.errors import ConfigError
from scaler.policy.capacity import ClassCapacity
from scaler.policy.decide import WorkloadPolicy
from scaler.policy.scheduled import ScheduledRule
from scaler.policy.types import Mode

EXAMPLE = data_folder() / "headstart.example.yaml"
HEADER = "apiVersion: headstart/v1\nkind: Config\n"
SHIPPED = ", ".join(shipped_profiles())
ONE = "workloads:\n  - {workload: llm/chat, profile: qwen3-vl-2b-24gb}\n"


def a_config(text: str, path: Path = Path("headstart.yaml")) -> Config:
    return parse_config(HEADER + text, path)


def problems(text: str, path: Path = Path("h.yaml")) -> list[str]:
    """The problems of a settings text, one a line as people see them."""
    with pytest.raises(ConfigError) as caught:
        parse_config(text, path)
    return str(caught.value).splitlines()


# ── What a correct file becomes ───────────────────────────────────────────────────────────────────────────────


def test_the_smallest_file_has_every_default() -> None:
    config = a_config(ONE)
    (policy,) = config.fleet.workloads
    defaults = WorkloadPolicy(workload="llm/chat", profile=policy.profile)
    assert policy == defaults
    assert type(policy) is WorkloadPolicy  # the journal and the codec know this type and no subclass of it
    assert policy.mode is Mode.OBSERVE
    assert config.targets["llm/chat"].name == "chat"
    assert config.fleet.budget.gpus is None
    assert config.tick == timedelta(minutes=1)


def test_the_example_is_complete_and_says_what_it_seems_to() -> None:
    config = read_config(EXAMPLE)
    chat, screenshots = config.fleet.workloads
    assert config.fleet.budget.gpus == 64
    assert chat.start_time == screenshots.start_time == timedelta(minutes=3)  # from defaults
    assert chat.latency.slos[0].e2e_p95_s == 1.2
    assert [slo.request_class for slo in screenshots.latency.slos] == ["gui", None]  # lists replace, they do not add
    assert screenshots.latency.hold == timedelta(minutes=2)  # mappings are merged
    assert screenshots.mode is Mode.ACTIVE
    assert config.targets["llm/screenshots"].name == "gui-agent"
    assert config.selectors["llm/chat"].labels == {"model_name": "chat"}
    assert screenshots.scheduled.events[0].name == "singles-day-sale"
    assert config.forecast.refit == time(3, 10)


def test_a_calendar_of_holidays_is_the_forecasts_business_and_not_the_rules() -> None:
    config = a_config(ONE.replace("}", ", scheduled: {timezone: Europe/Berlin, holidays: DE-BY}}"))
    (policy,) = config.fleet.workloads
    assert config.holidays == {"llm/chat": "DE-BY"}
    assert type(policy.scheduled) is ScheduledRule  # the journal and the codec know this type and no subclass of it
    assert policy.scheduled == ScheduledRule(timezone="Europe/Berlin")
    assert a_config(ONE).holidays == {}


@pytest.mark.parametrize(
    ("name", "kept", "not_kept"),
    [
        pytest.param("DE", date(2026, 5, 14), date(2026, 1, 6), id="a country"),
        pytest.param("DE-BY", date(2026, 1, 6), date(2026, 10, 31), id="a part with days of its own"),
        pytest.param("US-CA", date(2026, 11, 26), date(2026, 11, 25), id="another country's part"),
    ],
)
def test_the_holidays_of_a_name(name: str, kept: date, not_kept: date) -> None:
    assert kept in holidays_of(name)
    assert not_kept not in holidays_of(name)


def test_moments_arrive_in_utc_and_clock_times_as_written() -> None:
    (event,) = read_config(EXAMPLE).fleet.workloads[1].scheduled.events
    assert event.start == datetime(2026, 11, 11, 12, 0, tzinfo=UTC)
    assert event.start.tzinfo is UTC
    assert read_config(EXAMPLE).fleet.workloads[1].scheduled.windows[0].start == time(1, 30)


def test_paths_start_at_the_file(tmp_path: Path) -> None:
    text = "data_dir: state\nprometheus: {bearer_token_file: token, ca_file: /etc/ca.pem}\n" + ONE
    config = a_config(text, tmp_path / "sub" / "h.yaml")
    assert config.data_dir == tmp_path / "sub" / "state"
    assert config.prometheus.bearer_token_file == tmp_path / "sub" / "token"
    assert config.prometheus.ca_file == Path("/etc/ca.pem")


def test_every_part_of_a_file_is_shared_by_every_tick() -> None:
    config = a_config("tick: 15s\n" + ONE)
    assert config.tick == config.fleet.workloads[0].tick == timedelta(seconds=15)


def test_a_group_whose_lines_are_all_commented_out_is_as_if_absent() -> None:
    text = "http:\nworkloads:\n  - workload: llm/chat\n    profile: qwen3-vl-2b-24gb\n    latency:\n    bounds:\n"
    assert a_config(text).fleet == a_config(ONE).fleet


def test_scalars_are_those_of_yaml_1_2() -> None:
    """YAML 1.1 would read `no` as false, 20:00 as 1200 and 1_000 as 1000."""
    text = (
        "workloads:\n  - workload: llm/chat\n    profile: qwen3-vl-2b-24gb\n    selector: {labels: {country: no}}\n"
        "    scheduled: {windows: [{name: evening, start: 20:00, end: 23:30, min_replicas: 2}]}\n"
    )
    config = a_config(text)
    assert config.selectors["llm/chat"].labels == {"country": "no"}
    assert config.fleet.workloads[0].scheduled.windows[0].start == time(20, 0)


PRICES = "cost: {missed_minute: 4, gpu_minute: 0.05}"
SHARE = "steering: {missed_target_ratio: 0.02, step_z: 0.04}"


@pytest.mark.parametrize(
    ("defaults", "own", "ratio"),
    [
        pytest.param("{}", PRICES, 0.0125, id="prices of its own"),
        pytest.param("{PRICES}", "mode: observe", 0.0125, id="everybody's prices"),
        pytest.param("{SHARE}", PRICES, 0.0125, id="prices of its own beat everybody's share"),
        pytest.param("{PRICES}", SHARE, 0.02, id="a share of its own beats everybody's prices"),
        pytest.param("{PRICES}", "cost: {missed_minute: 8}", 0.00625, id="a price of its own beside everybody's other"),
        pytest.param("{PRICES}", "cost: null", 0.01, id="no prices after all"),
        pytest.param("{SHARE}", "cost: null", 0.02, id="no prices, which nobody gave"),
    ],
)
def test_the_target_is_a_share_or_follows_from_prices(defaults: str, own: str, ratio: float) -> None:
    everybody = defaults.replace("PRICES", PRICES).replace("SHARE", SHARE)
    text = f"defaults: {everybody}\nworkloads:\n  - workload: llm/chat\n    profile: qwen3-vl-2b-24gb\n    {own}\n"
    (policy,) = a_config(text).fleet.workloads
    assert policy.miss_target.ratio == pytest.approx(ratio)
    if SHARE in (own, everybody[1:-1]):
        assert policy.steering.step_z == 0.04  # what stands beside the share is kept


def test_a_target_said_twice_is_refused_once_and_where_it_stands() -> None:
    """Even where the share is the default's: two answers to one question are a mistake, not a choice."""
    chat = "  - {workload: llm/chat, profile: qwen3-vl-2b-24gb, " + PRICES
    text = f"{HEADER}workloads:\n{chat}, steering: {{missed_target_ratio: 0.01}}}}\n"
    said = "excludes steering.missed_target_ratio, which is given beside it; keep one"
    assert problems(text) == [f"h.yaml:4:53: workloads[0].cost: {said}"]
    text = f"{HEADER}defaults:\n  {PRICES}\n  {SHARE}\nworkloads:\n{chat}}}\n{chat.replace('chat', 'docs')}}}\n"
    assert problems(text) == [f"h.yaml:4:3: defaults.cost: {said}"]


def test_events_of_a_file_stand_behind_the_workloads_own(tmp_path: Path) -> None:
    (tmp_path / "events.yaml").write_text("windows: [{name: b, start: '01:00', end: '02:00', max_replicas: 2}]\n")
    text = (
        "workloads:\n  - workload: llm/chat\n    profile: qwen3-vl-2b-24gb\n    scheduled:\n"
        "      events_file: events.yaml\n      windows: [{name: a, start: '03:00', end: '04:00', max_replicas: 3}]\n"
    )
    config = a_config(text, tmp_path / "h.yaml")
    assert [window.name for window in config.fleet.workloads[0].scheduled.windows] == ["a", "b"]


def test_the_shipped_profile_holds_the_measured_figures() -> None:
    assert "qwen3-vl-2b-24gb" in shipped_profiles()
    profile = read_profile(data_folder() / "profiles" / "qwen3-vl-2b-24gb.yaml")
    figures = {each.name: (each.max_rps, each.p95_s, each.memory_gb) for each in profile.classes}
    assert figures == {
        "text": (18.0, 0.41, 3.2),
        "image": (9.0, 0.98, 5.8),
        "gui": (6.0, 1.32, 6.4),
        "html_gen": (7.0, 1.05, 5.1),
        "video": (2.0, 2.8, 7.9),
    }
    assert profile.gpus == 1
    assert profile.source


def test_a_profile_by_path_takes_its_name_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("classes: [{name: text, max_rps: 4}]\n")
    config = a_config("workloads: [{workload: a/b, profile: ./mine.yaml}]\n", tmp_path / "h.yaml")
    assert config.fleet.workloads[0].profile.name == "mine"
    assert config.fleet.workloads[0].profile.classes == (ClassCapacity(name="text", max_rps=4.0),)


# ── Every problem, at its place ───────────────────────────────────────────────────────────────────────────────

WINDOW = "{name: n, start: '01:00', end: '02:00', "


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param("tik: 60s", "3:1: tik: is not a setting; did you mean tick?", id="typo at the top"),
        pytest.param(
            "defalts: {}",
            "3:1: defalts: is not a setting; did you mean defaults?",
            id="typo of a word of the file alone",
        ),
        pytest.param(
            "tick: 60", "3:7: tick: must be a duration such as 5m, 90s or 1h30m, got 60; add its unit", id="no unit"
        ),
        pytest.param(
            "tick: 5 minutes",
            '3:7: tick: must be a duration such as 5m, 90s or 1h30m, got "5 minutes"',
            id="duration in words",
        ),
        pytest.param("tick: 1h", "3:7: tick: must lie between 1s and 5m, got 1:00:00", id="tick out of range"),
        pytest.param("http: {port: 80900}", "3:14: http.port: must lie in [0, 65535], got 80900", id="port"),
        pytest.param(
            'http: {port: "8090"}', '3:14: http.port: must be a whole number, got "8090"', id="text for a number"
        ),
        pytest.param(
            "budget: {gpus: true}", "3:16: budget.gpus: must be a whole number, got true", id="truth for a number"
        ),
        pytest.param(
            "ha: {lease: headstart}",
            "3:13: ha.lease: must be namespace/name in Kubernetes' spelling, got 'headstart'",
            id="a lease without a namespace",
        ),
        pytest.param(
            "ha: {duration: 1500ms}",
            "3:16: ha.duration: must be whole seconds between 3s and 5m, got 0:00:01.500000",
            id="a lease of half seconds",
        ),
        pytest.param(
            "ha: {renew_deadline: 14s}",
            "3:22: ha.renew_deadline: must lie between 1s and 80 % of the duration (0:00:12), got 0:00:14",
            id="a claim nearly as long as the lease",
        ),
        pytest.param(
            "ha: {retry: 5s}",
            "3:13: ha.retry: must lie between 100ms and a third of renew_deadline (0:00:03.333333), got 0:00:05: "
            "one lost answer must not end a daemon",
            id="retries too far apart",
        ),
        pytest.param("budget: {gpus: 0}", "3:16: budget.gpus: must be at least 1, got 0", id="a rule's own limit"),
        pytest.param(
            "http: {host: 0.0.0.0}",
            "3:14: http.host: host '0.0.0.0' is reachable from outside: set token_file, or listen on 127.0.0.1",
            id="open to the world",
        ),
        pytest.param(
            "prometheus: {url: prom:9090}",
            "3:19: prometheus.url: must be an http or https address such as http://prometheus:9090, got 'prom:9090'",
            id="address without a scheme",
        ),
        pytest.param(
            "prometheus: {username: me}",
            "3:24: prometheus.username: username and password_file go together; one of them is missing",
            id="half of a pair",
        ),
        pytest.param(
            "prometheus: {deadline_s: .inf}", '3:26: prometheus.deadline_s: must be a number, got ".inf"', id="inf"
        ),
        pytest.param(
            "prometheus: {deadline_s: 1e999}",
            "3:26: prometheus.deadline_s: must be a finite number, got Infinity",
            id="overflow to inf",
        ),
        pytest.param(
            "forecast: {refit: 3}",
            '3:19: forecast.refit: must be a wall-clock time such as "03:10", got 3',
            id="clock time",
        ),
        pytest.param(
            "forecast: {models: [arima, arima]}",
            "3:20: forecast.models: must name at least one model and none twice, got arima, arima",
            id="a model twice",
        ),
        pytest.param(
            "prometheus: {username: me, password_file: p, bearer_token_file: t}",
            "3:65: prometheus.bearer_token_file: bearer_token_file and username exclude each other; keep one",
            id="two ways to log in",
        ),
        pytest.param(
            "prometheus: {cert_file: c}",
            "3:25: prometheus.cert_file: cert_file and key_file go together; one of them is missing",
            id="certificate without a key",
        ),
        pytest.param(
            "prometheus: {deadline_s: 900}",
            "3:26: prometheus.deadline_s: must lie in [0.1, 60] seconds, got 900.0",
            id="deadline",
        ),
        pytest.param(
            "forecast: {ttl: 1h}",
            "3:17: forecast.ttl: must lie between 2m and 30m (the horizon of a forecast), got 1:00:00",
            id="ttl",
        ),
        pytest.param("defaults: 7", "3:11: defaults: must be a mapping of settings", id="defaults of the wrong kind"),
        pytest.param(
            "forecast: {models: [arima, lsmt]}",
            "3:20: forecast.models: models names 'lsmt', which is no model; did you mean lstm?",
            id="no such model",
        ),
        pytest.param("data_dir: 7", "3:11: data_dir: must be text, got 7; put it in quotes", id="number for a path"),
        pytest.param(
            "forecast: lstm", '3:11: forecast: must be a mapping of settings, got "lstm"', id="text for a group"
        ),
        pytest.param(
            "defaults: {workload: a/b}",
            "3:12: defaults.workload: belongs to one workload; move it there",
            id="defaults",
        ),
    ],
)
def test_a_problem_of_the_file(settings: str, expected: str) -> None:
    assert problems(f"{HEADER}{settings}\n{ONE}") == [f"h.yaml:{expected}"]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        pytest.param(
            "mode: activ",
            '4:11: mode: must be one of observe, active, floor, publish, got "activ"; did you mean active?',
            id="enum",
        ),
        pytest.param(
            "min_replicas: 2",
            "4:5: min_replicas: is not a setting; did you mean bounds.min_replicas?",
            id="one level off",
        ),
        pytest.param("tick: 5s", "4:5: tick: is set once for all workloads, at the top of the file", id="not here"),
        pytest.param(
            "bounds: {min_replicas: 9, max_replicas: 8}",
            "4:45: bounds.max_replicas: must be at least 9, got 8",
            id="minimum over maximum",
        ),
        pytest.param(
            "bounds: {max_replicas: 8.5}",
            "4:28: bounds.max_replicas: must be a whole number, got 8.5",
            id="half a replica",
        ),
        pytest.param(
            "load: {target_utilisation: 1.7}",
            "4:32: load.target_utilisation: must lie in (0, 1], got 1.7",
            id="percent for a ratio",
        ),
        pytest.param(
            "latency: {slos: [{e2e_p95_s: -1}]}",
            "4:34: latency.slos[0].e2e_p95_s: must be above 0 seconds, got -1.0",
            id="inside a list",
        ),
        pytest.param(
            "latency: {rate_window: 5s}",
            "4:14: latency: latency.rate_window must lie between 15s and 1h, got 0:00:05",
            id="shorter than a scrape",
        ),
        pytest.param(
            "latency: {slos: {e2e_p95_s: 1}}",
            '4:21: latency.slos: must be a list, got {"e2e_p95_s": 1}',
            id="mapping for a list",
        ),
        pytest.param(
            "scheduled: {events_file: nope.yaml}",
            "4:30: scheduled.events_file: no such file: nope.yaml",
            id="events file not there",
        ),
        pytest.param(
            f"scheduled: {{windows: [{WINDOW}min_replicas: 1, timezone: Mars/Base}}]}}",
            "4:94: scheduled.windows[0].timezone: timezone of window 'n' must be an IANA name such as Europe/Berlin, got 'Mars/Base'",
            id="time zone",
        ),
        pytest.param(
            "scheduled: {holidays: GE-BY}",
            '4:27: scheduled.holidays: holidays names "GE-BY", but GE has no part "BY"; it has none',
            id="a country without parts",
        ),
        pytest.param(
            "scheduled: {holidays: DE-XX}",
            '4:27: scheduled.holidays: holidays names "DE-XX", but DE has no part "XX"; there are Augsburg, BB, BE, BW, BY, HB, HE, HH, MV, NI, NW, RP, SH, SL, SN, ST, TH',
            id="no such part",
        ),
        pytest.param(
            "scheduled: {holidays: ../../../etc/passwd}",
            '4:27: scheduled.holidays: holidays names "../../../etc/passwd", of which no calendar is shipped; use a country\'s ISO code, such as DE, or DE-BY for a part',
            id="a path for a calendar",
        ),
        pytest.param(
            f"scheduled: {{windows: [{WINDOW}min_replica: 1}}]}}",
            "4:67: scheduled.windows[0].min_replica: is not a setting; did you mean min_replicas?",
            id="typo deep down",
        ),
        pytest.param(
            "target: {kind: deployment}", "4:20: target.kind: must look like Deployment, got 'deployment'", id="kind"
        ),
        pytest.param(
            "selector: {labels: {version: 2}}",
            "4:34: selector.labels.version: must be text, got 2; put it in quotes",
            id="label",
        ),
        pytest.param(
            "selector: {labels: {'d0\"} or x{': y}}",
            "4:24: selector.labels: must name a label (letters, digits and _), got 'd0\"} or x{'",
            id="hostile label name",
        ),
        pytest.param(
            "selector: {labels: {model_name: ''}}",
            "4:24: selector.labels: labels.model_name is empty, which would match every series; give its value",
            id="a label that means all",
        ),
        pytest.param(
            "selector: {namespaced: false}",
            "4:28: selector.namespaced: namespaced is false, so labels are needed: a query without them would match every series",
            id="a selector that means all",
        ),
        pytest.param(
            "selector: {demand_metric: 'sum(rate(x[5m]))'}",
            "4:31: selector.demand_metric: must be the name of one counter, got 'sum(rate(x[5m]))'",
            id="an expression for a name",
        ),
        pytest.param(
            "selector: {pod_pattern: '(?=x)'}",
            "4:29: selector.pod_pattern: pod_pattern is not a regular expression for Prometheus (RE2): illegal regex for (?=x)",
            id="a pattern that only Python knows",
        ),
    ],
)
def test_a_problem_of_a_workload(setting: str, expected: str) -> None:
    place, _, rest = expected.partition(": ")
    text = f"{HEADER}workloads:\n  - {setting}\n    workload: llm/chat\n    profile: qwen3-vl-2b-24gb\n"
    assert problems(text) == [f"h.yaml:{place}: workloads[0].{rest}"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", ["h.yaml:1:1: is empty; it begins with apiVersion and kind"], id="empty"),
        pytest.param(
            "a:\n\tb: 1", ["h.yaml:2:1: is not YAML: a tab stands here; indent with spaces"], id="indented with a tab"
        ),
        pytest.param(
            "a: b\tc: 1", ["h.yaml:1:7: is not YAML: mapping values are not allowed in this context"], id="tab inside"
        ),
        pytest.param(
            "a: 1\n---\na: 2",
            ["h.yaml:2:1: is not YAML: a second document begins here; one file holds one"],
            id="two documents",
        ),
        pytest.param("- 1", ["h.yaml:1:1: must be a mapping of settings, got [1]"], id="a list"),
        pytest.param(
            "a: 1\na: 2",
            ["h.yaml:2:1: a: is given twice: it already stands in line 1; remove one of the two"],
            id="twice",
        ),
        pytest.param(
            "x: &a [1]\ny: *a",
            ["h.yaml:2:4: *a is a YAML alias, which is not supported; use `defaults` instead"],
            id="alias",
        ),
        pytest.param("a: [", ["h.yaml:2:1: is not YAML: did not find expected node content"], id="syntax"),
        pytest.param(
            "a: 1\n b: 2", ["h.yaml:2:3: is not YAML: mapping values are not allowed in this context"], id="indent"
        ),
        pytest.param("a: !!int x", ["h.yaml:1:4: a: 'x' is not a usable int"], id="a number that is none"),
        pytest.param(
            "a: !!python/object/apply:os.system [ls]",
            [
                "h.yaml:1:4: a: has the tag 'tag:yaml.org,2002:python/object/apply:os.system'; write the plain value instead"
            ],
            id="a tag that would run code",
        ),
        pytest.param("{? [1]: 2}", ["h.yaml:1:4: has a list or mapping as a key; keys are names"], id="key"),
        pytest.param(
            "kind: Config\nworkloads: []",
            [
                "h.yaml:1:1: apiVersion: is required; write apiVersion: headstart/v1",
                "h.yaml:2:12: workloads: must list at least one workload, or discover.namespaces name where to look",
            ],
            id="no workload",
        ),
        pytest.param(
            "apiVersion: headstart/v2\nkind: Config\n" + ONE,
            ['h.yaml:1:13: apiVersion: must be headstart/v1, got "headstart/v2"'],
            id="another version",
        ),
        pytest.param(
            HEADER,
            ["h.yaml:1:1: workloads must list at least one workload, or discover.namespaces name where to look"],
            id="nothing in it",
        ),
        pytest.param(
            HEADER + "workloads: [{workload: a/b}]",
            [f"h.yaml:3:13: workloads[0].profile: is required: a shipped profile ({SHIPPED}), a path, or a mapping"],
            id="no profile",
        ),
        pytest.param(
            HEADER + "workloads: [{profile: qwen3-vl-2b-24gb}]",
            ["h.yaml:3:13: workloads[0].workload: is required"],
            id="no name",
        ),
        pytest.param(
            HEADER + "workloads: [{workload: 'llm/d0\"} or x{', profile: qwen3-vl-2b-24gb}]",
            [
                "h.yaml:3:24: workloads[0].workload: must be namespace/name in Kubernetes' spelling, "
                "got 'llm/d0\"} or x{'"
            ],
            id="hostile name",
        ),
        pytest.param(
            HEADER + "workloads: [{workload: chat, profile: qwen3-vl-2b-24gb}]",
            ["h.yaml:3:24: workloads[0].workload: must be namespace/name in Kubernetes' spelling, got 'chat'"],
            id="no namespace",
        ),
        pytest.param(
            HEADER + "workloads: [{workload: a/b, profile: qwen3}]",
            [
                'h.yaml:3:38: workloads[0].profile: no shipped profile is called "qwen3"; '
                f"(shipped: {SHIPPED}; a path must end in .yaml)"
            ],
            id="unknown profile",
        ),
        pytest.param(
            HEADER + "workloads: [{workload: a/b, profile: {name: x, classes: [{name: y, max_rps: -1}]}}]",
            [
                "h.yaml:3:77: workloads[0].profile.classes[0].max_rps: "
                "max_rps of class 'y' must be a finite number above 0, got -1.0"
            ],
            id="inline profile",
        ),
        pytest.param(
            HEADER + ONE + "  - {workload: llm/chat, profile: qwen3-vl-2b-24gb}\n",
            ["h.yaml:5:16: workloads[1].workload: llm/chat already stands in line 4; remove one of the two"],
            id="workload twice",
        ),
        pytest.param(
            HEADER + ONE + "  - {workload: llm/other, profile: qwen3-vl-2b-24gb, target: {name: chat}}\n",
            [
                "h.yaml:5:16: workloads[1].workload: scales the same Deployment as llm/chat: "
                "two workloads would fight over it"
            ],
            id="one target, two workloads",
        ),
    ],
)
def test_a_problem_of_the_shape(text: str, expected: list[str]) -> None:
    assert problems(text) == expected


def test_all_problems_are_told_at_once_and_in_order() -> None:
    text = f"{HEADER}tick: 5\nhttp: {{port: -1}}\nworkloads:\n  - {{workload: x, profile: y, mode: z}}\n"
    found = problems(text)
    assert [line.split(":")[1] for line in found] == ["3", "4", "6", "6"]


def test_what_defaults_get_wrong_is_told_once_at_defaults() -> None:
    many = "".join(f"  - {{workload: llm/w{i}, profile: qwen3-vl-2b-24gb}}\n" for i in range(20))
    found = problems(f"{HEADER}defaults: {{load: {{target_utilisation: 2}}}}\nworkloads:\n{many}")
    assert found == ["h.yaml:3:39: defaults.load.target_utilisation: must lie in (0, 1], got 2.0"]


def test_a_problem_of_an_events_file_names_that_file(tmp_path: Path) -> None:
    (tmp_path / "e.yaml").write_text("kind: Holidays\nevents:\n  - {name: sale, start: 2026-11-11 20:00}\n")
    text = HEADER + "workloads: [{workload: a/b, profile: qwen3-vl-2b-24gb, scheduled: {events_file: e.yaml}}]"
    setting = f"{tmp_path}/e.yaml"
    assert problems(text, tmp_path / "h.yaml") == [
        f'{setting}:1:7: kind: must be Events, got "Holidays"',
        f"{setting}:3:5: workloads[0].scheduled.events[0].end: is required",
        f"{setting}:3:5: workloads[0].scheduled.events[0].expected_peak: is required",
    ]


def test_a_broken_profile_is_told_once_and_the_rest_is_still_checked(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("- not a profile\n")
    many = "".join(f"  - {{workload: a/w{i}, profile: ./p.yaml}}\n" for i in range(3))
    found = problems(f"{HEADER}tick: 9\nworkloads:\n{many}", tmp_path / "h.yaml")
    assert [line.partition(str(tmp_path))[2].split(":")[0] for line in found] == ["/h.yaml", "/p.yaml"]


def test_a_profile_alone_is_read_or_refused(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("name: p\nclasses: [{name: a}]\n")
    with pytest.raises(ConfigError, match=r"p\.yaml:2:11: classes\[0\]\.max_rps: is required"):
        read_profile(tmp_path / "p.yaml")


def test_a_problem_in_another_file_names_that_file(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("name: p\nclasses:\n  - {name: a, max_rps: fast}\n")
    (line,) = problems(HEADER + "workloads: [{workload: a/b, profile: ./p.yaml}]", tmp_path / "h.yaml")
    assert line == f'{tmp_path}/p.yaml:3:24: workloads[0].profile.classes[0].max_rps: must be a number, got "fast"'


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param('prometheus: {url: "http://me:hunter2@prom:9090"}', id="password in the address"),
        pytest.param("prometheus: {password: hunter2}", id="password as a setting"),
        pytest.param("prometheus: {bearer_token: hunter2}", id="token as a setting"),
        pytest.param("prometheus: {password_file: [hunter2]}", id="a secret of the wrong kind"),
    ],
)
def test_no_secret_is_printed(settings: str) -> None:
    assert "hunter2" not in "\n".join(problems(f"{HEADER}{settings}\n{ONE}"))


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_config(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        read_config(tmp_path / "binary.yaml")


@pytest.mark.parametrize("opening", ["[", "{a: "])
def test_a_file_nested_to_exhaust_the_stack_is_refused(opening: str) -> None:
    assert problems(opening * 5000)


# ── Properties ────────────────────────────────────────────────────────────────────────────────────────────────

_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
_KEYS = st.sampled_from(
    ["apiVersion", "kind", "workloads", "workload", "profile", "bounds", "latency", "tick", "defaults", "http", "name"]
)
_TREES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=5), max_leaves=20
)


@given(tree=_TREES)
def test_any_tree_is_a_configuration_or_a_config_error(tree: Any) -> None:
    import yaml

    with suppress(ConfigError):
        parse_config(yaml.safe_dump(tree), Path("h.yaml"))


@given(text=st.text(max_size=60))
def test_any_text_is_a_configuration_or_a_config_error(text: str) -> None:
    with suppress(ConfigError):
        parse_config(text, Path("h.yaml"))


@given(ms=st.integers(min_value=0, max_value=10 * 365 * 86_400_000))
def test_a_shown_duration_is_read_back(ms: int) -> None:
    value = timedelta(milliseconds=ms)
    assert duration_of(shown_duration(value)) == value


# ── What is written twice ─────────────────────────────────────────────────────────────────────────────────────


def test_the_selector_has_the_fields_of_the_one_that_builds_queries() -> None:
    """`rate_window_s` comes from the latency rule and `workload` from the entry, so that neither is set twice; `service` from `variants`."""
    ours = {each.name for each in dataclasses.fields(SelectorConfig)}
    theirs = {each.name for each in dataclasses.fields(WorkloadSelector)}
    assert theirs - ours == {"workload", "rate_window_s", "service"}
    assert ours <= theirs


def test_the_models_are_those_of_the_registry() -> None:
    known = {family(member.model_id) for member in registry.members().forecasters} | set(KINDS)
    assert set(MODELS) == known
    assert set(ON_REQUEST) == set(registry.ON_REQUEST)


def test_every_setting_has_a_kind_that_the_reader_knows() -> None:
    from scaler.config.check import fields_of
    from scaler.config.values import ConfigFile

    seen: list[Any] = [ConfigFile]
    for kind in seen:
        for hint in fields_of(kind).values():
            inner = typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else hint
            if dataclasses.is_dataclass(inner):
                seen.append(inner)
            else:
                assert typing.get_origin(inner) is not None or isinstance(inner, type), hint


VARIANTS = """\
apiVersion: headstart/v1
kind: Config
variants:
  - {group}
workloads:
  - {{workload: llm/chat-8b, profile: qwen3-vl-2b-24gb, selector: {{demand_labels: {{model: chat}}}}}}
  - workload: llm/chat-4b
    profile: {{name: two, gpus: 2, classes: [{{name: default, max_rps: 1}}]}}
    selector: {{demand_labels: {{model: chat}}}}
  - {{workload: llm/floor, mode: floor, profile: qwen3-vl-2b-24gb}}
  - {{workload: llm/blind, profile: qwen3-vl-2b-24gb}}
  - {{workload: llm/other, profile: qwen3-vl-2b-24gb, selector: {{demand_labels: {{model: other}}}}}}
"""
BOTH = "workloads: [{workload: llm/chat-8b}, {workload: llm/chat-4b}]"


@pytest.mark.parametrize(
    ("group", "place", "text"),
    [
        pytest.param("{name: chat, gpus: 4, workloads: [{workload: llm/chat-8b}, {workload: llm/chat-4}]}", "4:75", 'names "llm/chat-4", which is no workload; did you mean llm/chat-4b?', id="no such workload"),
        pytest.param("{name: chat, gpus: 4, workloads: [{workload: llm/chat-8b}, {workload: llm/floor}]}", "4:75", "is in mode floor, and another autoscaler cannot be handed over to; use active or observe", id="a floor"),
        pytest.param("{name: chat, gpus: 4, workloads: [{workload: llm/chat-8b}, {workload: llm/blind}]}", "4:75", "llm/blind has no selector.demand_labels: every variant must see the whole service's demand; write those of the model that clients ask for, such as {model: chat}", id="sees only itself"),
        pytest.param("{name: chat, gpus: 4, workloads: [{workload: llm/chat-8b}, {workload: llm/other}]}", "4:75", "llm/other and llm/chat-8b differ in selector.demand_labels: variants must see one demand, the whole service's", id="sees another demand"),
        pytest.param("{name: chat, gpus: 1, " + BOTH + "}", "4:75", "needs 2 GPUs a replica, and the group has 1; raise gpus or take the variant out", id="no room for one"),
        pytest.param("{name: chat, gpus: 2, " + BOTH + "}", "4:24", "is 2, and a replica of llm/chat-4b (2 GPUs) beside one of llm/chat-8b (1) needs 3: without both there is no switch without a gap", id="no room for both"),
        pytest.param("{name: a, gpus: 4, " + BOTH + "}\n  - {name: b, gpus: 4, workloads: [{workload: llm/chat-8b, serves: x}, {workload: llm/chat-4b, serves: y}]}", "5:47", "llm/chat-8b is a variant of a already: it can serve for one group only", id="two groups"),
        pytest.param("{name: chat, gpus: 4, workloads: [{workload: llm/chat-8b}]}", "4:38", "workloads of chat must list at least two variants, got 1", id="only one"),
        pytest.param("{name: chat, gpus: 4, workloads: [{workload: llm/chat-8b, serves: a}, {workload: llm/chat-4b, serves: a}]}", "4:38", "workloads of chat serve the same name twice: a, a", id="one name"),
        pytest.param("{name: chat, gpus: 0, " + BOTH + "}", "4:24", "gpus of chat must be at least 1, got 0", id="no GPU"),
        pytest.param("{name: chat, gpus: 4, utilisation: 1.2, " + BOTH + "}", "4:40", "utilisation of chat must lie in (0, 1], got 1.2", id="utilisation"),
    ],
)  # fmt: skip
def test_variants_are_checked_against_the_workloads(group: str, place: str, text: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_config(VARIANTS.format(group=group), Path("headstart.yaml"))
    issue = error.value.issues[0]
    assert (issue.text, f"{issue.line}:{issue.column}") == (text, place)


def test_variants_belong_to_the_fleet() -> None:
    config = parse_config(VARIANTS.format(group="{name: chat, gpus: 4, " + BOTH + "}"), Path("headstart.yaml"))
    (group,) = config.fleet.variants
    assert [(each.workload, each.served) for each in group.workloads] == [
        ("llm/chat-8b", "chat-8b"),
        ("llm/chat-4b", "chat-4b"),
    ]


PLACEHOLDERS = """\
apiVersion: headstart/v1
kind: Config
placeholders:
  - {entry}
workloads: [{{workload: llm/chat, profile: qwen3-vl-2b-24gb}}]
"""


@pytest.mark.parametrize(
    ("entry", "place", "text"),
    [
        pytest.param("{placeholder: llm/chat}", "4:19", "scales the same Deployment as llm/chat; give the placeholders one of their own", id="a workload's own target"),
        pytest.param("{placeholder: a/p, workloads: [llm/chatt]}", "4:36", 'names "llm/chatt", which is no workload; did you mean llm/chat?', id="no such workload"),
        pytest.param("{placeholder: a/p, workloads: [b/x]}", "4:36", 'names "b/x", which is no workload; it must stand under workloads', id="nothing like it"),
        pytest.param("{placeholder: pool}", "4:19", "must be namespace/name in Kubernetes' spelling, got 'pool'", id="no namespace"),
        pytest.param("{placeholder: a/p, ahead: 40m}", "4:31", "ahead of a/p must lie in (0, 30m], got 40m", id="beyond the forecast"),
    ],
)  # fmt: skip
def test_placeholders_are_checked_against_the_workloads(entry: str, place: str, text: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_config(PLACEHOLDERS.format(entry=entry), Path("headstart.yaml"))
    (issue,) = error.value.issues
    assert (f"{issue.line}:{issue.column}", issue.text) == (place, text)


def test_two_placeholders_may_not_scale_the_same() -> None:
    entry = "{placeholder: a/p}\n  - {placeholder: a/q, target: {name: p}}"
    with pytest.raises(ConfigError) as error:
        parse_config(PLACEHOLDERS.format(entry=entry), Path("headstart.yaml"))
    assert [issue.text for issue in error.value.issues] == [
        "scales the same Deployment as a/p; give the placeholders one of their own"
    ]


def test_placeholders_have_their_targets_named() -> None:
    config = parse_config(PLACEHOLDERS.format(entry="{placeholder: a/p, ahead: 8m}"), Path("headstart.yaml"))
    assert [(each.placeholder, each.ahead, each.mode) for each in config.placeholders] == [
        ("a/p", timedelta(minutes=8), Mode.OBSERVE)
    ]
    assert config.placeholder_targets["a/p"].name == "p"
