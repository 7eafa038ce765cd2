"""raven told by its DSN alone.

python -m tests.e2e.programs_frameworks.plain_shop SETTING
"""

import os
import sys

import raven

import raven_spool
from raven_spool import SpoolTransport


def registered():
    raven_spool.register()
    client = raven.Client()  # of SENTRY_DSN
    print(client.captureMessage("order 7 failed"))


def options_in_the_dsn():
    dsn = f"{os.environ['SENTRY_DSN']}?spool_path={os.environ['SHOP_DIRECTORY']}/spool"
    client = raven.Client(dsn, transport=SpoolTransport)
    print(client.captureMessage("order 7 failed"))


def registered_with_options_in_the_dsn():
    raven_spool.register()
    query = f"spool_path={os.environ['SHOP_DIRECTORY']}/spool&backend=none"
    client = raven.Client(f"{os.environ['SENTRY_DSN']}?{query}")
    print(client.captureMessage("order 7 failed"))


if __name__ == "__main__":
    globals()[sys.argv[1]]()
