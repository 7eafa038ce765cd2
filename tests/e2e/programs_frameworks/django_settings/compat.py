"""The application's name that raven's documentation gives; this Django does not start it."""

from tests.e2e.programs_frameworks.django_settings.dotted import *  # noqa: F403

INSTALLED_APPS = ["raven.contrib.django.raven_compat"]
