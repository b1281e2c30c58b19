"""Growing the pooled quantile trees with LightGBM; runs offline, never in the daemon's process.

Decides the examples (random origins, a few horizons each, never more than a budget of rows, however many series there
are) and the trees' size; what is predicted from them is `forecaster.models.trees`' business, whose `features` are
learnt from here. One thread and fixed seeds: the same data and seed give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from forecaster.errors import FittingError
from forecaster.models import trees
from forecaster.models.quantiles import STALE_SPAN
from forecaster.preprocess import DAY, any_known, bins_in, roots
from forecaster.types import HORIZONS, LEVELS, Series

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.types import FloatArray

Progress = Callable[[int, int], None]
"""Called with the number of levels grown and of all."""

WINDOWS_AT_ONCE = 256
"""Windows of two days laid out at once: 6 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """How many examples the trees are shown, and how far they grow."""

    own_rows: int = 100_000
    """Examples of the site's own series, all together."""
    series_rows: int = 40_000
    """Most examples of one series."""
    fleet_rows: int = 40_000
    """Examples of the synthetic series, all together."""
    fleet_weight: float = 0.5
    """What an example of synthetic traffic counts against one of the site's own."""
    horizons_per_origin: int = 4
    least_rows: int = 1000
    """Fewer examples than these of the site's own are not learnt from."""
    trees_per_level: int = 100
    leaves: int = 31
    depth: int = 6
    learning_rate: float = 0.08
    least_leaf_rows: int = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """What trees learn from: `inputs` (N, FEATURES), NaN for unknown, and the scaled truth `target` (N,), all known."""

    inputs: FloatArray
    target: FloatArray


def fit_trees(
    own: Sequence[Series],
    *,
    fleet: Sequence[Series] = (),
    seed: int,
    growth: Growth | None = None,
    progress: Progress = lambda _done, _of: None,
) -> dict[str, NDArray[Any]]:
    """Trees for every level as `models.trees.Forest` reads them, learnt from `own` and, at less weight, from `fleet`.

    `fleet` is synthetic traffic that keeps a short history from being learnt by heart; it is brought to the step of
    `own`. Raises `FittingError` where LightGBM is not installed, or `own` says too little.
    """
    growth = growth if growth is not None else Growth()
    if not own:
        raise FittingError("trees need at least one series")
    step = own[0].step
    site = _examples(own, growth, budget=growth.own_rows, seed=seed)
    if site is None or site.target.size < growth.least_rows:
        raise FittingError(
            f"trees need {growth.least_rows} examples with a day of history before them, "
            f"got {site.target.size if site is not None else 0} from {len(own)} series"
        )
    coarse = [found for one in fleet if (found := _coarser(one, step)) is not None]
    more = _examples(coarse, growth, budget=growth.fleet_rows, seed=seed)
    parts = [site] if more is None else [site, more]
    weights = np.repeat([1.0, growth.fleet_weight][: len(parts)], [one.target.size for one in parts])
    both = Examples(
        inputs=np.concatenate([one.inputs for one in parts]), target=np.concatenate([one.target for one in parts])
    )
    grown = []
    for done, booster in enumerate(boosters(both, weights, growth, seed=seed), start=1):
        grown.append(booster)
        progress(done, len(LEVELS))
    return exported(grown)


def boosters(examples: Examples, weights: FloatArray, growth: Growth, *, seed: int) -> Iterator[Any]:
    """A LightGBM booster for each of `LEVELS`. Raises `FittingError` where LightGBM is not installed."""
    try:
        import lightgbm  # lazily: without it only this family is not fitted
    except ImportError as error:
        raise FittingError(f"trees need LightGBM ({error}): pip install 'headstart[train]'") from error

    settings = {
        "objective": "quantile",
        "learning_rate": growth.learning_rate,
        "num_leaves": growth.leaves,
        "max_depth": growth.depth,
        "min_data_in_leaf": growth.least_leaf_rows,
        "feature_fraction": 0.6,
        "bagging_fraction": 0.7,
        "bagging_freq": 1,
        "lambda_l2": 1.0,
        "max_bin": 127,
        "seed": seed,
        "num_threads": 1,  # sums in one order: the same seed gives the same bytes
        "deterministic": True,
        "force_row_wise": True,
        "verbose": -1,
    }
    dataset = lightgbm.Dataset(examples.inputs, examples.target, weight=weights, params=settings, free_raw_data=False)
    for level in LEVELS:
        yield lightgbm.train({**settings, "alpha": level}, dataset, growth.trees_per_level)


# ── Examples ──────────────────────────────────────────────────────────────────────────────────────────────────


