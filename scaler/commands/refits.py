"""`--refit`: who forecasts for the product in a run, fitted when and on what.

It decides when fits are made (never, once where the warm-up day opens, or from there on every 24 hours), shows each
nothing but what was known at its moment, and keeps a note of it. What a fit is stands in `forecaster.refitting`.
Nothing is kept on disk, and nothing is fitted unless it was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from scaler.commands.printing import say
from scaler.commands.typed import Refit

if TYPE_CHECKING:
    from forecaster.registry import Members
    from forecaster.types import Forecaster, Panel


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """One fit: what it was shown ended at `at`, and `members` forecast from then on."""

    at: datetime
    members: Members


class Fits:
    """The members of a run, and a note of every fit. As a function: the members that what is known now calls for."""

    def __init__(self, refit: Refit, *, seed: int, step: timedelta) -> None:
        self.refit = refit
        self.made: list[Fit] = []
        self._seed = seed
        self._step = step
        self._shipped: Members | None = None

    def opening(self, known: Callable[[], Panel], progress: Callable[[float, str], None]) -> Members:
        """The members to begin with; `known` answers what may be known by then, and is asked only for a fit."""
        if self.refit is Refit.NEVER:
            return self.shipped
        progress(0.0, "the models are fitted")
        self(known())
        return self.made[-1].members

    @property
    def again(self) -> Fits | None:
        """What a run asks once a day, where it is to."""
        return self if self.refit is Refit.DAILY else None

    @property
    def shipped(self) -> Members:
        """The members that come with the product."""
        from forecaster import registry

        if self._shipped is None:
            self._shipped = registry.members(step=self._step)
        return self._shipped

    @property
    def families(self) -> tuple[str, ...]:
        """The names of all that may forecast, whether or not a fit takes it up."""
        from forecaster.models.ensemble import family

        shipped = tuple(family(each.model_id) for each in self.shipped.forecasters)
        return tuple(dict.fromkeys((*shipped, *sorted(self.fitted))))

    @property
    def fitted(self) -> frozenset[str]:
        """Those of them that a fit would make."""
        from forecaster.refitting import can_be_fitted

        return frozenset() if self.refit is Refit.NEVER else frozenset(can_be_fitted())

    def __call__(self, known: Panel) -> Sequence[Forecaster]:
        """The members fitted on `known`; the first ones for ever where one fit is all that was asked for."""
        if not self.made or self.refit is Refit.DAILY:
            from forecaster.refitting import fitted_members

            found = fitted_members(known, until=known.end, seed=self._seed)
            self.made.append(Fit(at=known.end, members=self._with_yesterdays(found)))
        return self.made[-1].members.forecasters

    def _with_yesterdays(self, found: Members) -> Members:
        """As in the daemon, a family that fails its examination leaves the version that was in use in place."""
        from forecaster.models.ensemble import family

        before = self.made[-1].members.forecasters if self.made else ()
        stay = {family(each.model_id): each for each in before if family(each.model_id) in found.refused}
        kept = tuple(stay.pop(family(each.model_id), each) for each in found.forecasters)
        return replace(found, forecasters=(*kept, *stay.values()))

    def tell(self) -> None:
        """Say which models spoke for the product, when they were fitted, and which could not."""
        members = self.made[-1].members if self.made else self.shipped
        names = ", ".join(each.model_id for each in members.forecasters)
        if not self.made:
            say(f"headstart forecasts with {names}; nothing is refitted")
        elif len(self.made) == 1:
            say(f"headstart forecasts with {names}; fitted once, on what was known at {self.made[0].at:%Y-%m-%d %H:%M}")
        else:
            days = f"{self.made[0].at:%Y-%m-%d %H:%M} to {self.made[-1].at:%Y-%m-%d %H:%M}"
            say(f"headstart forecasts with {names} in the end; fitted {len(self.made)} times, daily from {days}")
        for model, why in members.refused.items():
            say(f"without {model}: {why}")

    def as_json(self) -> dict[str, Any]:
        """The same for scripts: who began, and each fit with its moment, who came out of it, and why others did not."""
        first = self.made[0].members if self.made else self.shipped
        return {
            "refit": self.refit.value,
            "models": [each.model_id for each in first.forecasters],
            "fits": [
                {
                    "at": fit.at.isoformat(),
                    "models": [each.model_id for each in fit.members.forecasters],
                    "refused": dict(fit.members.refused),
                }
                for fit in self.made
            ],
        }
