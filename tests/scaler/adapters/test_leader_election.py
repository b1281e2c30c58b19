"""The election's thread against the API double: what it sends, what it says, and how it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kube_double import KubeDouble, Rule
from scaler.adapters.election import ElectionRule
from scaler.adapters.kubernetes.http import ApiConnection, Kubeconfig
from scaler.adapters.kubernetes.leases import LeaseApi, LeaseRef
from scaler.adapters.leadership import Ears, LeaderElection

LEASE = "/apis/coordination.k8s.io/v1/namespaces/headstart/leases"
MAY = Rule(verbs=("get", "update"), groups=("coordination.k8s.io",), resources=("leases",), namespaces=("headstart",))
WHOLE_SECOND = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)


@dataclass
class Log:
    """What was told."""

    told: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def info(self, event: str, **keys: Any) -> None:
        self.told.append((event, keys))

    warning = critical = info

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.told]


@dataclass
class Clock:
    """Seconds that pass when a test says so."""

    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Daemon:
    """One contender with its clock and what it told."""

    election: LeaderElection
    clock: Clock
    log: Log
    lost: list[bool]
    renewed: list[float]

    def after(self, seconds: float) -> Daemon:
        self.clock.now_s += seconds
        self.election.turn()
        return self


@pytest.fixture
def double() -> Iterator[KubeDouble]:
    with KubeDouble() as double:
        double.namespace("headstart")
        yield double


@pytest.fixture
def contender(double: KubeDouble, tmp_path: Path) -> Callable[..., Daemon]:
    def make(name: str, *, token: str | None = None, stands: Callable[[], bool] = lambda: True) -> Daemon:
        folder = tmp_path / name
        folder.mkdir()
        api = ApiConnection(Kubeconfig(path=double.kubeconfig(folder, token=token)), timeout_s=60.0)
        clock, log, lost, renewed = Clock(), Log(), [], []
        leases = LeaseApi(api, LeaseRef(namespace="headstart", name="headstart"), duration_s=15.0)
        ears = Ears(log=log, on_renewed=renewed.append, on_lost=lambda: lost.append(True))
        rule = ElectionRule(identity=name)
        election = LeaderElection(leases, rule, ears, stands=stands, clock_s=clock, wall=lambda: WHOLE_SECOND)
        return Daemon(election, clock, log, lost, renewed)

    return make


def spec(double: KubeDouble) -> dict[str, Any]:
    with double.store.changed:
        found: dict[str, Any] = double.store.get("leases", "headstart", "headstart")["spec"]
        return found


def touch(double: KubeDouble, **changes: Any) -> None:
    """What somebody else does to the lease."""
    with double.store.changed:
        item = double.store.get("leases", "headstart", "headstart")
        double.store.update("leases", {**item, "spec": {**item["spec"], **changes}})


def delete(double: KubeDouble) -> None:
    with double.store.changed:
        double.store.remove("leases", double.store.get("leases", "headstart", "headstart"))


def leading(contender: Callable[..., Daemon], name: str = "a", **settings: Any) -> Daemon:
    daemon = contender(name, **settings).after(0.0).after(15.0)
    assert daemon.election.leads
    return daemon


def test_a_missing_lease_is_made_watched_for_its_duration_and_taken(
    double: KubeDouble, contender: Callable[..., Daemon]
) -> None:
    a = contender("a").after(0.0)
    assert spec(double) == {"leaseDurationSeconds": 15}
    assert not a.after(14.9).election.leads
    assert a.after(0.1).election.leads
    assert (spec(double)["holderIdentity"], spec(double)["leaseTransitions"]) == ("a", 0)
    assert a.log.events == ["standby", "leader_acquired"]
    assert a.renewed == [10.5]


def test_the_leader_renews_the_other_one_stands_by_and_takes_over_when_it_is_silent(
    double: KubeDouble, contender: Callable[..., Daemon]
) -> None:
    a, b = leading(contender), contender("b").after(0.0)
    for _ in range(10):
        a.after(2.0)
        assert not b.after(2.0).election.leads
    assert b.log.told == [
        ("standby", {"holder": "a", "identity": "b", "meanwhile": "it decides in shadow and writes nothing"})
    ]
    b.after(14.9)  # since it saw a's last renewal, which was two seconds before its own last look
    assert not b.election.leads
    b.after(0.1)
    assert (b.election.leads, b.election.holder, spec(double)["leaseTransitions"]) == (True, "b", 1)
    assert b.log.told[-1][1]["was"] == "a"


def test_every_write_of_the_lease_names_its_version_and_no_time_ends_in_zeros(
    double: KubeDouble, contender: Callable[..., Daemon]
) -> None:
    """Without a version the server would overwrite whatever is there; microsecond 0 is refused with 400."""
    leading(contender).after(2.0)
    written = [request for request in double.requests if request.method == "PUT"]
    assert [request.status for request in written] == [200, 200]
    assert all(request.body["metadata"]["resourceVersion"] for request in written)
    assert [request.body["spec"]["renewTime"][-7:] for request in written] == ["000001Z", "000002Z"]


def test_a_renewal_is_one_though_the_time_of_day_stands_still(
    double: KubeDouble, contender: Callable[..., Daemon]
) -> None:
    """The server keeps the version of a write that changes nothing, and the others go by the version."""
    a, versions = leading(contender), set()
    for _ in range(4):
        a.after(2.0)
        with double.store.changed:
            versions.add(double.store.get("leases", "headstart", "headstart")["metadata"]["resourceVersion"])
    assert len(versions) == 4


def test_what_others_keep_on_the_lease_stays(double: KubeDouble, contender: Callable[..., Daemon]) -> None:
    chart = {"name": "headstart", "namespace": "headstart", "labels": {"helm": "yes"}}
    double.create("leases", {"metadata": chart, "spec": {"strategy": "OldestEmulationVersion"}})
    leading(contender)
    with double.store.changed:
        kept = double.store.get("leases", "headstart", "headstart")
    assert (kept["metadata"]["labels"], kept["spec"]["strategy"]) == ({"helm": "yes"}, "OldestEmulationVersion")


def test_a_change_by_another_hand_is_read_and_the_lease_renewed(
    double: KubeDouble, contender: Callable[..., Daemon]
) -> None:
    a = leading(contender)
    touch(double, preferredHolder="b")
    a.after(2.0)
    assert a.election.left_s() == 10.0
    assert spec(double)["preferredHolder"] == "b"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        pytest.param(lambda double: touch(double, holderIdentity="b"), "the lease is held by b", id="taken"),
        pytest.param(lambda double: touch(double, holderIdentity=""), "the lease was taken away", id="emptied"),
        pytest.param(lambda double: delete(double), "the lease was taken away", id="deleted"),
    ],
)
def test_a_leader_that_finds_the_lease_gone_has_lost_for_good(
    double: KubeDouble, contender: Callable[..., Daemon], spoil: Callable[[KubeDouble], None], reason: str
) -> None:
    a = leading(contender)
    spoil(double)
    a.after(2.0)
    assert (a.election.leads, a.election.lost, a.lost) == (False, reason, [True])
    assert not a.after(60.0).election.leads
    assert a.lost


def test_a_leader_that_cannot_renew_may_write_until_its_claim_ends(
    double: KubeDouble, contender: Callable[..., Daemon]
) -> None:
    a = leading(contender)
    double.fault(path="/leases", status=503, times=99)
    for _ in range(4):
        a.after(2.0)
    assert (a.election.leads, a.election.lost) == (True, None)
    a.clock.now_s += 2.0
    assert (a.election.leads, a.election.lost) == (False, "not renewed for 10 s"), "also while the thread hangs"
    a.after(0.0)
    assert a.lost == [True]
    assert a.log.events[-1] == "lease_failed", "told once, however often it fails"
    assert a.log.events.count("lease_failed") == 1


def test_it_recovers_and_says_so(double: KubeDouble, contender: Callable[..., Daemon]) -> None:
    a = leading(contender)
    double.fault(path="/leases", drop="after", method="PUT")
    a.after(2.0)
    assert a.election.left_s() == 8.0, "carried out or not, nobody told us"
    a.after(2.0)
    assert a.election.left_s() == 10.0
    assert a.log.events[-2:] == ["lease_failed", "lease_recovered"]


def test_taken_though_the_answer_was_lost(double: KubeDouble, contender: Callable[..., Daemon]) -> None:
    a = contender("a").after(0.0)
    double.fault(path="/leases", drop="after", method="PUT")
    assert not a.after(15.0).election.leads
    assert spec(double)["holderIdentity"] == "a"
    assert a.after(2.0).election.leads


def test_given_back_it_is_taken_at_once(double: KubeDouble, contender: Callable[..., Daemon]) -> None:
    a, b = leading(contender), contender("b").after(0.0)
    a.election.give_back()
    assert not a.election.leads
    assert spec(double)["holderIdentity"] == ""
    assert b.after(2.0).election.leads
    a.election.give_back()
    assert spec(double)["holderIdentity"] == "b", "what is not held is not given back"


def test_what_cannot_be_given_back_runs_out(double: KubeDouble, contender: Callable[..., Daemon]) -> None:
    a, b = leading(contender), contender("b").after(0.0)
    double.fault(method="PUT", path="/leases", status=503)
    a.election.give_back()
    assert a.log.told[-1][0] == "lease_not_given_back"
    assert not b.after(14.9).election.leads
    assert b.after(0.1).election.leads


def test_who_only_observes_leaves_the_lease_alone(double: KubeDouble, contender: Callable[..., Daemon]) -> None:
    active = False
    a = contender("a", stands=lambda: active).after(0.0).after(15.0)
    assert (double.requests, a.election.leads) == ([], False)
    active = True
    assert a.after(0.0).after(15.0).election.leads


def test_without_the_right_to_make_it_says_what_to_do(double: KubeDouble, contender: Callable[..., Daemon]) -> None:
    a = contender("a", token=double.account("scaler", MAY)).after(0.0).after(2.0)
    (told,) = a.log.told
    assert told[0] == "lease_failed"
    assert '- {apiGroups: ["coordination.k8s.io"], resources: ["leases"], verbs: ["create"]}' in told[1]["error"]
    assert "deploy/rbac.yaml" in told[1]["fix"]
    assert told[1]["meanwhile"] == "it writes nothing"


def test_made_beforehand_get_and_update_suffice(double: KubeDouble, contender: Callable[..., Daemon]) -> None:
    double.create("leases", {"metadata": {"name": "headstart", "namespace": "headstart"}})
    leading(contender, token=double.account("scaler", MAY))


def test_two_that_find_it_run_out_together_do_not_both_get_it(
    double: KubeDouble, contender: Callable[..., Daemon]
) -> None:
    double.create("leases", {"metadata": {"name": "headstart", "namespace": "headstart"}})
    a, b = contender("a").after(0.0), contender("b").after(0.0)
    double.fault(method="PUT", path="/leases", then=lambda: b.after(15.0))
    a.after(15.0)
    assert (a.election.leads, b.election.leads) == (False, True)
    assert [request.status for request in double.requests if request.method == "PUT"] == [200, 409]


@pytest.mark.parametrize("give_back", [True, False])
def test_the_thread_ends_when_asked(double: KubeDouble, contender: Callable[..., Daemon], give_back: bool) -> None:
    a = leading(contender)
    a.election.start()
    a.election.end(give_back=give_back)
    a.election.join()
    assert not [thread for thread in threading.enumerate() if thread.name == "election"]
    assert spec(double)["holderIdentity"] == ("" if give_back else "a")
    assert a.lost == []


def test_a_defect_ends_the_process_instead_of_leaving_a_standby_for_ever(contender: Callable[..., Daemon]) -> None:
    def broken() -> bool:
        raise ZeroDivisionError

    a = contender("a", stands=broken)
    a.election._run()
    assert a.election.lost == "a defect: ZeroDivisionError()"
    assert a.lost == [True]
    assert a.log.events == ["election_failed"]


def test_a_lease_that_is_none_is_a_failure_and_no_crash(double: KubeDouble, contender: Callable[..., Daemon]) -> None:
    double.fault(path="/leases", status=200, text='{"metadata": {}}', times=3)
    a = contender("a").after(0.0)
    assert a.log.events == ["lease_failed"]
    assert "is no Lease" in a.log.told[0][1]["error"]


def test_a_whole_lease_is_json_that_the_double_takes(double: KubeDouble, contender: Callable[..., Daemon]) -> None:
    leading(contender)
    assert LEASE in {request.path for request in double.requests}
    assert double.connections == 1
