"""With that name, errors are reported all the same where the log handler is there."""

from tests.e2e.programs_frameworks.django_settings.logged import *  # noqa: F403

INSTALLED_APPS = ["raven.contrib.django.raven_compat"]
