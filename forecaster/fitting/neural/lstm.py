"""Training of the pooled LSTM: the only module that knows both torch and the network's features.

Decides the training schedule, nothing about prediction: what it trains is exactly what `forecaster.models.network`
computes from the exported weights. Seeded and deterministic: the same seed, data and torch build give the same bytes
on the same kind of processor, so a GPU's network is another version than a CPU's, of equal quality.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from forecaster.errors import FittingError
from forecaster.models import network
from forecaster.preprocess import roots
from forecaster.types import HORIZONS, LEVELS, STEP, Series

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.models.network import Float32Array
    from forecaster.types import FloatArray

    IntArray = NDArray[np.int64]

Progress = Callable[[int, float], None]
"""Called with the step and the recent loss, now and then."""
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Of what a network said and what was wanted of it."""
ROWS_AT_ONCE = 4096
"""Windows that a network is asked about at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long and on what the network is trained."""

    windows_per_series: int = 500
    """Random origins drawn from each series."""
    steps: int = 5000
    batch: int = 256
    learning_rate: float = 4e-3
    """Peak rate; it rises over the first twentieth of the steps and falls along a cosine to nothing."""
    wide_ratio: float = 0.25
    """Share of windows shown in bins of more than a minute (`network.WIDTHS`), made from the same minutes."""
    no_yesterday_ratio: float = 0.1
    """Share of windows shown without the day before, so that the first day of a workload is no surprise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Training windows: inputs as in `network.Features`, `target` (N, horizons) scaled, NaN where not known."""

    sequence: Float32Array
    static: Float32Array
    target: Float32Array


