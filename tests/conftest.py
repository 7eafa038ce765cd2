"""Settings all tests share."""

import os

from hypothesis import HealthCheck, settings

# `ci` is the same on every machine and at every run; HYPOTHESIS_PROFILE=soak searches on.
_DISK = [HealthCheck.too_slow, HealthCheck.data_too_large]  # examples that write real files
settings.register_profile("ci", derandomize=True, deadline=None, suppress_health_check=_DISK)
settings.register_profile(
    "soak", max_examples=2000, deadline=None, suppress_health_check=_DISK, print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
