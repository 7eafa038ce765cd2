"""What all of them share."""

import os
from pathlib import Path

BASE_DIR = Path(os.environ["SHOP_DIRECTORY"])
SECRET_KEY = "of a shop that exists only here"
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "tests.e2e.programs_frameworks.django_shop"
MIDDLEWARE = [
    "raven.contrib.django.raven_compat.middleware.SentryResponseErrorIdMiddleware",
]
