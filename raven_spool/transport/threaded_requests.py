"""raven.transport.threaded_requests, under the same name."""

from raven_spool.transport.requests import ThreadedRequestsHTTPTransport

__all__ = ["ThreadedRequestsHTTPTransport"]