class Module(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """The network as torch trains it; its state dict has the names and shapes of `network.SHAPES`."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(network.CHANNELS, network.HIDDEN, batch_first=True)
        self.dense = nn.Linear(network.HIDDEN + network.STATIC, network.DENSE)
        self.head = nn.Linear(network.DENSE, len(HORIZONS) * len(LEVELS))
        self.skip = nn.Linear(network.STATIC, len(HORIZONS), bias=False)

    def forward(self, sequence: torch.Tensor, static: torch.Tensor) -> torch.Tensor:
        """Scaled quantiles (N, horizons, levels)."""
        _, (hidden, _) = self.lstm(sequence)
        dense = torch.relu(self.dense(torch.cat([hidden[-1], static], dim=1)))
        head = self.head(dense).reshape(-1, len(HORIZONS), len(LEVELS))
        median = head[:, :, :1] + self.skip(static)[:, :, None]
        above = running_sums(nn.functional.softplus(head[:, :, 1:]))
        return torch.cat([median, median + above], dim=2)


def running_sums(rises: torch.Tensor) -> torch.Tensor:
    """Sums along the last axis up to each place. On a GPU torch's own is refused where results must repeat."""
    return torch.cumsum(rises, dim=-1) if rises.device.type == "cpu" else repeatable_sums(rises)


def repeatable_sums(rises: torch.Tensor) -> torch.Tensor:
    """The same by one sum for each place: there are three."""
    return torch.stack([rises[..., : upto + 1].sum(dim=-1) for upto in range(rises.shape[-1])], dim=-1)


def examples_of(series: Sequence[Series], *, schedule: Schedule, seed: int) -> Examples:
    """Windows at random origins of every series, with the true values that came after them.

    Raises `FittingError` if no series has a day and a horizon of one-minute history.
    """
    draw = np.random.default_rng(seed)
    parts = [part for one in series if (part := _windows(one, schedule, draw)) is not None]
    if not parts:
        raise FittingError(f"the pooled network needs more than {network.WINDOW_BINS} minutes of at least one series")
    return _joined(parts)


def _windows(series: Series, schedule: Schedule, draw: np.random.Generator) -> Examples | None:
    newest = np.arange(network.WINDOW_BINS - 1, series.values.size - HORIZONS[-1])
    if series.step != STEP or not newest.size:
        return None
    origins = draw.choice(newest, size=min(schedule.windows_per_series, newest.size), replace=False)
    wide = draw.random(origins.size) < schedule.wide_ratio
    minutes = np.where(wide, draw.choice(network.WIDTHS[1:], origins.size), network.WIDTHS[0])
    return _joined(
        [
            _windows_of(series.values, np.sort(origins[minutes == width]), schedule, draw, minutes=width)
            for width in network.WIDTHS
        ]
    )


def _windows_of(
    values: FloatArray, origins: IntArray, schedule: Schedule, draw: np.random.Generator, *, minutes: int
) -> Examples:
    """Windows in bins of that many minutes, each ending with the minute of its origin."""
    span = network.WINDOW_BINS // minutes * minutes
    windows = _bins(values, origins[:, None] + np.arange(1 - span, 1), minutes)
    windows[draw.random(origins.size) < schedule.no_yesterday_ratio, : -(network.DAY_BINS // minutes)] = np.nan
    seen = network.features(windows, minutes=minutes)
    usable = np.isfinite(windows[:, -(30 // minutes) :]).any(axis=1) & (seen.scale > 0.0)
    ahead = _bins(values, origins[:, None] + np.arange(1, minutes * HORIZONS[-1] + 1), minutes)
    truth = ahead[:, np.array(HORIZONS) - 1]
    target = (truth - seen.level[:, None]) / np.where(seen.scale > 0.0, seen.scale, 1.0)[:, None]
    return Examples(
        sequence=seen.sequence[usable], static=seen.static[usable], target=target[usable].astype(np.float32)
    )


def _bins(values: FloatArray, places: IntArray, minutes: int) -> FloatArray:
    """Roots of the means of so many minutes each; NaN where one of them is unknown or past the end."""
    known = np.where(places < values.size, values[np.minimum(places, values.size - 1)], np.nan)
    return roots(known.reshape(known.shape[0], known.shape[1] // minutes, minutes).mean(axis=2))


def _joined(parts: Sequence[Examples]) -> Examples:
    return Examples(
        sequence=np.concatenate([one.sequence for one in parts]),
        static=np.concatenate([one.static for one in parts]),
        target=np.concatenate([one.target for one in parts]),
    )


def chosen_device(asked: str) -> torch.device:
    """The device for "auto" (a GPU where torch finds one), "cpu" or "cuda"; `FittingError` if there is no GPU."""
    found = torch.cuda.is_available()
    if asked == "cuda" and not found:
        raise FittingError(f"torch {torch.__version__} finds no CUDA device here: say --device auto, or cpu")
    return torch.device("cuda" if found and asked != "cpu" else "cpu")


def device_name(device: torch.device) -> str:
    """What a report says the network was trained on: "cpu", or "cuda" and which."""
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else "cpu"


def train_lstm(
    series: Sequence[Series],
    *,
    seed: int,
    schedule: Schedule | None = None,
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> dict[str, Float32Array]:
    """Weights by name (`network.SHAPES`), trained on all series together; pinball loss over `LEVELS`.

    Trains on `device`, which is a GPU where torch finds one unless given. Raises `FittingError` if there is nothing to
    train on or the loss is not finite.
    """
    schedule = schedule if schedule is not None else Schedule()
    device = device if device is not None else chosen_device("auto")
    examples = examples_of(series, schedule=schedule, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = Module().to(device)
    with _repeatable():
        return _trained(module, examples, examples.target, pinball_loss, schedule, seed, device, progress)


def distil_lstm(
    teachers: Sequence[Mapping[str, Float32Array]],
    series: Sequence[Series],
    *,
    seed: int,
    schedule: Schedule,
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> dict[str, Float32Array]:
    """Weights of one network that says what the `teachers` say on average, on windows of all series.

    What one training leaves to chance cancels out in the mean of several, and one network says it at the price of one
    (Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015). It begins as the first of them.
    Devices and errors as in `train_lstm`.
    """
    device = device if device is not None else chosen_device("auto")
    examples = examples_of(series, schedule=schedule, seed=seed)
    modules = [_module_of(weights) for weights in teachers]
    with _repeatable():
        said = np.stack([_answers(module, examples) for module in modules]).mean(axis=0).astype(np.float32)
        return _trained(modules[0].to(device), examples, said, mean_distance, schedule, seed, device, progress)


@contextmanager
def _repeatable() -> Iterator[None]:
    """Sums in one order, whatever the machine: the same seed gives the same bytes."""
    # Without it cuBLAS may sum in any order and torch's deterministic mode refuses every matrix product on a GPU.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)


def _answers(module: Module, examples: Examples) -> Float32Array:
    """What a network says of every window, (N, horizons, levels)."""
    with torch.no_grad():
        said = [
            module(torch.from_numpy(examples.sequence[rows]), torch.from_numpy(examples.static[rows])).numpy()
            for first in range(0, len(examples.static), ROWS_AT_ONCE)
            for rows in [slice(first, first + ROWS_AT_ONCE)]
        ]
    return np.concatenate(said)


def _trained(
    module: Module,
    examples: Examples,
    wanted: Float32Array,
    loss_of: Loss,
    schedule: Schedule,
    seed: int,
    device: torch.device,
    progress: Progress | None,
) -> dict[str, Float32Array]:
    """The weights that `module` has after the schedule's steps towards `wanted` of each window."""
    chance = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(module.parameters(), lr=schedule.learning_rate, weight_decay=1e-4)
    rise = max(1, schedule.steps // 20)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda at: min((at + 1) / rise, 0.5 * (1.0 + float(np.cos(np.pi * min(1.0, at / schedule.steps))))),
    )
    sequence, static, target = (
        torch.from_numpy(array).to(device) for array in (examples.sequence, examples.static, wanted)
    )
    recent = 0.0
    for at in range(schedule.steps):
        picked = torch.randint(0, sequence.shape[0], (schedule.batch,), generator=chance).to(device)
        loss = loss_of(module(sequence[picked], static[picked]), target[picked])
        if not bool(torch.isfinite(loss)):
            raise FittingError(f"training diverged at step {at}: the loss is {loss.item()}")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimiser.step()
        rate.step()
        recent = 0.98 * recent + 0.02 * loss.item()
        if progress is not None and (at + 1) % 250 == 0:
            progress(at + 1, recent / (1.0 - 0.98 ** (at + 1)))
    return {name: tensor.detach().cpu().numpy().astype(np.float32) for name, tensor in module.state_dict().items()}


def pinball_loss(quantiles: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean pinball loss over known targets; quantiles (N, horizons, levels), target (N, horizons), NaN unknown."""
    levels = torch.tensor(LEVELS, dtype=quantiles.dtype, device=quantiles.device)
    known = torch.isfinite(target)
    error = torch.where(known, target, torch.zeros_like(target))[..., None] - quantiles
    loss = torch.maximum(levels * error, (levels - 1.0) * error).mean(dim=2)
    return (loss * known).sum() / known.sum().clamp(min=1)


def mean_distance(quantiles: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of two answers, (N, horizons, levels) both."""
    return (quantiles - target).abs().mean()


def _module_of(weights: Mapping[str, Float32Array]) -> Module:
    module = Module()
    module.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in weights.items()})
    return module


def scaled_forward(weights: Mapping[str, Float32Array], sequence: FloatArray, static: FloatArray) -> FloatArray:
    """The same forward pass in torch, from exported weights: the reference that the numpy one is checked against."""
    module = _module_of(weights)
    with torch.no_grad():
        answer = module(torch.from_numpy(sequence.astype(np.float32)), torch.from_numpy(static.astype(np.float32)))
    return np.asarray(answer.numpy(), dtype=np.float64)
