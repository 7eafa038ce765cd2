"""Make Bugsink's tables and one project; print the project's DSN."""

import django

django.setup()

from django.core.management import call_command  # noqa: E402 (Django wants setup first)
from projects.models import Project  # noqa: E402

call_command("migrate", "snappea", database="snappea", verbosity=0)
call_command("migrate", verbosity=0)
project, _ = Project.objects.get_or_create(
    name="tests",
    defaults={
        "alert_on_new_issue": False,
        "alert_on_regression": False,
        "alert_on_unmute": False,
        "retention_max_event_count": 10**9,
    },
)
print("DSN=" + project.dsn)
