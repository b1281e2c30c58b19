"""A story for each alert: what the series do, when it fires, when it is quiet.

Holds no test.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

CHAT = 'namespace="llm",workload="chat"'
TARGET = 'instance="10.0.0.1:8090"'
OTHER = 'instance="10.0.0.2:8090"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """Series, a sample a minute, and the minutes at which the alert is quiet, firing, and quiet again."""

    alert: str
    series: Mapping[str, str]
    fires_at: int
    quiet_at: tuple[int, ...] = ()
    labels: str = ""
    """Labels of the firing alert beside its name, as in `namespace="llm"`."""
    step: str = "1m"
    """Between two samples and two evaluations; longer for a story of days."""

    def tests(self) -> Iterator[dict[str, Any]]:
        fires = {"labels": f"{{{self.labels}}}", "value": 1}
        for minute, samples in ((self.fires_at, [fires]), *((minute, []) for minute in self.quiet_at)):
            by = ", ".join(re.findall(r"(\w+)=", self.labels))
            count = f'count by ({by}) (ALERTS{{alertname="{self.alert}",alertstate="firing"}})'
            yield {"expr": count, "eval_time": f"{minute}m", "exp_samples": samples}


def rounds(reason: str, *, action: str = "hold", every: str) -> dict[str, str]:
    """Decisions of llm/chat: `every` for those with this reason, none with another."""
    common = f"{CHAT},{TARGET}"
    return {
        f'headstart_decision_total{{action="{action}",reason="{reason}",{common}}}': every,
        f'headstart_decision_total{{action="hold",reason="steady",{common}}}': "0x300",
    }


def mostly(reason: str) -> dict[str, str]:
    """Nine rounds of ten held for this reason in the first hour, none afterwards."""
    return {
        f'headstart_decision_total{{action="hold",reason="{reason}",{CHAT},{TARGET}}}': "0+9x60 540x240",
        f'headstart_decision_total{{action="hold",reason="steady",{CHAT},{TARGET}}}': "0+1x60 61+10x240",
    }


SECOND = f"headstart_tick_last_success_timestamp_seconds{{{TARGET}}}"
IN_FORCE = f'headstart_state{{{CHAT},mode="active",state="ACTIVE"}}'
OBSERVED = f'headstart_state{{{CHAT},mode="observe",state="ACTIVE"}}'
PUBLISHED = f'headstart_state{{{CHAT},mode="publish",state="ACTIVE"}}'
WRITES = f'headstart_kubernetes_request_seconds_count{{verb="patch",{TARGET}'
LEADER, STANDBY = (f"headstart_leader{{{each}}}" for each in (TARGET, OTHER))

STORIES = [
    pytest.param(
        Story(alert="HeadstartDown", series={SECOND: "0+60x5 _x20 1560+60x60"}, fires_at=20, quiet_at=(4, 9, 30)),
        id="down",
    ),
    pytest.param(
        Story(
            alert="HeadstartStalled",
            series={SECOND: "0+60x10 600x20 1860+60x60"},
            fires_at=18,
            quiet_at=(10, 15, 40),
            labels=TARGET,
        ),
        id="stalled",
    ),
    pytest.param(
        Story(
            alert="HeadstartTickSlow",
            series={
                f'headstart_tick_duration_seconds_bucket{{le="10.0",{TARGET}}}': "0+1x60 60+10x60",
                f'headstart_tick_duration_seconds_bucket{{le="30.0",{TARGET}}}': "0+10x60 600+10x60",
                f'headstart_tick_duration_seconds_bucket{{le="+Inf",{TARGET}}}': "0+10x60 600+10x60",
            },
            fires_at=40,
            quiet_at=(14, 110),
            labels=TARGET,
        ),
        id="rounds take 10 to 30 s",
    ),
    pytest.param(
        Story(
            alert="HeadstartInvariantViolated",
            series={f'headstart_invariant_violations_total{{invariant="I2",{TARGET}}}': "0x30 1x200"},
            fires_at=35,
            quiet_at=(29, 95),
            labels='invariant="I2"',
        ),
        id="one broken promise",
    ),
    pytest.param(
        Story(
            alert="HeadstartJournalFailing",
            series={f"headstart_journal_errors_total{{{TARGET}}}": "0x10 1+1x20 21x60"},
            fires_at=20,
            quiet_at=(10, 45),
            labels=TARGET,
        ),
        id="disk full",
    ),
    pytest.param(
        Story(
            alert="HeadstartJobFailing",
            series={f'headstart_job_failures_total{{job="forecast",{TARGET}}}': "0+1x30 30x600"},
            fires_at=40,
            quiet_at=(5, 420),
            labels=f'{TARGET},job="forecast"',
        ),
        id="forecasts fail",
    ),
    pytest.param(
        Story(
            alert="HeadstartJobFailing",
            series={f'headstart_job_failures_total{{job="forecast",{TARGET}}}': "0x10 3x100"},
            fires_at=-1,
            quiet_at=(12, 60),
        ),
        id="three failures in six hours are no alert",
    ),
    pytest.param(
        Story(
            alert="HeadstartJobLate",
            series={f'headstart_job_late_total{{job="forecast",{TARGET}}}': "0x10 0+1x40 40x200"},
            fires_at=50,
            quiet_at=(20, 150),
            labels=f'{TARGET},job="forecast"',
        ),
        id="a forecast hangs",
    ),
    pytest.param(
        Story(
            alert="HeadstartJobLate",
            series={f'headstart_job_late_total{{job="forecast",{TARGET}}}': "0x10 0+1x5 5x100"},
            fires_at=-1,
            quiet_at=(20, 60),
        ),
        id="five late forecasts in an hour are no alert",
    ),
    pytest.param(
        Story(
            alert="HeadstartNoLeader",
            series={LEADER: "1x10 0x10 1x20", STANDBY: "0x40", IN_FORCE: "1x40"},
            fires_at=14,
            quiet_at=(9, 12, 25),
        ),
        id="nobody leads",
    ),
    pytest.param(
        Story(
            alert="HeadstartNoLeader",
            series={LEADER: "0x40", OBSERVED: "1x20 _x20", PUBLISHED: "_x20 1x20"},
            fires_at=24,
            quiet_at=(3, 19),
        ),
        id="nobody leads, and somebody is to once a workload is more than observed",
    ),
    pytest.param(
        Story(
            alert="HeadstartTwoLeaders",
            series={LEADER: "1x40", STANDBY: "0x10 1x10 0x20"},
            fires_at=14,
            quiet_at=(9, 12, 25),
        ),
        id="two lead",
    ),
    pytest.param(
        Story(
            alert="HeadstartLeaderFlapping",
            series={LEADER: "1x10 0x10 1x10 0x100", STANDBY: "0x10 1x10 0x10 1x100"},
            fires_at=35,
            quiet_at=(9, 25, 100),
        ),
        id="three take-overs in half an hour",
    ),
    pytest.param(
        Story(
            alert="HeadstartLeaderFlapping",
            series={LEADER: "1x10 0x100", STANDBY: "0x10 1x100"},
            fires_at=-1,
            quiet_at=(11, 40),
        ),
        id="one take-over is none",
    ),
    pytest.param(
        Story(
            alert="HeadstartBlind",
            series={f'headstart_blind{{{CHAT},signal="demand_rps",reason="unreachable"}}': "_x5 1x20 _x20"},
            fires_at=12,
            quiet_at=(4, 9, 32),
            labels=f'{CHAT},signal="demand_rps"',
        ),
        id="demand unknown",
    ),
    pytest.param(
        Story(
            alert="HeadstartBlind",
            series={
                f'headstart_blind{{{CHAT},signal="demand_rps",reason="unreachable"}}': "1x4 _x20",
                f'headstart_blind{{{CHAT},signal="demand_rps",reason="timeout"}}': "_x4 1x20",
            },
            fires_at=8,
            labels=f'{CHAT},signal="demand_rps"',
        ),
        id="the reason changes and the time goes on",
    ),
    pytest.param(
        Story(
            alert="HeadstartBlind",
            series={f'headstart_blind{{{CHAT},signal="e2e_p95_s",reason="no_series"}}': "1x60"},
            fires_at=-1,
            quiet_at=(30,),
        ),
        id="an optional signal is no alert",
    ),
    pytest.param(
        Story(
            alert="HeadstartDegraded",
            series={f'headstart_state{{{CHAT},mode="active",state="DEGRADED"}}': "1x20 _x20"},
            fires_at=10,
            quiet_at=(4, 30),
            labels=CHAT,
        ),
        id="the API refuses",
    ),
    pytest.param(
        Story(
            alert="HeadstartPatchFailing",
            series={f'{WRITES},code="4xx"}}': "0+3x40 120x60", f'{WRITES},code="2xx"}}': "0+1x100"},
            fires_at=30,
            quiet_at=(5, 80),
            labels=TARGET,
        ),
        id="three of four writes fail",
    ),
    pytest.param(
        Story(
            alert="HeadstartPatchFailing",
            series={f'{WRITES},code="4xx"}}': "0x10 1x100", f'{WRITES},code="2xx"}}': "0+1x100"},
            fires_at=-1,
            quiet_at=(15, 30),
        ),
        id="a conflict now and then is no alert",
    ),
    pytest.param(
        Story(
            alert="HeadstartHeld",
            series={f'headstart_state{{{CHAT},mode="active",state="HELD"}}': "1x60 _x20"},
            fires_at=40,
            quiet_at=(20, 70),
            labels=CHAT,
        ),
        id="another writer",
    ),
    pytest.param(
        Story(
            alert="HeadstartHeld",
            series={f'headstart_state{{{CHAT},mode="active",state="HELD(conflict)"}}': "1x60 _x20"},
            fires_at=40,
            quiet_at=(20, 70),
            labels=CHAT,
        ),
        id="two autoscalers",
    ),
    pytest.param(
        Story(
            alert="HeadstartPaused",
            series={f'headstart_state{{{CHAT},mode="active",state="PAUSED"}}': "1x150 _x2"},
            step="10m",
            fires_at=1450,
            quiet_at=(1430, 1510),
            labels=CHAT,
        ),
        id="a pause forgotten",
    ),
    pytest.param(
        Story(
            alert="HeadstartSettingsRefused",
            series={f"headstart_config_reload_ok{{{TARGET}}}": "1x10 0x20 1x20"},
            fires_at=20,
            quiet_at=(9, 14, 35),
            labels=TARGET,
        ),
        id="a typo in the settings",
    ),
    pytest.param(
        Story(
            alert="HeadstartClockSkew",
            series={f"headstart_clock_skew_seconds{{{TARGET}}}": "1x10 -45x30 0x20"},
            fires_at=25,
            quiet_at=(10, 18, 45),
            labels=TARGET,
        ),
        id="our clock is ahead",
    ),
    *(
        pytest.param(
            Story(alert=alert, series=mostly(reason), fires_at=30, quiet_at=(3, 90), labels=f"{CHAT},{TARGET}"),
            id=reason,
        )
        for alert, reason in (
            ("HeadstartAtMax", "at_max"),
            ("HeadstartGpuBudgetSpent", "gpu_budget"),
            ("HeadstartUnschedulable", "unschedulable"),
        )
    ),
    pytest.param(
        Story(
            alert="HeadstartAtMax",
            series=rounds("at_max", every="0+1x300")
            | {f'headstart_decision_total{{action="hold",reason="not_calm",{CHAT},{TARGET}}}': "0+1x300"},
            fires_at=-1,
            quiet_at=(60,),
        ),
        id="at the maximum every second round is no alert",
    ),
    pytest.param(
        Story(
            alert="HeadstartThrash",
            series={
                IN_FORCE: "1x400",
                f"headstart_replicas_current{{{CHAT},{TARGET}}}": "4 6x8 4x8 6x8 4x8 6x8 4x8 6x8 4x8 6x8 4x8 6x300",
            },
            fires_at=110,
            quiet_at=(60, 300),
            labels=CHAT,
        ),
        id="up and down every ten minutes",
    ),
    pytest.param(
        Story(
            alert="HeadstartThrash",
            series={
                IN_FORCE: "1x400",
                f"headstart_replicas_current{{{CHAT},{TARGET}}}": "1x9 2x9 3x9 4x9 5x9 6x9 7x9 8x9 7x9 6x9 5x9 4x100",
            },
            fires_at=-1,
            quiet_at=(80, 110, 140),
        ),
        id="a peak that comes and goes is none",
    ),
    pytest.param(
        Story(
            alert="HeadstartThrash",
            series={
                IN_FORCE.replace("active", "observe"): "1x400",
                f"headstart_replicas_current{{{CHAT},{TARGET}}}": "4 6x8 4x8 6x8 4x8 6x8 4x8 6x8 4x8 6x8 4x8 6x300",
            },
            fires_at=-1,
            quiet_at=(110,),
        ),
        id="somebody else's turns are not ours",
    ),
    pytest.param(
        Story(
            alert="HeadstartForecastDisabled",
            series={
                f'headstart_forecast_doubt{{{CHAT},cause="worse_than_last_value",{TARGET}}}': "1x60 0.4x60",
                f'headstart_state{{{CHAT},mode="active",state="REACTIVE_ONLY"}}': "1x120",
            },
            fires_at=40,
            quiet_at=(20, 70),
            labels=CHAT,
        ),
        id="worse than the last value",
    ),
    pytest.param(
        Story(
            alert="HeadstartForecastDisabled",
            series={
                f'headstart_forecast_doubt{{{CHAT},cause="unscored",{TARGET}}}': "1x60",
                f'headstart_state{{{CHAT},mode="observe",state="LEARNING"}}': "1x60",
            },
            fires_at=-1,
            quiet_at=(50,),
        ),
        id="the first day is no alert",
    ),
    pytest.param(
        Story(
            alert="HeadstartDrift",
            step="10m",
            series={f"headstart_drifted_series{{{TARGET}}}": "0 3x90 0x30"},
            fires_at=800,
            quiet_at=(600, 1000),
            labels=TARGET,
        ),
        id="drifted for half a day",
    ),
    pytest.param(
        Story(
            alert="HeadstartModelStale",
            step="10m",
            series={f'headstart_model_age_seconds{{model="trees",{TARGET}}}': "1200000+600x60 600+600x10"},
            fires_at=580,
            quiet_at=(30, 620),
            labels=TARGET,
        ),
        id="two weeks old",
    ),
    pytest.param(
        Story(
            alert="HeadstartModelStale",
            step="10m",
            series={f'headstart_model_age_seconds{{model="lstm",{TARGET}}}': "90000000+600x60"},
            fires_at=-1,
            quiet_at=(500,),
        ),
        id="the shipped network may be as old as it likes",
    ),
    pytest.param(
        Story(
            alert="HeadstartRefitFailing",
            step="10m",
            series={
                f'headstart_train_duration_seconds{{outcome="timed_out",{TARGET}}}': "3600x170 _x10",
                f'headstart_train_duration_seconds{{outcome="done",{TARGET}}}': "_x170 900x10",
            },
            fires_at=1600,
            quiet_at=(1400, 1750),
            labels=f'{TARGET},outcome="timed_out"',
        ),
        id="two nights in a row",
    ),
]
