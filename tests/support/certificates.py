"""A certificate authority of our own, one for each process."""

import atexit
import datetime
import shutil
import ssl
import tempfile
from functools import cache
from pathlib import Path
from typing import Any


@cache
def authority() -> Any:
    import trustme  # only tests with TLS need it

    return trustme.CA()


@cache
def authority_file() -> str:
    """The authority's certificate, as a file for `ca_certs` and SSL_CERT_FILE."""
    directory = tempfile.mkdtemp(prefix="test-authority-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    path = Path(directory) / "ca.pem"
    authority().cert_pem.write_to_path(str(path))
    return str(path)


def server_context(names: tuple[str, ...], **more: Any) -> ssl.SSLContext:
    """`more`: what trustme takes beside the names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert(*names, **more).configure_cert(context)
    return context


def expired_context(names: tuple[str, ...]) -> ssl.SSLContext:
    now = datetime.datetime.now(datetime.UTC)
    yesterday, month_ago = now - datetime.timedelta(days=1), now - datetime.timedelta(days=30)
    return server_context(names, not_before=month_ago, not_after=yesterday)
