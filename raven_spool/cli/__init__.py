"""raven-spool: the operator's tool on a spool. docs/cli.md describes it."""

import sys


def main() -> None:
    """The entry point. Everything else is loaded here, so that Ctrl-C never shows a traceback."""
    try:
        from raven_spool.cli.app import tool

        tool()
    except KeyboardInterrupt:
        sys.exit(130)
