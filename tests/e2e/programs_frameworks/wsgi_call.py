"""One request to a WSGI application, without a server."""

from wsgiref.util import setup_testing_defaults


def call(application, path):
    """The status code and the headers of the answer; the answer is read to its end and closed."""
    environ = {"PATH_INFO": path}
    setup_testing_defaults(environ)
    started = []
    answer = application(environ, lambda *given: started.append(given))
    list(answer)
    getattr(answer, "close", lambda: None)()
    status, headers = started[-1][:2]
    return int(status.split()[0]), dict(headers)
