"""PromQL building: what is quoted, what is scoped, and whose a pod is.

Properties: any text survives as a literal, in a matcher and in a set of values, and the query parses with the same
selectors as for a harmless name; the number of queries does not grow with the number of workloads.
"""

from __future__ import annotations

import re

import promql_parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.sources import plan, promql
from forecaster.sources.catalogue import CATALOGUE, Candidate, Group
from forecaster.sources.exchange import Answer, Question, Wire
from forecaster.sources.plan import Choices
from forecaster.sources.promql import Choice, Query, Reach
from forecaster.sources.selector import WorkloadSelector

HOSTILE = [
    'd0"} or x{',
    "a\\",
    'a\\"',
    "a\nb",
    "{__name__=~'.+'}",
    "$1",
    "a|b",
    "x.*",
    "é😀",
    "\x00\x07",
    "`",
    "'",
    "]",
]

texts = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20))


def all_choices(selectors: list[WorkloadSelector]) -> Choices:
    """Every signal from its last candidate, in the first way it can be tied to the workload."""
    return {
        (s.workload, signal.name): Choice(
            candidate=signal.candidates[-1], reach=promql.reaches(signal.candidates[-1], s, None)[0]
        )
        for s in selectors
        for signal in CATALOGUE
    }


def all_queries(selectors: list[WorkloadSelector]) -> list[Query]:
    """Every query the product could send for these workloads."""
    choices = all_choices(selectors)
    missing = {signal.name: selectors for signal in CATALOGUE}
    models = {s.workload: "m" for s in selectors}
    return [
        *plan.reading_queries(selectors, selectors, choices, {}),
        plan.model_query(selectors),
        plan.presence_query(selectors, models, within_s=600),
        plan.edge_query(selectors, choices),
        plan.diagnosis_query(missing, choices),
        *(plan.history_query([signal], selectors, choices, 60) for signal in CATALOGUE),
        *(plan.samples_query([signal], selectors, choices, 600) for signal in CATALOGUE),
        plan.evidence_query(selectors, choices, 60),
    ]


def selectors_in(text: str) -> list[tuple[str, tuple[tuple[str, str, str], ...]]]:
    """Metric name and matchers of every series selector, as an independent parser reads them."""
    found: list[tuple[str, tuple[tuple[str, str, str], ...]]] = []
    pending = [promql_parser.parse(text)]
    while pending:
        node = pending.pop()
        if isinstance(node, promql_parser.VectorSelector):
            matchers = tuple(sorted((m.name, str(m.op), m.value) for m in node.matchers.matchers))
            found.append((node.name, matchers))
        elif isinstance(node, promql_parser.MatrixSelector):
            pending.append(node.vector_selector)
        elif isinstance(node, promql_parser.Call):
            pending += node.args
        elif isinstance(node, promql_parser.BinaryExpr):
            pending += [node.lhs, node.rhs]
        elif hasattr(node, "expr"):
            pending.append(node.expr)
    return found


@given(value=texts)
def test_a_hostile_value_stays_one_value(value: str):
    ((_, matchers),) = selectors_in(f"up{{{promql.one_of('model_name', [value])}}}")
    assert matchers == (("model_name", "MatchOp.Equal", value),)


@given(values=st.lists(texts, min_size=2, max_size=4, unique=True))
def test_a_set_of_hostile_values_matches_them_and_nothing_else(values: list[str]):
    ((_, ((name, op, pattern),)),) = selectors_in(f"up{{{promql.one_of('model_name', values)}}}")
    assert (name, op) == ("model_name", "MatchOp.Re")
    compiled = re.compile(pattern, re.DOTALL)
    assert all(compiled.fullmatch(value) for value in values)
    assert not compiled.fullmatch("".join(values))


@given(value=texts)
@settings(max_examples=30)
def test_a_hostile_name_cannot_widen_any_query(value: str):
    def shape(text: str) -> list[tuple[str, list[str]]]:
        return [(name, [label for label, _, _ in matchers]) for name, matchers in selectors_in(text)]

    hostile = [WorkloadSelector(workload=f"llm/{value}"), WorkloadSelector(workload="llm/b", labels=(("m", value),))]
    harmless = [WorkloadSelector(workload="llm/aaa"), WorkloadSelector(workload="llm/b", labels=(("m", "aaa"),))]
    if value != "b":
        for bad, good in zip(all_queries(hostile), all_queries(harmless), strict=True):
            assert shape(bad.text) == shape(good.text)


