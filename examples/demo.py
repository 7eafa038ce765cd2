"""The main job, told step by step; `make demo` runs it.

A real Sentry-compatible server goes away, a program that reports 20 exceptions with raven is
killed with SIGKILL, the server comes back, the spool is flushed, and the server's own database is
compared with what the program had captured. Ends with status 1 if anything was lost or came twice.
"""

import os
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path

from tests.support.bugsink import ROOT, BugsinkServer

NUMBER = 20
BIN = Path(sys.executable).parent


class Shell:
    """Shows each command as one would type it, then runs it."""

    def __init__(self, directory: Path) -> None:
        self.environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
        self.directory = directory

    def export(self, name: str, value: str, shown: str) -> None:
        _show_command(f"export {name}={shown}")
        self.environment[name] = value

    def run(self, command: str) -> None:
        _show_command(command)
        subprocess.run(command.split(), cwd=ROOT, env=self.environment, check=True)

    def read(self, command: str) -> str:
        return subprocess.run(
            command.split(),
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout

    def start(self, command: str) -> subprocess.Popen[str]:
        _show_command(command + " &")
        return subprocess.Popen(
            command.split(), cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, text=True
        )

    def kill(self, program: subprocess.Popen[str]) -> None:
        _show_command(f"kill -9 {program.pid}")
        program.kill()
        program.wait()


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="raven-spool-") as name:
        directory = Path(name)
        with BugsinkServer(directory / "bugsink") as server:
            return tell(server, Shell(directory))


def tell(server: BugsinkServer, shell: Shell) -> int:
    _say("A Sentry-compatible server, Bugsink, has been set up. Now it is down: an outage.")
    server.stop()
    scheme, _, place = server.dsn.partition("://")
    shell.export("SENTRY_DSN", server.dsn, f"{scheme}://***@{place.partition('@')[2]}")
    spool = str(shell.directory / "spool")
    shell.export("RAVEN_SPOOL_PATH", spool, spool)

    _say(f"A program meets {NUMBER} exceptions, reports each with raven 6.10.0, and is killed.")
    captured = capture_and_kill(shell)

    _say("Program and server are gone. The events are in the spool.")
    shell.run("raven-spool ls")
    listed = len(shell.read("raven-spool ls --json").splitlines())

    _say("The server comes back, and somebody flushes the spool: cron, or you.")
    server.start()
    shell.run("raven-spool flush")
    shell.run("raven-spool ls")

    _say("What the server's own database has of it:")
    return compare(captured, listed, server)


def capture_and_kill(shell: Shell) -> list[str]:
    """The ids that raven gave the program, in order."""
    captured = []
    with shell.start(f"python examples/orders.py {NUMBER}") as program:
        try:
            for line in islice(program.stdout or (), NUMBER):
                print(line, end="", flush=True)
                captured.append(line.split()[-1])
        finally:
            shell.kill(program)
    return captured


def compare(captured: list[str], listed: int, server: BugsinkServer) -> int:
    stored, twice = server.event_ids(), server.repeated_ids()
    for event_id in captured:
        print(event_id, "stored" if event_id in stored else "LOST")
    lost = set(captured) - set(stored)
    _say(
        f"captured {len(captured)}, listed {listed}, delivered {len(stored)}, "
        f"lost {len(lost)}, delivered twice {len(twice)}"
    )
    return 0 if len(captured) == NUMBER and not lost and not twice else 1


def _say(text: str) -> None:
    print("\n" + _styled(text, "1"), flush=True)


def _show_command(command: str) -> None:
    print(_styled("$ " + command, "36"), flush=True)


def _styled(text: str, code: str) -> str:
    return f"\033[{code}m{text}\033[0m" if sys.stdout.isatty() else text


if __name__ == "__main__":
    sys.exit(main())