def _examples(series: Sequence[Series], growth: Growth, *, budget: int, seed: int) -> Examples | None:
    """At most `budget` examples, as many of each series; None where nothing can be learnt from."""
    draw = np.random.default_rng(seed)
    most = budget // growth.horizons_per_origin
    if len(series) > most:
        series = [series[index] for index in np.sort(draw.choice(len(series), most, replace=False))]
    rows = min(growth.series_rows, budget // max(1, len(series)))
    origins = max(1, rows // growth.horizons_per_origin)
    parts = [part for one in series for part in _series_examples(one, origins, growth.horizons_per_origin, draw)]
    if not parts:
        return None
    return Examples(
        inputs=np.concatenate([one.inputs for one in parts]), target=np.concatenate([one.target for one in parts])
    )


def _series_examples(
    series: Series, origins: int, horizons_per_origin: int, draw: np.random.Generator
) -> Iterator[Examples]:
    """Examples at random origins that have at least a day before them, in pieces."""
    root = roots(series.values)
    known = np.flatnonzero(np.isfinite(root))
    if not known.size or not trees.can_see(series.step, HORIZONS):
        return
    newest = np.arange(known[0] + bins_in(DAY, series.step), root.size - HORIZONS[-1])
    if not newest.size:
        return
    picked = np.sort(draw.choice(newest, size=min(origins, newest.size), replace=False))
    width = trees.window_bins(series.step)
    padded = np.concatenate([np.full(width, np.nan), root])
    for low in range(0, picked.size, WINDOWS_AT_ONCE):
        now = picked[low : low + WINDOWS_AT_ONCE]
        windows = padded[now[:, None] + np.arange(1, width + 1)]
        seen = trees.features(windows, HORIZONS, series.step)
        usable = any_known(windows[:, -bins_in(STALE_SPAN, series.step) :]) & (seen.scale > 0.0)
        chosen = np.argsort(draw.random((now.size, len(HORIZONS))), axis=1)[:, :horizons_per_origin]
        truth = np.take_along_axis(root[now[:, None] + np.array(HORIZONS)], chosen, axis=1)
        inputs = np.take_along_axis(seen.matrix(HORIZONS), chosen[:, :, None], axis=1)
        target = (truth - seen.level[:, None]) / np.where(usable, seen.scale, 1.0)[:, None]
        counted = usable[:, None] & np.isfinite(target)
        yield Examples(inputs=inputs[counted], target=target[counted])


def _coarser(series: Series, step: timedelta) -> Series | None:
    """`series` as means over bins of `step`; None where that is not a whole number of its own bins."""
    bins, rest = divmod(step, series.step)
    if rest or not bins:
        return None
    count = series.values.size // bins
    return Series(start=series.start, step=step, values=series.values[: count * bins].reshape(count, bins).mean(axis=1))


# ── Export ────────────────────────────────────────────────────────────────────────────────────────────────────


def exported(grown: Sequence[Any]) -> dict[str, NDArray[Any]]:
    """Boosters, one for each of `LEVELS`, as the arrays that `models.trees.Forest` reads."""
    nodes: list[tuple[int, int, float, int, int, int]] = []
    levels: list[int] = []
    values: list[list[float]] = []
    for level, booster in enumerate(grown):
        for tree in booster.dump_model()["tree_info"]:
            leaves: list[float] = []
            _walk(tree["tree_structure"], len(levels), leaves, nodes)
            levels.append(level)
            values.append(leaves + [0.0] * (trees.LEAVES - len(leaves)))
    columns = list(zip(*nodes, strict=True)) if nodes else [()] * 6
    names = ("tree", "feature", "threshold", "first_leaf", "middle_leaf", "missing_left")
    found: dict[str, Any] = {f"node.{name}": column for name, column in zip(names, columns, strict=True)}
    found |= {"feature_set": [trees.FEATURE_SET], "tree.level": levels, "tree.value": values}
    return {name: np.array(found[name], dtype=kind) for name, kind in trees.STORED.items()}


def _walk(
    node: dict[str, Any], tree: int, leaves: list[float], nodes: list[tuple[int, int, float, int, int, int]]
) -> None:
    """Append `node`'s leaves from left to right, and its splits with the leaves that lie on their left."""
    if "split_feature" not in node:
        leaves.append(float(node["leaf_value"]))
        return
    if node["decision_type"] != "<=" or node["missing_type"] == "Zero":
        raise FittingError(f"a split of {node['decision_type']!r} with {node['missing_type']} missing is not exported")
    threshold, first = float(node["threshold"]), len(leaves)
    # Where the fit saw nothing unknown at a split, LightGBM reads unknown as 0.
    missing_left = bool(node["default_left"]) if node["missing_type"] == "NaN" else threshold >= 0.0
    _walk(node["left_child"], tree, leaves, nodes)
    nodes.append((tree, int(node["split_feature"]), threshold, first, len(leaves), int(missing_left)))
    _walk(node["right_child"], tree, leaves, nodes)
