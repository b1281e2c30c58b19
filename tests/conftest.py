"""Settings that every test shares."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# A run that decides whether a change lands repeats itself exactly; everywhere else each run tries new examples.
settings.register_profile("ci", parent=settings.get_profile("default"), derandomize=True)
# Mutation testing runs the suite a thousand times.
settings.register_profile("mutation", parent=settings.get_profile("ci"), max_examples=25)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default"))
