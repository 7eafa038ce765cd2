"""What Sentry's wire format says. Pure: no I/O, no clock, and nothing foreign makes it raise.

What applications, servers and other processes hand over is foreign: bodies, headers, answers. A
value that can't be understood is kept as it is or ignored; only `parse_dsn` and `parse_endpoint`
(`ConfigurationError`) and `decoded_body` (`ValueError`) raise, because their callers must know.
"""

from raven_spool.protocol.address import ParsedDsn, parse_dsn, parse_endpoint
from raven_spool.protocol.auth import parse_auth, sign, split_headers
from raven_spool.protocol.body import build_request, decoded_body, message_event, prepare
from raven_spool.protocol.category import CATEGORIES
from raven_spool.protocol.describe import Description, describe
from raven_spool.protocol.limits import rate_limits

__all__ = [
    "CATEGORIES",
    "Description",
    "ParsedDsn",
    "build_request",
    "decoded_body",
    "describe",
    "message_event",
    "parse_auth",
    "parse_dsn",
    "parse_endpoint",
    "prepare",
    "rate_limits",
    "sign",
    "split_headers",
]
