"""A program whose log goes to Sentry, set up as the standard library's users do.

python -m tests.e2e.programs_frameworks.logging_shop SETTING
"""

import io
import logging
import logging.config
import os
import sys

import raven
from raven.handlers.logging import SentryHandler

from raven_spool import SpoolTransport

INI = """
[loggers]
keys = root

[handlers]
keys = sentry

[formatters]
keys =

[logger_root]
level = INFO
handlers = sentry

[handler_sentry]
class = raven.handlers.logging.SentryHandler
args = (os.environ['SENTRY_DSN'],)
kwargs = {'transport': __import__('raven_spool').SpoolTransport}
level = ERROR
"""


def handler_of_a_client():
    client = raven.Client(transport=SpoolTransport)
    logging.getLogger().addHandler(SentryHandler(client, level=logging.ERROR))


def dictionary():
    logging.config.dictConfig(
        {
            "version": 1,
            "handlers": {
                "sentry": {
                    "class": "raven.handlers.logging.SentryHandler",
                    "level": "ERROR",
                    "dsn": os.environ["SENTRY_DSN"],
                    "transport": "ext://raven_spool.SpoolTransport",
                }
            },
            "root": {"level": "INFO", "handlers": ["sentry"]},
        }
    )


def dictionary_with_an_object():
    logging.config.dictConfig(
        {
            "version": 1,
            "handlers": {
                "sentry": {
                    "class": "raven.handlers.logging.SentryHandler",
                    "dsn": os.environ["SENTRY_DSN"],
                    "transport": SpoolTransport(shutdown_timeout=5),
                }
            },
            "root": {"level": "ERROR", "handlers": ["sentry"]},
        }
    )


def ini_file():
    logging.config.fileConfig(io.StringIO(INI))


def everything_from_warnings_on():
    """Our own lines too: a bad option is an error, a directory that can't be made a warning."""
    query = "spool_path=/proc/none&concurrency=many"
    client = raven.Client(f"{os.environ['SENTRY_DSN']}?{query}", transport=SpoolTransport)
    logging.getLogger().addHandler(SentryHandler(client, level=logging.WARNING))


def main():
    globals()[sys.argv[1]]()
    logging.getLogger("shop").error("order %d failed", 7)
    try:
        raise LookupError("no such order")
    except LookupError:
        logging.getLogger("shop").exception("order %d was lost", 8)


if __name__ == "__main__":
    main()