def test_every_query_of_every_kind_of_selector_parses_and_is_scoped():
    selectors = [
        WorkloadSelector(workload="llm/chat"),
        WorkloadSelector(workload="llm/chat-large"),
        WorkloadSelector(workload="llm/x", labels=(("model_name", "x"), ("app", "y"))),
        WorkloadSelector(workload="a/y", deployment_label="deployment", class_label="tenant"),
        WorkloadSelector(workload="a/z", pod_pattern="z-.*", rate_window_s=60),
        WorkloadSelector(workload="a/n", namespaced=False, labels=(("model_name", "n"),)),
    ]
    for query in all_queries(selectors):
        found = selectors_in(query.text)
        # `up` of a workload without a namespace, and the diagnosis, look beyond the scope on purpose.
        loose = [
            name
            for name, matchers in found
            if not [label for label, *_ in matchers if label != "__name__"]
            and name != "up"
            and query.name != "diagnosis"
        ]
        assert found
        assert not loose, f"{loose} in {query.name} would read every workload's series"


@pytest.mark.parametrize(
    ("pod", "owner"),
    [
        pytest.param("chat-7d9f8b6c5d-x2x4z", "chat", id="Deployment"),
        pytest.param("chat-7d9f8b6c5d-abcde", "chat", id="Deployment, suffix made by hand"),
        pytest.param("chat-abc123-xyz12", "chat", id="Deployment, hash made by hand"),
        pytest.param("chat-x2x4z", "chat", id="ReplicaSet"),
        pytest.param("chat-0", "chat", id="StatefulSet"),
        pytest.param("chat-137", "chat", id="StatefulSet, three digits"),
        pytest.param("chat-large-7d9f8b6c5d-x2x4z", "chat-large", id="the longer name's Deployment"),
        pytest.param("chat-large-0", "chat-large", id="the longer name's StatefulSet"),
        pytest.param("chat-large-x2x4z", "chat-large", id="the longer name's ReplicaSet"),
        pytest.param("chat-preview-x2x4z", None, id="a stranger's Job is not chat's"),
        pytest.param("chat-preview-7d9f8b6c5d-x2x4z", None, id="a stranger's Deployment"),
        pytest.param("chat-preview-0", None, id="a stranger's StatefulSet"),
        pytest.param("my-chat-7d9f8b6c5d-x2x4z", None, id="a name before it"),
        pytest.param("chat", None, id="a bare pod"),
        pytest.param("chatx7d9f8b6c5d-x2x4z", None, id="no dash"),
    ],
)
def test_a_pod_belongs_to(pod: str, owner: str | None):
    selectors = [WorkloadSelector(workload="llm/chat"), WorkloadSelector(workload="llm/chat-large")]
    (scope,) = promql.scopes(selectors, Choice(candidate=Candidate(metric="up"), reach=Reach.OWN), {})
    assert scope.rewrite is not None
    match = re.fullmatch(scope.rewrite[1], pod)
    assert (match.group(1) if match else None) == owner


def test_a_neighbouring_namespace_cannot_take_pods_by_a_longer_name():
    selectors = [WorkloadSelector(workload="a/chat-7b2x9q"), WorkloadSelector(workload="b/chat")]
    scopes = promql.scopes(selectors, Choice(candidate=Candidate(metric="up"), reach=Reach.OWN), {})
    assert [set(scope.owners) for scope in scopes] == [{("a", "chat-7b2x9q")}, {("b", "chat")}]


@given(count=st.integers(1, 60), kinds=st.lists(st.integers(0, 2), min_size=60, max_size=60))
def test_the_number_of_queries_does_not_grow_with_the_workloads(count: int, kinds: list[int]):
    options = ({}, {"labels": (("model_name", "m"),)}, {"deployment_label": "deployment"})
    selectors = [WorkloadSelector(workload=f"ns{i}/w{i}", **options[kinds[i]]) for i in range(count)]
    assert len(plan.reading_queries(selectors, selectors, all_choices(selectors), {})) == len(Group) + 1


def test_workloads_of_one_shape_share_one_expression():
    selectors = [WorkloadSelector(workload=f"llm/w{i}", labels=(("model_name", f"m{i}"),)) for i in range(200)]
    demand, *_ = plan.reading_queries(selectors, selectors, all_choices(selectors), {})
    assert len(demand.terms) == 3


def test_a_latency_without_a_target_is_asked_for_with_what_is_only_shown():
    """The histograms are most of what a fleet's Prometheus reads for us: 75 series a pod, at every tick."""
    chat, code = WorkloadSelector(workload="llm/chat"), WorkloadSelector(workload="llm/code")
    judged = {"llm/chat": ("e2e_p95_s",), "llm/code": ()}
    choices = all_choices([chat, code])
    queries = {query.name: query for query in plan.reading_queries([chat, code], [code], choices, judged)}

    def latencies_of(query: str, workload: str) -> set[str]:
        return {
            term.signal
            for term in queries[query].terms
            if "p95" in term.signal and any(workload in owners for owners in term.scope.owners.values())
        }

    assert latencies_of(Group.LATENCY, "llm/chat") == {"e2e_p95_s"}
    assert latencies_of(Group.LATENCY, "llm/code") == set()
    assert latencies_of(Group.REPORTING, "llm/chat") == set(), "not its turn"
    assert latencies_of(Group.REPORTING, "llm/code") == {"e2e_p95_s", "ttft_p95_s", "queue_time_p95_s", "itl_p95_s"}


