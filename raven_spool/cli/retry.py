"""retry: dead letters are tried again, where they were going or elsewhere."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import click

from raven_spool.cli import words
from raven_spool.cli.exits import Exit, one_line
from raven_spool.cli.finding import batches, find
from raven_spool.cli.place import using
from raven_spool.config import Options, read_options
from raven_spool.model import Destination, State
from raven_spool.protocol import ParsedDsn, parse_dsn
from raven_spool.spool import Key, Spool

_BY_WHOM = "by a running application, or by `raven-spool flush`"


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Where a DSN sends events, and how its query and the environment say so."""

    parsed: ParsedDsn
    options: Options

    def instead_of(self, old: Destination) -> Destination:
        """The client's name goes along with the body that it made: Relay repairs by it."""
        return replace(
            old,
            base_url=self.parsed.base_url,
            project=self.parsed.project,
            public_key=self.parsed.public_key,
            secret_key=self.parsed.secret_key,
            timeout_seconds=self.options.timeout,
            verify_ssl=self.options.verify_ssl,
            ca_certs=self.options.ca_certs,
            proxy=self.options.proxy,
            sender=self.options.sender or old.sender,
        )

    def __str__(self) -> str:
        return f"{urlsplit(self.parsed.base_url).netloc}, project {self.parsed.project}"


@dataclass(slots=True)
class Tally:
    retried: int = 0
    waiting: int = 0  # ready already
    old: int = 0  # beyond max_age


def run(options: Options, *, asked: Sequence[str], every: bool, dsn: str | None) -> Exit:
    elsewhere = None if dsn is None else _read_dsn(dsn)
    complaints: list[str] = []
    now, tally = time.time(), Tally()
    with using(options) as spool:
        if every:
            pages = _dead_letters(spool)
        else:
            found = find(spool, asked)
            complaints, pages = found.complaints, iter([found.keys])
        for page in pages:
            for generation, batch in batches(page):
                wanted = [key for key in batch if elsewhere or key.state is State.DEAD]
                tally.waiting += len(batch) - len(wanted)
                tally.retried += _retry(spool, generation, wanted, elsewhere)
                tally.old += sum(key.created_at < now - options.max_age for key in wanted)
    for complaint in complaints:
        _tell(complaint)
    if every and not tally.retried:
        click.echo("no dead letters")
    _print(tally, elsewhere, options)
    return Exit.ERROR if complaints else Exit.DONE


def _read_dsn(dsn: str) -> Elsewhere:
    parsed = parse_dsn(dsn)
    # Its spool is that of the applications over there: ours is named by --spool.
    given = {name: value for name, value in parsed.options.items() if name != "spool_path"}
    return Elsewhere(parsed, read_options(given, strict=True))


def _dead_letters(spool: Spool) -> Iterator[list[Key]]:
    """In pages. Upwards: one that dies again meanwhile is behind us."""
    after = 0
    while page := spool.list_keys(state=State.DEAD, after_id=after):
        yield page
        after = page[-1].id


def _retry(spool: Spool, generation: str, keys: Sequence[Key], elsewhere: Elsewhere | None) -> int:
    """Returns how many were still there."""
    if elsewhere is None:
        return spool.revive([key.id for key in keys], generation=generation) if keys else 0
    return sum(
        spool.reroute(ids, destination, generation=generation)
        for destination, ids in _ways(spool, keys, elsewhere).items()
    )


def _ways(spool: Spool, keys: Sequence[Key], elsewhere: Elsewhere) -> dict[Destination, list[int]]:
    """The new destinations, and which events go there."""
    old = {lane.id: destination for lane, destination in spool.all_lanes()}
    ways: dict[Destination, list[int]] = {}
    for key in keys:
        if key.lane in old:  # else a fresh file was begun just now: these are gone
            ways.setdefault(elsewhere.instead_of(old[key.lane]), []).append(key.id)
    return ways


def _print(tally: Tally, elsewhere: Elsewhere | None, options: Options) -> None:
    events = words.events(tally.retried)
    if tally.retried and elsewhere is not None:
        click.echo(one_line(f"{events} will be sent to {elsewhere}: {_BY_WHOM}"))
    elif tally.retried:
        click.echo(f"{events} will be tried again: {_BY_WHOM}")
    if tally.waiting:
        click.echo(
            f"{words.events(tally.waiting)} ready already: `raven-spool flush` tries at once"
        )
    if tally.retried and tally.old:
        _tell(
            f"{words.events(tally.old)} older than max_age ({words.span(options.max_age)}): tried "
            "once, and dead again if that fails"
        )


def _tell(text: str) -> None:
    click.echo(f"raven-spool: {one_line(text)}", err=True)
