"""The commands and their options. What they do is loaded when they are called."""

import os
import sys
from collections.abc import Callable
from typing import Any, cast

import click

from raven_spool import __version__
from raven_spool.cli.exits import Exit, explain, one_line
from raven_spool.config import READERS, Options, read_options

_LEVELS = click.Choice(["fatal", "error", "warning", "info", "debug"])


def read_span(text: str) -> float:
    """Seconds, or 90s, 5m, 12h, 30d: as every option of the spool is read."""
    try:
        return cast("float", READERS["shutdown_timeout"](text))
    except ValueError as error:
        raise click.BadParameter(f"{text!r} {error}") from None


def read_id(text: str) -> str:
    """What names an event on the command line."""
    from raven_spool.cli import finding

    try:
        return finding.read_id(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} {error}") from None


class Tool(click.Group):
    """click's group with our exit codes and one line for each error."""

    def main(self, *args: Any, **settings: Any) -> Any:
        settings["standalone_mode"] = False
        _tolerate_poor_terminals()
        try:
            code = super().main(*args, **settings)
        except click.ClickException as error:
            code = _complain(Exit.USAGE, f"{error.format_message()} (see {_where(error)} --help)")
        except Exception as error:  # noqa: BLE001 an operator reads one line, not a traceback
            code = _complain(*explain(error))
        sys.exit(code or 0)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:  # `| head` has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return Exit.DONE
        except KeyboardInterrupt:
            return _complain(Exit.INTERRUPTED, "interrupted")
        return code


def _complain(code: Exit, text: str) -> Exit:
    click.echo(f"raven-spool: {one_line(text)}", err=True)
    return code


def _where(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return context.command_path if context is not None else "raven-spool"


def _tolerate_poor_terminals() -> None:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _spool_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--spool",
        metavar="PATH",
        help="The spool's directory. [default: RAVEN_SPOOL_PATH, else the state directory]",
    )(command)


def _id_arguments(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.argument("asked", metavar="ID...", nargs=-1, type=read_id)(command)


def _options(spool: str | None) -> Options:
    # A None would hide the environment's.
    return read_options({} if spool is None else {"spool_path": spool}, strict=True)


@click.group(
    cls=Tool,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, "-V", "--version", prog_name="raven-spool")
@click.pass_context
def tool(context: click.Context) -> None:
    """Look at a spool of error events, and deliver what is in it."""
    if context.invoked_subcommand is None:
        raise click.UsageError("which command? " + ", ".join(tool.list_commands(context)))


@tool.command()
@_spool_option
@click.option("--state", type=click.Choice(["ready", "dead"]), help="Only events in this state.")
@click.option("--level", type=_LEVELS, help="Only events of this level.")
@click.option("--project", metavar="ID", help="Only events of this project.")
@click.option("--since", type=read_span, metavar="SPAN", help="Only the last 90s, 5m, 12h, 30d.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="At most the newest N. [default: 50 on a terminal, else all]",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def ls(spool: str | None, as_json: bool, **asked: Any) -> Exit:
    """List the pending events, newest last."""
    from raven_spool.cli import ls as listing

    return listing.run(_options(spool), as_json=as_json, **asked)


@tool.command()
@_spool_option
@click.argument("asked", metavar="ID", type=read_id)
@click.option("--body", "shows_body", is_flag=True, help="What was captured, decoded: JSON.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def show(spool: str | None, asked: str, shows_body: bool, as_json: bool) -> Exit:
    """Show one event: what, when, where to, every attempt."""
    from raven_spool.cli import show as showing

    if shows_body and as_json:
        raise click.UsageError("--body and --json exclude each other")
    return showing.run(_options(spool), asked=asked, shows_body=shows_body, as_json=as_json)


@tool.command()
@_spool_option
@click.option(
    "--timeout",
    type=read_span,
    metavar="SPAN",
    help="Give up after 90s, 5m. [default: when nothing more can be sent now]",
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Send at most N events.")
@click.option(
    "--concurrency",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Requests at once; 1 keeps the order. [default: 4]",
)
@click.option(
    "--sender",
    metavar="MODULE:ATTRIBUTE",
    help="Your own transport, for events of a sender that this program has not.",
)
@click.option("--quiet", "-q", is_flag=True, help="No summary, no progress bar: for cron.")
@click.option("--json", "as_json", is_flag=True, help="The summary as one JSON object.")
def flush(spool: str | None, **asked: Any) -> Exit:
    """Deliver now what is in the spool, beside running applications too."""
    from raven_spool.cli import flush as flushing

    return flushing.run(_options(spool), **asked)


@tool.command()
@_spool_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--prometheus", is_flag=True, help="Prometheus' text format.")
@click.option(
    "--max-age",
    type=read_span,
    metavar="SPAN",
    help="Exit with 75 if an event has waited longer, and say why.",
)
def stats(spool: str | None, as_json: bool, prometheus: bool, max_age: float | None) -> Exit:
    """Show counts, destinations, and who delivers."""
    from raven_spool.cli import stats as figures

    if as_json and prometheus:
        raise click.UsageError("--json and --prometheus exclude each other")
    return figures.run(_options(spool), as_json=as_json, prometheus=prometheus, max_age=max_age)


@tool.command()
@_spool_option
@_id_arguments
@click.option("--all", "every", is_flag=True, help="All dead letters.")
@click.option("--dsn", metavar="DSN", help="Send them there instead.")
def retry(spool: str | None, asked: tuple[str, ...], every: bool, dsn: str | None) -> Exit:
    """Try dead letters again, as if they were new."""
    from raven_spool.cli import retry as retrying

    if bool(asked) == every:
        raise click.UsageError("which events? give their IDs, or --all")
    return retrying.run(_options(spool), asked=asked, every=every, dsn=dsn)


@tool.command()
@_spool_option
@_id_arguments
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def rm(spool: str | None, asked: tuple[str, ...], yes: bool) -> Exit:
    """Remove events for good, without delivering them."""
    from raven_spool.cli import rm as removing

    if not asked:
        raise click.UsageError("which events? give their IDs")
    return removing.run(_options(spool), asked=asked, yes=yes)


@tool.command()
@_spool_option
@click.option("--repair", "repairs", is_flag=True, help="Mend what can be mended.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def check(spool: str | None, repairs: bool, as_json: bool) -> Exit:
    """Verify the file, the ledger and each event; say what is wrong."""
    from raven_spool.cli import check as checking

    return checking.run(_options(spool), repairs=repairs, as_json=as_json)


@tool.command()
@_spool_option
@click.option("-m", "--message", required=True, metavar="TEXT", help="What the event says.")
@click.option("--dsn", metavar="DSN", envvar="SENTRY_DSN", help="Where to. [default: SENTRY_DSN]")
@click.option("--level", type=_LEVELS, default="error", show_default=True, help="Its level.")
def send(spool: str | None, message: str, dsn: str | None, level: str) -> Exit:
    """Spool one event and deliver it: to try a DSN, or to report."""
    from raven_spool.cli import send as sending

    return sending.run(spool, message=message, dsn=dsn, level=level)