@pytest.mark.server
@pytest.mark.parametrize("name", HOSTILE)
def test_a_real_prometheus_reads_the_same_as_we_meant(fleet, name: str):
    wire = Wire(fleet.connection)
    selectors = [WorkloadSelector(workload=f"llm/{name}"), WorkloadSelector(workload="llm/b", labels=(("m", name),))]
    queries = all_queries(selectors)
    reads = [query for query in queries if query.name not in ("diagnosis",)]
    answers = [wire.ask([Question(text=query.text)], deadline_s=8.0)[0] for query in reads[:8]]
    assert all(isinstance(answer, Answer) for answer in answers), answers
    assert not any(answer.rows for answer in answers if isinstance(answer, Answer)), "a hostile name matched something"


# ── The whole query ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("terms", [1, 2, 3, 5, 61])
def test_terms_are_joined_in_pairs_and_none_is_lost(terms: int) -> None:
    """A chain looks at the rows of the first term once for every further one."""
    scope = promql.Scope(matchers="", by=(), owners={})
    made = tuple(
        promql.Term(signal="demand_rps", part=promql.Part.VALUE, scope=scope, expression=f"metric_{n}")
        for n in range(terms)
    )
    text = Query(name="demand", terms=made).text
    promql_parser.parse(text)
    assert re.findall(r"metric_(\d+)", text) == [str(n) for n in range(terms)]
    assert re.findall(r'"headstart_term", "(\d+)"', text) == [str(n) for n in range(terms)]
    bare = re.sub(r"label_replace\(.*?\)", "", text)
    depth = max((bare[:at].count("(") - bare[:at].count(")") for at in range(len(bare) + 1)), default=0)
    assert 2**depth >= terms / 2
    assert depth <= 6


# ── Pools by class ────────────────────────────────────────────────────────────────────────────────────────────────


def a_pool(name: str, *classes: str, **settings: object) -> WorkloadSelector:
    labels = {"demand_labels": (("model", "chat"),), **settings}
    return WorkloadSelector(workload=f"llm/{name}", classes=classes, **labels)  # type: ignore[arg-type]


def test_pools_of_one_model_have_scopes_of_their_own():
    candidate = plan.candidates_of(CATALOGUE[0], a_pool("gui", "gui"))[0]
    choice = Choice(candidate=candidate, reach=Reach.DEMAND_LABELS)
    found = promql.scopes([a_pool("gui", "gui"), a_pool("text", "html", "text")], choice, {})
    assert {scope.matchers: dict(scope.owners) for scope in found} == {
        'model="chat",request_class="gui"': {("chat",): ("llm/gui",)},
        'model="chat",request_class=~"html|text"': {("chat",): ("llm/text",)},
    }


def test_pools_of_many_models_with_the_same_classes_share_one_expression():
    pools = [a_pool(f"w{i}", "gui", demand_labels=(("model", f"m{i}"),)) for i in range(200)]
    choice = Choice(candidate=plan.candidates_of(CATALOGUE[0], pools[0])[0], reach=Reach.DEMAND_LABELS)
    (scope,) = promql.scopes(pools, choice, {})
    assert len(scope.owners) == 200


def test_what_tells_no_classes_apart_is_no_demand_of_a_pool():
    found = [each.metric for each in plan.candidates_of(CATALOGUE[0], a_pool("gui", "gui"))]
    assert found == ["headstart_gateway_requests_total"]
    named = a_pool("gui", "gui", demand_metric="nginx_requests_total", class_label="kind")
    assert plan.candidates_of(CATALOGUE[0], named)[0].metric == "nginx_requests_total"


@given(texts)
def test_a_hostile_class_widens_no_query(name: str):
    choice = Choice(candidate=plan.candidates_of(CATALOGUE[0], a_pool("gui", "gui"))[0], reach=Reach.DEMAND_LABELS)
    for classes in ((name,), (name, "gui-of-mine")):
        if len(set(classes)) == len(classes):
            (scope,) = promql.scopes([a_pool("gui", *classes)], choice, {})
            selector = promql_parser.parse(f"up{{{scope.matchers}}}")
            assert [each.name for each in selector.matchers.matchers] == ["model", "request_class"]
