"""From a raw file to a profile: a replica that is known is found again, predicted, and written as settings read it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scaler.config import read_profile
from scaler.errors import DataError
from scaler.profiling.derive import Asked, Derived, derive
from scaler.profiling.picture import render
from scaler.profiling.prediction import attainment, limit_rps, steady
from scaler.profiling.profile_file import profile_of, text_of, write_profile
from scaler.profiling.raw_sweep import RawSweep, read_raw_sweep
from scaler.service.model import LatencySlo, TokenShape, max_rate_rps
from sweep_cases import CHAT, KINDS, LONG, TRUTH, WRITE, raw_file

SLO = LatencySlo(ttft_s=1.0, itl_s=0.05)
ASKED = Asked(name="simulated", slo=SLO)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> RawSweep:
    return read_raw_sweep(raw_file(tmp_path_factory.mktemp("sweep") / "raw.jsonl"))


@pytest.fixture(scope="module")
def derived(sweep: RawSweep) -> Derived:
    return derive(sweep, ASKED)


def test_the_replica_is_found_again(derived: Derived) -> None:
    assert derived.fit.identified
    assert derived.service.alpha_s == pytest.approx(TRUTH.alpha_s, rel=0.03)
    assert derived.service.beta_s == pytest.approx(TRUTH.beta_s, rel=0.10)
    assert derived.service.per_sequence_s == pytest.approx(TRUTH.per_sequence_s, rel=0.10)
    assert (derived.service.max_num_seqs, derived.service.kv_tokens) == (8, 60_000)


def test_every_left_out_level_is_predicted(derived: Derived) -> None:
    """Nothing but the model made these requests, so nothing excuses a miss, close to the knee either."""
    assert len(derived.checks) == sum(len(each.rates) for each in KINDS)
    for check in derived.checks:
        assert abs(check.worst[1]) < 0.15, (check.level.name, check.level.rate_rps, check.off)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_limit_lies_where_the_replica_reaches_its_slo(derived: Derived, kind: Any) -> None:
    limit = next(each for each in derived.limits if each.name == kind.name)
    shape = TokenShape(input_tokens=kind.prompt, output_tokens=kind.output)
    truth_rps = limit_rps(TRUTH, derived.fit, shape, SLO, seed=7)
    assert limit.modelled_rps == pytest.approx(truth_rps, rel=0.10)
    assert limit.max_rps == min(limit.measured_rps, limit.modelled_rps)
    # the closed form's is one of means, a little beyond that of the 95th percentile
    assert limit.modelled_rps == pytest.approx(max_rate_rps(TRUTH, shape, SLO), rel=0.25)
    assert limit.kept_rps <= limit.measured_rps
    assert limit.missed_rps is not None
    assert limit.measured_rps <= limit.missed_rps
    served = steady(TRUTH, derived.fit, shape, 0.95 * limit.modelled_rps, seed=3)
    assert attainment(served, SLO) >= 0.93


def test_a_rate_that_was_over_too_soon_is_no_kept_rate(tmp_path: Path) -> None:
    """Beyond the knee for two seconds, everybody still kept a lax SLO. A replica could not go on like that."""
    derived = derive(read_raw_sweep(raw_file(tmp_path / "raw.jsonl")), replace(ASKED, slo=LatencySlo(ttft_s=600.0)))
    chat = next(each for each in derived.limits if each.name == "chat")
    assert chat.kept_rps == pytest.approx(6.0, rel=0.15)
    assert chat.measured_rps == chat.kept_rps


def test_the_file_is_one_that_settings_read(derived: Derived, tmp_path: Path) -> None:
    path = tmp_path / "profile.yaml"
    write_profile(path, profile_of(derived))
    profile = read_profile(path)
    assert profile.name == "simulated"
    assert [each.name for each in profile.classes] == ["chat", "long", "write"]
    assert profile.service is not None
    assert profile.service.per_sequence_s == pytest.approx(derived.service.per_sequence_s, rel=1e-3)
    assert profile.start is not None
    assert profile.start.total_s == 180.0
    for read, limit in zip(profile.classes, derived.limits, strict=True):
        assert read.max_rps == pytest.approx(limit.max_rps, rel=1e-3)
        assert read.slo == SLO
    assert "all times are identified" in profile.source
    assert [each.name for each in tmp_path.iterdir()] == ["profile.yaml"]


def test_one_shape_is_a_line_and_the_profile_says_so(tmp_path: Path) -> None:
    derived = derive(read_raw_sweep(raw_file(tmp_path / "raw.jsonl", [CHAT])), ASKED)
    assert not derived.fit.identified
    assert "for no other lengths" in derived.notes[0]
    assert "only alpha + b·n of each class is known" in text_of(profile_of(derived)).replace("\n ", "")
    near = [each for each in derived.checks if not each.level.beyond]
    assert all(abs(each.off["e2e_p50_s"]) < 0.15 for each in near)


def test_a_sweep_that_is_not_over_gives_what_it_has(tmp_path: Path) -> None:
    raw = raw_file(tmp_path / "raw.jsonl", [CHAT, LONG, WRITE])
    kept = [line for line in raw.read_text().splitlines() if '"write"' not in line or '"sweep"' in line]
    raw.write_text("\n".join(kept) + '\n{"kind":"request","lev')
    derived = derive(read_raw_sweep(raw), ASKED)
    assert [each.name for each in derived.limits] == ["chat", "long"]
    assert derived.notes[-1] == "not measured yet: write"


# ── What cannot be derived ────────────────────────────────────────────────────────────────────────────────────


def test_an_slo_that_nothing_keeps_is_said_with_the_class(sweep: RawSweep) -> None:
    with pytest.raises(DataError, match=r"class chat: at .* only 0 % kept the SLO \(TTFT 0.001 s\); ask for less"):
        derive(sweep, replace(ASKED, slo=LatencySlo(ttft_s=0.001)))


def test_a_server_that_nobody_looked_at_must_be_described(tmp_path: Path) -> None:
    sweep = read_raw_sweep(raw_file(tmp_path / "raw.jsonl", looked=False))
    with pytest.raises(DataError, match="--max-num-seqs"):
        derive(sweep, ASKED)
    with pytest.raises(DataError, match="--kv-tokens"):
        derive(sweep, replace(ASKED, max_num_seqs=8))
    assert derive(sweep, replace(ASKED, max_num_seqs=8, kv_tokens=60_000)).service.kv_tokens == 60_000


def test_a_cache_that_is_too_small_for_what_was_served_is_refused(sweep: RawSweep) -> None:
    with pytest.raises(DataError, match="500 tokens cannot have served a request of 816; see --kv-tokens"):
        derive(sweep, replace(ASKED, kv_tokens=500))


def test_too_little_says_to_go_on(tmp_path: Path) -> None:
    sweep = read_raw_sweep(raw_file(tmp_path / "raw.jsonl", [replace(CHAT, rates=(0.1,))]))
    with pytest.raises(DataError, match="let it go on, with a larger --budget"):
        derive(sweep, ASKED)


def drop_sent(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name != "sent"}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        pytest.param(lambda text: "", "not the raw file of a sweep", id="empty"),
        pytest.param(lambda text: "a,b\n1,2\n", r"raw.jsonl:1: not a line of JSON", id="a table"),
        pytest.param(lambda text: '{"kind":"sweep","format":"v9"}\n', "not the raw file", id="another format"),
        pytest.param(
            lambda text: "".join(json.dumps(drop_sent(json.loads(line))) + "\n" for line in text.splitlines()),
            "a line lacks what it should have",
            id="a field is missing",
        ),
    ],
)
def test_a_file_that_is_no_sweep(tmp_path: Path, spoil: Callable[[str], str], said: str) -> None:
    raw = raw_file(tmp_path / "raw.jsonl", [replace(CHAT, rates=(1.0,))])
    raw.write_text(spoil(raw.read_text()))
    with pytest.raises(DataError, match=said):
        read_raw_sweep(raw)


# ── The picture ───────────────────────────────────────────────────────────────────────────────────────────────


def test_the_picture_asks_nobody_and_shows_every_class(derived: Derived) -> None:
    page = render(derived)
    assert not re.findall(r"""(?:src|href)=["'](?!#)""", page)
    assert "<script" not in page
    for name in ("chat", "long", "write"):
        assert f"<h2>{name}: " in page
    assert page.count("<circle") == 2 * sum(len(each.rates) for each in KINDS)
    assert "nan" not in page
