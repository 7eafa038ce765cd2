"""Bugsink's settings for tests: all of its files in one directory, everything done in the request.

Read by Bugsink in its own virtual environment; `BugsinkServer` sets the environment.
"""

import os

from bugsink.settings.default import *  # noqa: F403
from bugsink.settings.default import DATABASES

_directory = os.environ["BUGSINK_SITE_DIR"]
_quota = int(os.environ["BUGSINK_SITE_QUOTA"])

SECRET_KEY = os.environ["BUGSINK_SITE_SECRET"]
DATABASES["default"]["NAME"] = _directory + "/db.sqlite3"
DATABASES["snappea"]["NAME"] = _directory + "/snappea.sqlite3"
# Eager digestion: an event that was answered 200 is in the database already.
SNAPPEA = {"TASK_ALWAYS_EAGER": True, "WAKEUP_CALLS_DIR": _directory + "/wakeup"}
EMAIL_BACKEND = "django.core.mail.backends.dummy.EmailBackend"
TIME_ZONE = "UTC"
BUGSINK = {
    "BASE_URL": os.environ["BUGSINK_SITE_URL"],
    "SINGLE_USER": True,
    "SINGLE_TEAM": True,
    "PHONEHOME": False,
    "INGEST_STORE_BASE_DIR": _directory + "/ingest",
    "MAX_EVENTS_PER_5_MINUTES": _quota,
    "MAX_EVENTS_PER_HOUR": _quota,
    "MAX_EVENTS_PER_MONTH": _quota,
    "MAX_EVENTS_PER_PROJECT_PER_5_MINUTES": _quota,
    "MAX_EVENTS_PER_PROJECT_PER_HOUR": _quota,
    "MAX_EVENTS_PER_PROJECT_PER_MONTH": _quota,
}
