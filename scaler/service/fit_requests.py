"""α, β, γ, δ and the encoder's times of a replica from single requests under open-loop load.

While a request decodes, every iteration of the replica brings it one token. So the time from its first to its last
token is that of O-1 iterations, whatever they computed for whom, and each request gives one equation:

    last - first = α·K + β·C + γ·X + δ·N + e0·M + e1·V

    K  its own tokens after the first
    C  tokens computed meanwhile: one for each of K and of the others' decoded tokens, and the prompts whose first
       token came meanwhile
    X  tokens held meanwhile, summed over the iterations
    N  sequences in the batch, summed over the iterations
    M  pictures encoded meanwhile, V their tokens

All of it follows from the times of the first and last tokens of all requests, which clients see; no assumption about
the batch is needed, and classes may be mixed. A request that came while nothing else was in flight gives a second one:

    ttft = α + (β+γ)·I + δ + e0 + e1·V + overhead (+ overhead of a picture)

`overhead` is what clients see and the scheduler does not: network, HTTP, tokeniser, and the decoding of a picture.

Three token shapes are the least that tell β, γ and δ apart. Where they do not, or where the formula explains the
requests worse than a line per class does, the result says so: then `curves` hold, α + b·n with a b of each class's
own, for these classes and no others. It never measures.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from scaler.service.least_squares import Equations, Floats, independent, residual_ratio, solve
from scaler.service.model import ServiceModel, TokenShape

FEWEST_SHAPES = 3
SHAPES_DIFFER_RATIO = 1.2
"""Two shapes are two where prompt or answer of one is at least 1.2 times the other's."""
FORMULA_HOLDS_RATIO = 1.1
"""The formula must explain the requests as well as a line per class does, up to a tenth of its residual …"""
GOOD_RESIDUAL = 0.02
"""… or to 2 % of each request's time: then nobody can tell the difference."""
FEWEST_REQUESTS = 20
LEAST_COMPANY_RATIO = 1.5
"""The mean number of requests that decode together must differ by so much from level to level."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One request that was answered whole; times in seconds from its level's start."""

    request_class: str
    input_tokens: int
    """Of the prompt, those of a picture included."""
    output_tokens: int
    image_tokens: int = 0
    sent_s: float
    first_token_s: float
    finished_s: float

    @property
    def ttft_s(self) -> float:
        """Time to the first token, seconds."""
        return self.first_token_s - self.sent_s

    @property
    def e2e_s(self) -> float:
        """Time to the last token, seconds."""
        return self.finished_s - self.sent_s

    @property
    def itl_s(self) -> float:
        """Mean time between two tokens, seconds; 0 with a single one."""
        return (self.finished_s - self.first_token_s) / max(1, self.output_tokens - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassCurve:
    """An iteration with n requests of one class alone: α + b·n."""

    request_class: str
    shape: TokenShape
    """Mean tokens of its requests."""
    per_sequence_s: float
    """b, seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestsFit:
    """What the requests of a sweep tell of a replica."""

    alpha_s: float
    """Fixed time of an iteration, seconds."""
    beta_s: float
    """Per token computed, seconds; 0 where it is not identified."""
    gamma_s: float
    """Per token of context, seconds; 0 where it is not identified."""
    per_sequence_s: float
    """δ, per sequence in the batch, seconds; where it is not identified, what comes closest to the classes' lines."""
    encoder_base_s: float
    """Per picture, seconds."""
    encoder_per_token_s: float
    """Per token of a picture, seconds; 0 where all pictures were alike, and then part of the other."""
    overhead_s: float | None
    """Until the scheduler sees a request, seconds; None without a lone one."""
    image_overhead_s: float
    """More of that for one with a picture, seconds."""
    identified: bool
    """Whether α, β, γ and δ hold for any shape; else `curves` do, for the shapes of the sweep."""
    curves: tuple[ClassCurve, ...]
    """α + b·n of each class, in order of their names; with `alpha_s` only where that is not identified."""
    residual_ratio: float
    """Root mean square residual of what is stated, as a share of a request's time."""
    requests: int
    rejected: int
    """Of them outliers."""

    def service(
        self,
        *,
        max_num_seqs: int,
        kv_tokens: int,
        max_num_batched_tokens: int = 8192,
        request_class: str | None = None,
    ) -> ServiceModel:
        """The replica with its limits, which are settings and not measured.

        With a class, and where only curves hold, the replica as that class sees it.
        """
        per_sequence_s = self.per_sequence_s
        curve = next((each for each in self.curves if each.request_class == request_class), None)
        if curve is not None and not self.identified:
            per_sequence_s = curve.per_sequence_s
        return ServiceModel(
            alpha_s=self.alpha_s,
            beta_s=self.beta_s,
            gamma_s=self.gamma_s,
            per_sequence_s=per_sequence_s,
            max_num_seqs=max_num_seqs,
            kv_tokens=kv_tokens,
            max_num_batched_tokens=max(max_num_batched_tokens, max_num_seqs),
            encoder_base_s=self.encoder_base_s,
            encoder_per_token_s=self.encoder_per_token_s,
        )


# ── What each request met ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Met:
    """What the requests of one level met while they decoded; arrays of one row a request of it."""

    requests: tuple[Served, ...]
    took_s: Floats
    """First to last token."""
    own: Floats
    """K."""
    computed: Floats
    """C."""
    held: Floats
    """X."""
    together: Floats
    """N."""
    images: Floats
    """M."""
    image_tokens: Floats
    """V."""
    decoded: Floats
    """(n, classes): tokens decoded meanwhile of each class, its own among them; classes as `classes_of` orders them."""
    lone: tuple[int, ...]
    """Those that came while nothing else was in flight."""


def classes_of(levels: Iterable[Iterable[Served]]) -> tuple[str, ...]:
    """Every class, sorted."""
    return tuple(sorted({each.request_class for level in levels for each in level}))


def met(level: Sequence[Served], classes: Sequence[str]) -> Met:
    """What each request with at least two tokens met. `level` holds every answered request of it."""
    everybody = sorted(level, key=lambda each: each.sent_s)
    own = [each for each in everybody if each.output_tokens > 1 and each.finished_s > each.first_token_s]
    first, last = (np.array([getattr(each, name) for each in everybody]) for name in ("first_token_s", "finished_s"))
    prompt, answer, image = (
        np.array([getattr(each, name) for each in everybody], dtype=float)
        for name in ("input_tokens", "output_tokens", "image_tokens")
    )
    pace = np.divide(answer - 1.0, last - first, out=np.zeros_like(first), where=last > first)  # tokens a second
    member = np.array([[each.request_class == name for name in classes] for each in everybody], dtype=float)
    sums = np.zeros((len(own), 6))
    decoded = np.zeros((len(own), len(classes)))
    for row, each in enumerate(own):
        begin, end = each.first_token_s, each.finished_s
        count = each.output_tokens - 1
        half_s = 0.5 * (end - begin) / count  # of an iteration: what came with our own first token came before
        shared = np.clip(np.minimum(end, last) - np.maximum(begin, first), 0.0, None)
        tokens = shared * pace
        grown = 1.0 + pace * np.maximum(0.0, (np.maximum(begin, first) + np.minimum(end, last)) / 2 - first)
        joined = (first > begin + half_s) & (first <= end + half_s)
        sums[row] = (
            count,
            tokens.sum() + prompt[joined].sum(),
            (tokens * (prompt + grown)).sum() + prompt[joined].sum(),
            tokens.sum() + joined.sum(),
            (image[joined] > 0).sum(),
            image[joined].sum(),
        )
        decoded[row] = tokens @ member
    return Met(
        requests=tuple(own),
        took_s=np.array([each.finished_s - each.first_token_s for each in own]),
        own=sums[:, 0],
        computed=sums[:, 1],
        held=sums[:, 2],
        together=sums[:, 3],
        images=sums[:, 4],
        image_tokens=sums[:, 5],
        decoded=decoded,
        lone=_lone(own, everybody),
    )


def _lone(own: Sequence[Served], everybody: Sequence[Served]) -> tuple[int, ...]:
    """Rows of those with nobody in flight from when they were sent to their first token."""
    sent = np.array([each.sent_s for each in everybody])
    last = np.array([each.finished_s for each in everybody])
    return tuple(
        row
        for row, each in enumerate(own)
        if np.count_nonzero((sent <= each.first_token_s) & (last >= each.sent_s)) == 1
    )


# ── The fit ───────────────────────────────────────────────────────────────────────────────────────────────────


def fit_requests(levels: Sequence[Met], classes: Sequence[str]) -> RequestsFit:
    """What the levels' requests tell of the replica.

    Raises:
        ValueError: too few requests, or none that had more company than another.
    """
    requests = [each for level in levels for each in level.requests]
    if len(requests) < FEWEST_REQUESTS:
        raise ValueError(f"a fit needs at least {FEWEST_REQUESTS} answered requests, got {len(requests)}")
    company = [float(np.mean(level.decoded.sum(axis=1) / level.own)) for level in levels if level.requests]
    if max(company) < LEAST_COMPANY_RATIO * min(company):
        told = ", ".join(f"{each:.2f}" for each in sorted(company))
        raise ValueError(f"a fit needs levels with different numbers of requests together, got {told} on average")
    pictured = any(each.image_tokens for each in requests)
    formula, formula_names = _formula(levels, pictured=pictured)
    lines, line_names = _lines(levels, classes, pictured=pictured)
    formula_found, formula_out = solve(formula)
    lines_found, lines_out = solve(lines)
    own = len(requests)
    formula_ratio = residual_ratio(_first(formula, own), formula_found, formula_out)
    lines_ratio = residual_ratio(_first(lines, own), lines_found, lines_out)
    identified = (
        _different_shapes(requests) >= FEWEST_SHAPES
        and independent(formula)
        and formula_ratio <= max(GOOD_RESIDUAL, FORMULA_HOLDS_RATIO * lines_ratio)
    )
    by_formula = dict(zip(formula_names, formula_found.tolist(), strict=True))
    by_line = dict(zip(line_names, lines_found.tolist(), strict=True))
    curves = tuple(
        ClassCurve(request_class=name, shape=_mean_shape(requests, name), per_sequence_s=by_line[f"b {name}"])
        for name in classes
        if any(each.request_class == name for each in requests)
    )
    stated = by_formula if identified else by_line
    return RequestsFit(
        alpha_s=stated["alpha"],
        beta_s=by_formula["beta"] if identified else 0.0,
        gamma_s=by_formula["gamma"] if identified else 0.0,
        per_sequence_s=by_formula["delta"] if identified else float(np.mean([each.per_sequence_s for each in curves])),
        encoder_base_s=stated.get("e0", 0.0),
        encoder_per_token_s=stated.get("e1", 0.0),
        overhead_s=stated.get("overhead"),
        image_overhead_s=stated.get("image overhead", 0.0),
        identified=identified,
        curves=curves,
        residual_ratio=formula_ratio if identified else lines_ratio,
        requests=own,
        rejected=len(formula_out if identified else lines_out),
    )


def _formula(levels: Sequence[Met], *, pictured: bool) -> tuple[Equations, list[str]]:
    """Unknowns α, β, γ, δ, those of the encoder, and the overheads."""
    columns = [np.column_stack([level.own, level.computed, level.held, level.together]) for level in levels]
    lone = [(1.0, float(each.input_tokens), float(each.input_tokens), 1.0) for each in _lone_requests(levels)]
    names = ["alpha", "beta", "gamma", "delta"]
    return _with_encoder_and_lone(levels, np.vstack(columns), lone, names, pictured=pictured)


def _lines(levels: Sequence[Met], classes: Sequence[str], *, pictured: bool) -> tuple[Equations, list[str]]:
    """Unknowns α, a b of each class, those of the encoder, and the overheads."""
    columns = np.vstack([np.column_stack([level.own, level.decoded]) for level in levels])
    lone = [(1.0, *(1.0 if each.request_class == name else 0.0 for name in classes)) for each in _lone_requests(levels)]
    names = ["alpha", *(f"b {name}" for name in classes)]
    return _with_encoder_and_lone(levels, columns, lone, names, pictured=pictured)


def _with_encoder_and_lone(
    levels: Sequence[Met],
    columns: Floats,
    lone: Sequence[Sequence[float]],
    names: list[str],
    *,
    pictured: bool,
) -> tuple[Equations, list[str]]:
    """Add the encoder's columns, the lone requests' rows, and the columns of what only those show."""
    names, alone = list(names), _lone_requests(levels)
    lone_rows = np.array(lone).reshape(len(lone), columns.shape[1])
    if pictured:
        encoder, encoder_lone, encoder_names = _encoder(levels, alone)
        columns, lone_rows = np.column_stack([columns, encoder]), np.column_stack([lone_rows, encoder_lone])
        names += encoder_names
    if alone:
        extra = np.array([[1.0, float(each.image_tokens > 0)] for each in alone])
        width = 2 if extra[:, 1].any() else 1
        columns = np.column_stack([columns, np.zeros((len(columns), width))])
        lone_rows = np.column_stack([lone_rows, extra[:, :width]])
        names += ["overhead", "image overhead"][:width]
    took_s = np.concatenate([level.took_s for level in levels])
    owners, lone_owners, begins = range(len(took_s)), [], 0
    for level in levels:
        lone_owners += [begins + row for row in level.lone]
        begins += len(level.requests)
    measured = np.concatenate([took_s, [each.ttft_s for each in alone]])
    return Equations(np.vstack([columns, lone_rows]), measured, (*owners, *lone_owners)), names


def _encoder(levels: Sequence[Met], alone: Sequence[Served]) -> tuple[Floats, Floats, list[str]]:
    """e0 and e1; e0 alone where all pictures are of one size."""
    sizes = {each.image_tokens for level in levels for each in level.requests if each.image_tokens}
    width = 2 if max(sizes) >= SHAPES_DIFFER_RATIO * min(sizes) else 1
    own = np.vstack([np.column_stack([level.images, level.image_tokens]) for level in levels])
    lone = np.array([[float(each.image_tokens > 0), float(each.image_tokens)] for each in alone]).reshape(-1, 2)
    return own[:, :width], lone[:, :width], ["e0", "e1"][:width]


def _lone_requests(levels: Sequence[Met]) -> list[Served]:
    return [level.requests[row] for level in levels for row in level.lone]


def _first(equations: Equations, count: int) -> Equations:
    return Equations(equations.terms[:count], equations.measured[:count], equations.owners[:count])


def _different_shapes(requests: Sequence[Served]) -> int:
    """How many shapes there are that differ from one another in prompt or answer."""
    distinct: list[tuple[float, float]] = []
    for shape in sorted({(each.input_tokens, each.output_tokens) for each in requests}):
        if not any(_alike(shape, other) for other in distinct):
            distinct.append(shape)
    return len(distinct)


def _alike(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return all(max(a, b) < SHAPES_DIFFER_RATIO * min(a, b) for a, b in zip(one, other, strict=True))


def _mean_shape(requests: Sequence[Served], name: str) -> TokenShape:
    own = [each for each in requests if each.request_class == name]
    return TokenShape(
        input_tokens=float(np.mean([each.input_tokens for each in own])),
        output_tokens=float(np.mean([each.output_tokens for each in own])),
        image_tokens=float(np.mean([each.image_tokens for each in own])),
    )
