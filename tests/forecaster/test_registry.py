"""Stored models: whole or absent, checked before use, promoted and rolled back; damage is refused with the way out."""

from __future__ import annotations

import json
import pickle  # noqa: TID251  # the attack itself
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from forecaster import registry
from forecaster.errors import ArtefactError
from forecaster.models import network
from forecaster.models.arima import Arima, Coefficients
from forecaster.models.holt_winters import HoltWinters, Smoothing
from forecaster.models.network import Network
from forecaster.models.stored import arima_bytes, holt_winters_bytes, network_bytes
from forecaster.stages import Stage, Standing
from forecaster.types import SeriesKey

START = datetime(2026, 3, 2, tzinfo=UTC)
SPAN = registry.DataSpan(start=START, end=START + timedelta(days=14), series=2)
KEY = SeriesKey(workload="llm/chat", signal="demand_rps", request_class="ocr")
ARIMA = {KEY: Coefficients(ar=(0.5,), difference=1, ma=(-0.3,), variance=0.2)}
GAINS = {KEY: Smoothing(level=0.4, trend=0.02, season=0.05, damping=0.9)}


def weights(seed: int = 1) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {name: draw.normal(0, 0.1, shape).astype(np.float32) for name, shape in network.SHAPES.items()}


def stored(root: Path, model: str, data: bytes, **facts: object) -> str:
    return registry.save(root, model, data, span=SPAN, seed=7, report={"loss": 0.5}, **facts).name  # type: ignore[arg-type]


def test_every_kind_comes_back_as_it_was(tmp_path: Path) -> None:
    arima = registry.load(tmp_path, "arima", version=stored(tmp_path, "arima", arima_bytes(ARIMA)))
    smooth = registry.load(
        tmp_path, "holt-winters", version=stored(tmp_path, "holt-winters", holt_winters_bytes(GAINS))
    )
    net = registry.load(tmp_path, "lstm", version=stored(tmp_path, "lstm", network_bytes(weights())))
    assert isinstance(arima, Arima)
    assert isinstance(smooth, HoltWinters)
    assert isinstance(net, Network)
    assert (arima.fitted, smooth.fitted) == (ARIMA, GAINS)
    assert all(np.array_equal(net.weights[name], one) for name, one in weights().items())
    assert net.model_id.startswith("lstm@")


def test_the_manifest_carries_where_the_model_comes_from(tmp_path: Path) -> None:
    version = stored(tmp_path, "arima", arima_bytes(ARIMA))
    manifest, _ = registry.read(tmp_path, "arima", version=version)
    assert (manifest.span, manifest.seed, manifest.report, manifest.step_s) == (SPAN, 7, {"loss": 0.5}, 60.0)


def test_equal_content_is_one_version_and_other_content_another(tmp_path: Path) -> None:
    first, again = (stored(tmp_path, "arima", arima_bytes(ARIMA)) for _ in range(2))
    other = stored(tmp_path, "arima", arima_bytes({}))
    assert first == again != other
    assert registry.versions(tmp_path, "arima") == tuple(sorted((first, other)))
    assert not list((tmp_path / "arima").glob(".*"))


def test_a_version_is_live_only_after_promotion_and_one_call_takes_it_back(tmp_path: Path) -> None:
    first = stored(tmp_path, "arima", arima_bytes(ARIMA))
    assert registry.live_version(tmp_path, "arima") is None
    with pytest.raises(ArtefactError, match="headstart train"):
        registry.load(tmp_path, "arima")
    second = stored(tmp_path, "arima", arima_bytes({}))
    for version in (first, second):
        registry.promote(tmp_path, "arima", version)
    assert registry.live_version(tmp_path, "arima") == second
    assert registry.roll_back(tmp_path, "arima") == first
    assert registry.live_version(tmp_path, "arima") == first
    with pytest.raises(ArtefactError, match="no earlier version"):
        registry.roll_back(tmp_path, "arima")


NOW = START + timedelta(days=20)


def three(root: Path) -> tuple[str, str, str]:
    """Three versions of one family, none of them used yet."""
    first, second, third = (
        stored(root, "arima", arima_bytes({KEY: Coefficients(ar=(ar,), variance=0.2)})) for ar in (0.1, 0.2, 0.3)
    )
    return first, second, third


