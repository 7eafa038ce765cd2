"""Bugsink as it is, with a log of every POST in front and an end when the starter is gone."""

import functools
import json
import os
import signal
import threading

from bugsink.wsgi import application as bugsink
from gunicorn import util

# gunicorn 26 lingers up to 2 s, on the thread that accepts, over a client that leaves a
# `Connection: close` connection open: one slow client would stall all the others.
if hasattr(util, "close_graceful"):
    util.close_graceful = functools.partial(util.close_graceful, timeout=0.1)

_LOG = os.open(
    os.environ["BUGSINK_SITE_DIR"] + "/posts.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600
)


def _end_with_the_starter():
    os.read(0, 1)  # stdin is a pipe from the starter: returns when nobody holds its other end
    os.kill(os.getppid(), signal.SIGTERM)


def _event_id(answer):
    try:
        return json.loads(answer)["id"].replace("-", "")
    except (ValueError, KeyError, TypeError):
        return None


def _log_post(environ, status, answer):
    line = {
        "status": status,
        "path": environ["PATH_INFO"],
        "encoding": environ.get("HTTP_CONTENT_ENCODING", ""),
        "client": environ.get("HTTP_USER_AGENT", ""),
        "event_id": _event_id(answer),
    }
    os.write(_LOG, json.dumps(line).encode() + b"\n")


def application(environ, start_response):
    if environ["REQUEST_METHOD"] != "POST":
        return bugsink(environ, start_response)
    statuses = []

    def start(status, headers, exc_info=None):
        statuses.append(int(status.split()[0]))
        return start_response(status, headers, exc_info)

    response = bugsink(environ, start)
    try:
        answer = b"".join(response)
    finally:
        response.close()
    _log_post(environ, statuses[-1], answer)
    return [answer]


threading.Thread(target=_end_with_the_starter, daemon=True).start()
