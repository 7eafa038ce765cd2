"""A Flask application where an order fails, by its WSGI application.

python -m tests.e2e.programs_frameworks.flask_shop CONFIGURATION
"""

import sys

from flask import Flask
from raven.contrib.flask import Sentry

from raven_spool import SpoolTransport
from tests.e2e.programs_frameworks.wsgi_call import call


class OrderFailed(Exception):
    pass


def name_in_config():
    app = Flask(__name__)
    app.config["SENTRY_TRANSPORT"] = "raven_spool.SpoolTransport"
    sentry = Sentry(app)
    serve(app, sentry)


def name_in_sentry_config():
    app = Flask(__name__)
    app.config["SENTRY_CONFIG"] = {
        "transport": "raven_spool.transport.threaded.ThreadedHTTPTransport",
        "release": "7",
    }
    sentry = Sentry(app)
    serve(app, sentry)


def object_in_config():
    app = Flask(__name__)
    app.config["SENTRY_TRANSPORT"] = SpoolTransport(shutdown_timeout=5)
    sentry = Sentry(app)
    serve(app, sentry)


def log_too():
    app = Flask(__name__)
    app.config["SENTRY_TRANSPORT"] = "raven_spool.SpoolTransport"
    sentry = Sentry(app, logging=True)
    serve(app, sentry)


def take_order(number):
    raise OrderFailed(f"order {number}")


def serve(app, sentry):
    app.add_url_rule("/order/<int:number>", view_func=take_order)
    status, headers = call(app.wsgi_app, "/order/7")
    print(status, headers.get("X-Sentry-ID"), type(sentry.client.remote.get_transport()).__name__)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