def test_the_first_version_goes_live_at_once_and_the_next_through_shadow(tmp_path: Path) -> None:
    first, second, third = three(tmp_path)
    assert registry.admit(tmp_path, "arima", first, reason="beat the naive ones", now=NOW) is Stage.LIVE
    assert registry.admit(tmp_path, "arima", second, reason="beat the first", now=NOW) is Stage.SHADOW
    assert registry.admit(tmp_path, "arima", third, reason="beat it too", now=NOW) is Stage.STORED
    assert (registry.live_version(tmp_path, "arima"), registry.shadow_version(tmp_path, "arima")) == (first, second)
    registry.promote(tmp_path, "arima", second, reason="a day in shadow", now=NOW + timedelta(days=1))
    assert (registry.live_version(tmp_path, "arima"), registry.shadow_version(tmp_path, "arima")) == (second, None)
    assert registry.admit(tmp_path, "arima", second, reason="again", now=NOW) is Stage.LIVE
    found = registry.stages(tmp_path, "arima")
    assert found == {
        first: Standing(stage=Stage.RETIRED, reason=f"{second} took its place", since=NOW + timedelta(days=1)),
        second: Standing(stage=Stage.LIVE, reason="a day in shadow", since=NOW + timedelta(days=1)),
        third: Standing(stage=Stage.STORED, reason=f"not taken up while {second} is in shadow: beat it too", since=NOW),
    }


def test_a_rollback_remembers_why_and_is_not_undone_by_a_job(tmp_path: Path) -> None:
    first, second, _ = three(tmp_path)
    for version in (first, second):
        registry.promote(tmp_path, "arima", version, reason="passed", now=NOW)
    assert registry.roll_back(tmp_path, "arima", reason="missed the Monday peak", now=NOW) == first
    found = registry.stages(tmp_path, "arima")
    assert found[second] == Standing(stage=Stage.ROLLED_BACK, reason="missed the Monday peak", since=NOW)
    assert found[first].reason == f"{second} was rolled back: missed the Monday peak"
    assert registry.admit(tmp_path, "arima", second, reason="passed again", now=NOW) is Stage.ROLLED_BACK
    assert registry.live_version(tmp_path, "arima") == first
    registry.promote(tmp_path, "arima", second)  # a person may
    assert registry.stages(tmp_path, "arima")[second] == Standing(stage=Stage.LIVE, reason="by hand")


def test_what_failed_is_off_with_its_reason_and_a_live_one_is_not_touched(tmp_path: Path) -> None:
    first, second, third = three(tmp_path)
    registry.set_aside(tmp_path, "arima", third, reason="no better than last-value", now=NOW)
    assert registry.live_version(tmp_path, "arima") is None
    assert registry.stages(tmp_path, "arima")[third].reason == "no better than last-value"
    registry.admit(tmp_path, "arima", first, reason="passed", now=NOW)
    registry.admit(tmp_path, "arima", second, reason="passed", now=NOW)
    registry.set_aside(tmp_path, "arima", second, reason="worse since", now=NOW)
    registry.set_aside(tmp_path, "arima", first, reason="worse since", now=NOW)
    assert (registry.live_version(tmp_path, "arima"), registry.shadow_version(tmp_path, "arima")) == (first, None)
    assert registry.stages(tmp_path, "arima")[second] == Standing(stage=Stage.STORED, reason="worse since", since=NOW)


def test_a_pointer_of_an_earlier_release_is_read(tmp_path: Path) -> None:
    first, second, third = three(tmp_path)
    (tmp_path / "arima" / "current.json").write_text(json.dumps({"version": second, "before": [first]}))
    assert {version: each.stage for version, each in registry.stages(tmp_path, "arima").items()} == {
        first: Stage.RETIRED,
        second: Stage.LIVE,
        third: Stage.STORED,
    }
    assert registry.roll_back(tmp_path, "arima", reason="why", now=NOW) == first


Damage = Callable[[Path], None]


def truncated(folder: Path) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def flipped(folder: Path) -> None:
    path = folder / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def no_file(folder: Path) -> None:
    (folder / "weights.safetensors").unlink()


def broken_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")


def changed(**facts: object) -> Damage:
    def change(folder: Path) -> None:
        path = folder / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | facts))

    return change


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        pytest.param(truncated, "does not match its hash", id="truncated"),
        pytest.param(flipped, "does not match its hash", id="one bit flipped"),
        pytest.param(no_file, "cannot read", id="file gone"),
        pytest.param(broken_manifest, "damaged", id="manifest is no JSON"),
        pytest.param(changed(schema=99), "train it again", id="another schema"),
        pytest.param(changed(signal="tokens_per_s"), "made for tokens_per_s", id="another signal"),
        pytest.param(changed(step_s=600.0), "steps of 600 s", id="another step"),
        pytest.param(changed(model="arima"), "not a stored lstm", id="another class"),
        pytest.param(changed(file="../../secret"), "not a stored lstm", id="file outside the folder"),
        pytest.param(changed(span=None), "damaged", id="no data span"),
    ],
)
def test_a_damaged_or_foreign_version_is_refused(tmp_path: Path, damage: Damage, text: str) -> None:
    version = stored(tmp_path, "lstm", network_bytes(weights()))
    registry.load(tmp_path, "lstm", version=version)
    damage(tmp_path / "lstm" / version)
    with pytest.raises(ArtefactError, match=text):
        registry.load(tmp_path, "lstm", version=version)


