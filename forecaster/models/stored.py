"""How each family's fit is written down, and how the bytes become a forecaster again.

Decides whether bytes hold a usable model: names, shapes, types and ranges are checked here, `ValueError` says what is
wrong. Weights and trees are safetensors, coefficients JSON; nothing that is read can run. It opens no file: `registry`
does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from forecaster.models import arima, holt_winters, network, trees
from forecaster.types import Forecaster, SeriesKey

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How one family is stored: its file's name, and how its bytes (and an id) become a forecaster.

    `reads` are the bins on which one made of minutes answers too; a fit of any other family belongs to its own.
    """

    file: str
    build: Callable[[bytes, str], Forecaster]
    reads: tuple[timedelta, ...] = ()


def network_bytes(weights: Mapping[str, NDArray[Any]]) -> bytes:
    """The pooled LSTM's weights as safetensors; the same weights give the same bytes."""
    return _safetensors(weights)


def trees_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """The pooled trees' arrays (`trees.STORED`) as safetensors; the same arrays give the same bytes."""
    return _safetensors(arrays)


def arima_bytes(fitted: Mapping[SeriesKey, arima.Coefficients]) -> bytes:
    """ARIMA coefficients by series as JSON."""
    return _json(
        {
            **_key_fields(key),
            "ar": list(one.ar),
            "difference": one.difference,
            "ma": list(one.ma),
            "mean": one.mean,
            "variance": one.variance,
        }
        for key, one in sorted(fitted.items())
    )


def holt_winters_bytes(fitted: Mapping[SeriesKey, holt_winters.Smoothing]) -> bytes:
    """Holt-Winters gains by series as JSON."""
    return _json(
        {**_key_fields(key), "level": one.level, "trend": one.trend, "season": one.season, "damping": one.damping}
        for key, one in sorted(fitted.items())
    )


def _build_network(data: bytes, model_id: str) -> Forecaster:
    weights = _arrays(data)
    shapes = {name: array.shape for name, array in weights.items()}
    if shapes != network.SHAPES:
        raise ValueError(f"weights {sorted(shapes.items())} differ from {sorted(network.SHAPES.items())}")
    if not all(array.dtype == np.float32 and np.isfinite(array).all() for array in weights.values()):
        raise ValueError("weights must be finite float32")
    return network.Network(weights=weights, model_id=model_id)


def _build_trees(data: bytes, model_id: str) -> Forecaster:
    return trees.Trees(forest=trees.Forest(arrays=_arrays(data)), model_id=model_id)


def _build_arima(data: bytes, model_id: str) -> Forecaster:
    fitted = {
        _key(row): arima.Coefficients(
            ar=tuple(map(float, row["ar"])),
            difference=int(row["difference"]),
            ma=tuple(map(float, row["ma"])),
            mean=float(row["mean"]),
            variance=float(row["variance"]),
        )
        for row in _rows(data)
    }
    for key, one in fitted.items():
        if not arima.is_usable(one):
            raise ValueError(f"coefficients of {key.workload} are not finite, stationary and invertible: {one}")
    return arima.Arima(model_id=model_id, fitted=fitted)


def _build_holt_winters(data: bytes, model_id: str) -> Forecaster:
    fitted = {
        _key(row): holt_winters.Smoothing(
            level=float(row["level"]),
            trend=float(row["trend"]),
            season=float(row["season"]),
            damping=float(row["damping"]),
        )
        for row in _rows(data)
    }
    return holt_winters.HoltWinters(model_id=model_id, fitted=fitted)


KINDS: Mapping[str, Kind] = {
    "lstm": Kind(file="weights.safetensors", build=_build_network, reads=network.READS),
    "trees": Kind(file="trees.safetensors", build=_build_trees),
    "arima": Kind(file="coefficients.json", build=_build_arima),
    "holt-winters": Kind(file="coefficients.json", build=_build_holt_winters),
}


def _safetensors(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    from safetensors.numpy import save  # lazily: only training and loading need it

    return bytes(save({name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}))


def _arrays(data: bytes) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load as from_safetensors

    try:
        return dict(from_safetensors(data))
    except SafetensorError as error:
        raise ValueError(f"not safetensors: {error}") from error


def _key_fields(key: SeriesKey) -> dict[str, str]:
    return {"workload": key.workload, "signal": key.signal, "class": key.request_class}


def _key(row: Mapping[str, Any]) -> SeriesKey:
    return SeriesKey(workload=str(row["workload"]), signal=str(row["signal"]), request_class=str(row["class"]))


def _rows(data: bytes) -> list[dict[str, Any]]:
    rows = json.loads(data)["series"]
    if not isinstance(rows, list):
        raise TypeError(f"series must be a list, got {type(rows).__name__}")
    return rows


def _json(rows: Iterable[dict[str, Any]]) -> bytes:
    return json.dumps({"series": list(rows)}, indent=1, sort_keys=True).encode()
