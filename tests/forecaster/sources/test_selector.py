"""Selectors: what is refused at once, because later it would fail or widen everybody's query.

Property: a pattern of pods' names that is accepted here is accepted by a real Prometheus.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forecaster.sources.exchange import Answer, Question, Wire
from forecaster.sources.promql import literal
from forecaster.sources.selector import WorkloadSelector


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        pytest.param({"workload": "chat"}, "namespace/name", id="no namespace"),
        pytest.param({"workload": "/chat"}, "namespace/name", id="empty namespace"),
        pytest.param({"labels": (('x"}', "a"),)}, "not a label name", id="hostile label name"),
        pytest.param({"labels": (("__name__", "up"),)}, "not a label name", id="the metric name as a label"),
        pytest.param({"labels": (("a", ""),)}, "every series", id="empty value"),
        pytest.param({"labels": (("a", "1"), ("a", "2"))}, "twice", id="label twice"),
        pytest.param({"labels": (("a", "\ud800"),)}, "Unicode", id="lone surrogate"),
        pytest.param({"deployment_label": "a b"}, "not a label name", id="deployment label"),
        pytest.param({"class_label": ""}, "not a label name", id="empty class label"),
        pytest.param({"demand_metric": "up{} or x"}, "not a metric name", id="hostile metric"),
        pytest.param({"pod_pattern": "chat-("}, "not a regular expression", id="broken pattern"),
        pytest.param({"pod_pattern": "chat-(?!large).*"}, "plain regular", id="RE2 has no look-ahead"),
        pytest.param({"pod_pattern": r"(a)\1"}, "plain regular", id="RE2 has no back-references"),
        pytest.param({"pod_pattern": "(?i)chat"}, "plain regular", id="flags"),
        pytest.param({"pod_pattern": "a++"}, "plain regular", id="possessive"),
        pytest.param({"pod_pattern": "a{2,3000}"}, "plain regular", id="a repeat RE2 refuses"),
        pytest.param({"pod_pattern": ""}, "plain regular", id="empty pattern"),
        pytest.param({"rate_window_s": 0}, "rate_window_s", id="no window"),
        pytest.param({"rate_window_s": 86400}, "rate_window_s", id="a day"),
        pytest.param({"namespaced": False}, "labels are needed", id="could mean everything"),
    ],
)
def test_refuses(settings: dict[str, Any], says: str):
    with pytest.raises(ValueError, match=says):
        WorkloadSelector(**{"workload": "llm/chat", **settings})


def test_the_series_namespace_may_differ_from_the_workloads():
    assert WorkloadSelector(workload="llm/chat").series_namespace == "llm"
    assert WorkloadSelector(workload="llm/chat", namespace="serving").series_namespace == "serving"


@pytest.mark.server
@given(pattern=st.text("ab01.-|()[]*+?{},^$:\\dw", min_size=1, max_size=12))
@settings(max_examples=60, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture])
def test_an_accepted_pattern_is_one_for_prometheus_too(fleet, pattern: str):
    try:
        WorkloadSelector(workload="llm/chat", pod_pattern=pattern)
    except ValueError:
        return
    outcome = Wire(fleet.connection).ask([Question(text=f"up{{pod=~{literal(pattern)}}}")], deadline_s=5)[0]
    assert isinstance(outcome, Answer), f"{pattern!r}: {outcome}"