class Bomb:
    """Runs code when unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('code ran')",))


@pytest.mark.parametrize(
    ("model", "data"),
    [
        pytest.param("lstm", pickle.dumps(Bomb()), id="a pickle with a matching hash"),
        pytest.param("lstm", b"", id="empty"),
        pytest.param("lstm", network_bytes({"a": np.zeros(3, np.float32)}), id="other weights"),
        pytest.param("lstm", network_bytes(weights() | {"head.bias": np.zeros(5, np.float32)}), id="wrong shape"),
        pytest.param(
            "lstm", network_bytes(weights() | {"dense.bias": np.full(48, np.nan, np.float32)}), id="weights are NaN"
        ),
        pytest.param(
            "lstm", network_bytes({n: w.astype(np.float64) for n, w in weights().items()}), id="double precision"
        ),
        pytest.param("arima", pickle.dumps(Bomb()), id="a pickle for JSON"),
        pytest.param("arima", b'{"series": 3}', id="no list"),
        pytest.param("arima", b'{"series": [{"workload": "a/b"}]}', id="fields missing"),
        pytest.param("arima", arima_bytes({KEY: Coefficients(ar=(1.5,), variance=1.0)}), id="explosive coefficients"),
        pytest.param(
            "holt-winters", b'{"series": [{"workload": "a", "signal": "b", "class": "c", "level": 7}]}', id="gains"
        ),
    ],
)
def test_content_that_fits_its_hash_but_is_no_model_is_refused(tmp_path: Path, model: str, data: bytes) -> None:
    version = stored(tmp_path, model, data)
    with pytest.raises(ArtefactError, match="train it again"):
        registry.load(tmp_path, model, version=version)


@pytest.mark.parametrize("name", ["", "..", "../../etc", "0" * 11, "zzzzzzzzzzzz"])
def test_a_version_is_a_hash_and_nothing_else(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArtefactError):
        registry.read(tmp_path, "lstm", version=name)
    with pytest.raises(ArtefactError):
        registry.promote(tmp_path, "lstm", name)


def test_a_damaged_pointer_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "lstm").mkdir()
    (tmp_path / "lstm" / "current.json").write_text("[]")
    with pytest.raises(ArtefactError, match="promote a version again"):
        registry.live_version(tmp_path, "lstm")
    version = stored(tmp_path, "lstm", network_bytes(weights()))
    registry.promote(tmp_path, "lstm", version)
    assert registry.live_version(tmp_path, "lstm") == version


def test_members_prefer_the_sites_own_models_and_report_what_was_refused(tmp_path: Path) -> None:
    shipped = registry.members()
    names = [one.model_id.partition("@")[0] for one in shipped.forecasters]
    assert names == ["last-value", "recent-hours", "seasonal-naive", "seasonal-delta", "holt-winters", "lstm"]
    assert shipped.refused == {}

    for model, data in (("arima", arima_bytes(ARIMA)), ("lstm", network_bytes(weights()))):
        registry.promote(tmp_path, model, stored(tmp_path, model, data))
    own = {one.model_id.partition("@")[0]: one.model_id for one in registry.members(tmp_path).forecasters}
    assert own["lstm"].endswith(registry.live_version(tmp_path, "lstm") or "?")

    truncated(tmp_path / "lstm" / (registry.live_version(tmp_path, "lstm") or ""))
    fallen = registry.members(tmp_path)
    assert "does not match its hash" in fallen.refused["lstm"]
    shipped_id = next(one.model_id for one in shipped.forecasters if one.model_id.startswith("lstm"))
    assert shipped_id in {one.model_id for one in fallen.forecasters}
    assert any(isinstance(one, Arima) for one in fallen.forecasters)


def test_on_wide_bins_the_network_is_a_member_and_a_fit_made_of_minutes_is_not(tmp_path: Path) -> None:
    for model, data in (("lstm", network_bytes(weights())), ("arima", arima_bytes(ARIMA))):
        registry.promote(tmp_path, model, stored(tmp_path, model, data))
    found = registry.members(tmp_path, step=timedelta(minutes=10))
    families = {one.model_id.partition("@")[0] for one in found.forecasters}
    assert "lstm" in families
    assert "arima" not in families
    assert "steps of 60 s, wanted demand_rps in steps of 600 s" in found.refused["arima"]
    assert (
        "steps of 60 s, wanted demand_rps in steps of 900 s"
        in registry.members(tmp_path, step=timedelta(minutes=15)).refused["lstm"]
    )
