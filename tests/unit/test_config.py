"""Options: where they come from, what they may be, and what a bad one leads to."""

import grp
import logging
import math
import os
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raven_spool.config import READERS, Options, default_spool_path, read_option, read_options
from raven_spool.errors import ConfigurationError

DEFAULTS = Options()
MIB = 1 << 20
STRINGS = {
    "spool_path": "/var/spool/app",
    "group": "61100",
    "backend": "none",
    "fsync": "always",
    "concurrency": "2",
    "timeout": "90s",
    "verify_ssl": "0",
    "ca_certs": "/etc/ssl/own.pem",
    "proxy": "http://user:word@proxy:3128",
    "sender": "requests",
    "shutdown_timeout": "0",
    "send_timeout": "0.02",
    "max_bytes": "2GB",
    "max_events": "100000",
    "encryption_key": "00" * 32,
    "max_age": "12h",
    "warn_age": "90m",
    "overflow": "drop_newest",
    "order": "newest",
    "on_server_error": "discard",
    "on_rate_limit": "discard",
}
VALUES = {
    **STRINGS,
    "group": 61100,
    "concurrency": 2,
    "timeout": 90.0,
    "verify_ssl": False,
    "shutdown_timeout": 0.0,
    "send_timeout": 0.02,
    "max_bytes": 2 << 30,
    "max_events": 100_000,
    "encryption_key": (bytes(32),),
    "max_age": 12 * 3600.0,
    "warn_age": 5400.0,
}
CALLABLES = ("wait", "stop", "on_delivered", "on_dead")


def variable(name):
    return "RAVEN_SPOOL_" + ("PATH" if name == "spool_path" else name.upper())


# -- sources ----------------------------------------------------------------------------------


def test_nothing_given_means_the_defaults():
    assert read_options({}, {}) == DEFAULTS


def test_every_option_is_covered_here():
    assert {*STRINGS, *CALLABLES} == set(READERS)


@pytest.mark.parametrize("name", STRINGS)
def test_option_as_a_string_from_a_dsn(name):
    options = read_options({name: STRINGS[name]}, {})

    assert getattr(options, name) == VALUES[name] != getattr(DEFAULTS, name)


@pytest.mark.parametrize("name", STRINGS)
def test_option_from_the_environment(name):
    options = read_options({}, {variable(name): STRINGS[name]})

    assert getattr(options, name) == VALUES[name]


@pytest.mark.parametrize("name", STRINGS)
def test_option_as_a_keyword(name):
    assert getattr(read_options({name: VALUES[name]}, {}), name) == VALUES[name]


@pytest.mark.parametrize("name", CALLABLES)
def test_callable_comes_from_the_program_only(name, caplog):
    assert getattr(read_options({name: print}, {}), name) is print
    with caplog.at_level(logging.ERROR, "raven.spool"):
        assert getattr(read_options({name: "print"}, {}), name) is None
    assert f"option {name}='print': must be a callable" in caplog.text


def test_given_goes_before_the_environment():
    environ = {"RAVEN_SPOOL_TIMEOUT": "7", "RAVEN_SPOOL_CONCURRENCY": "7"}

    options = read_options({"timeout": 3}, environ)

    assert (options.timeout, options.concurrency) == (3.0, 7)


@pytest.mark.parametrize("name", STRINGS)
def test_none_is_not_given(name):
    options = read_options({name: None}, {variable(name): STRINGS[name]})

    assert getattr(options, name) == VALUES[name]


def test_empty_variable_is_not_set():
    assert read_options({}, {"RAVEN_SPOOL_FSYNC": ""}) == DEFAULTS


def test_foreign_variables_are_nobody_s_business(caplog):
    assert read_options({}, {"RAVEN_SPOOL_BUGSINK_VENV": "/x", "TIMEOUT": "x"}) == DEFAULTS
    assert caplog.text == ""


# -- bad values -------------------------------------------------------------------------------

BAD = [
    ("backend", "threads", "must be one of auto, "),
    ("fsync", "sometimes", "must be one of always, everysec, no"),
    ("concurrency", "0", "must be a whole number from 1 to 64"),
    ("concurrency", "65", "must be a whole number from 1 to 64"),
    ("concurrency", "4.5", "must be a whole number from 1 to 64"),
    ("timeout", "0", "must be a number of seconds above 0"),
    ("timeout", "-1", "must be a number of seconds"),
    ("timeout", "soon", "must be a number of seconds, or like 90s, 5m, 12h, 30d"),
    ("timeout", "nan", "must be a number of seconds"),
    ("verify_ssl", "maybe", "must be 1 or 0, true or false"),
    ("spool_path", "a\0b", "must be a string, not empty"),
    ("group", "no such group", "must be the name or the number of a group"),
    ("group", "-1", "must be the name or the number of a group"),
    ("group", "4294967295", "must be the name or the number of a group"),
    ("group", "²", "must be the name or the number of a group"),
    ("sender", "telnet", "must be urllib, requests, or module:attribute"),
    ("shutdown_timeout", "inf", "must be a number of seconds"),
    ("max_bytes", "1000", "must be a size of at least 1MiB"),
    ("max_bytes", "much", "must be a size of at least 1MiB"),
    ("overflow", "drop", "must be one of drop_oldest, drop_newest"),
]


@pytest.mark.parametrize(("name", "text", "allowed"), BAD)
def test_bad_string_is_logged_once_and_the_default_used(name, text, allowed, caplog):
    with caplog.at_level(logging.INFO, "raven.spool"):
        options = read_options({name: text}, {})

    assert options == DEFAULTS
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.name == "raven.spool"
    assert record.message.startswith(f"option {name}={text!r}: {allowed}")
    assert record.message.endswith("; the default is used")


@pytest.mark.parametrize(("name", "text", "allowed"), BAD)
def test_bad_variable_is_logged_once_and_the_default_used(name, text, allowed, caplog):
    with caplog.at_level(logging.INFO, "raven.spool"):
        assert read_options({}, {variable(name): text}) == DEFAULTS

    assert [record.message.split(":")[0] for record in caplog.records] == [
        f"option {name}={text!r}"
    ]


@pytest.mark.parametrize(("name", "text", "allowed"), BAD)
def test_strict_raises_for_strings_too(name, text, allowed):
    with pytest.raises(ConfigurationError, match=allowed) as caught:
        read_options({name: text}, {}, strict=True)
    assert f"option {name}={text!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("backend", 3),
        ("fsync", []),
        ("fsync", True),
        ("concurrency", 0),
        ("concurrency", True),
        ("concurrency", 2.5),
        ("timeout", 0),
        ("timeout", -1.0),
        ("timeout", math.nan),
        ("timeout", 10**400),
        ("timeout", True),
        ("verify_ssl", 2),
        ("spool_path", b"/x"),
        ("spool_path", 7),
        ("group", -1),
        ("group", 1 << 32),
        ("group", True),
        ("group", 1.0),
        ("shutdown_timeout", math.inf),
        ("max_bytes", MIB - 1),
        ("max_bytes", 1e9),
        ("wait", 5),
        ("on_dead", object()),
    ],
)
def test_bad_keyword_raises_naming_option_value_and_remedy(name, value):
    with pytest.raises(ConfigurationError) as caught:
        read_options({name: value}, {})

    told = str(caught.value)
    assert told.startswith(f"option {name}={value!r}"[:40])
    assert len(told.rpartition(": ")[2]) > 8
    assert isinstance(caught.value, ValueError)


def test_unknown_string_option_is_logged_with_the_known_ones(caplog):
    with caplog.at_level(logging.INFO, "raven.spool"):
        assert read_options({"spool_paht": "/x"}, {}) == DEFAULTS

    (record,) = caplog.records
    assert (
        "unknown option 'spool_paht' (value '/x'): the options are spool_path, " in record.message
    )
    assert all(name in record.message for name in READERS)


def test_unknown_keyword_option_raises():
    with pytest.raises(ConfigurationError, match="unknown option 'colour'"):
        read_options({"colour": 3}, {})


def test_one_bad_string_does_not_spoil_the_others():
    options = read_options({"fsync": "sometimes", "timeout": "3", "nonsense": "x"}, {})

    assert (options.fsync, options.timeout) == ("everysec", 3.0)


def test_proxy_s_password_is_never_shown():
    with pytest.raises(ConfigurationError) as caught:
        read_option("proxy", "http://user:secret@proxy\0")

    assert "secret" not in str(caught.value)


def test_huge_value_makes_a_short_message():
    with pytest.raises(ConfigurationError) as caught:
        read_option("timeout", "9" * 100_000)
    assert len(str(caught.value)) < 300


# -- any string -------------------------------------------------------------------------------


@given(st.sampled_from(sorted(READERS)), st.text())
@example("timeout", "9" * 400)
@example("max_bytes", "9" * 400 + "g")
@example("concurrency", "9" * 5000)
@example("concurrency", "²")
@example("spool_path", "~")
def test_any_string_is_read_or_named(name, text):
    told, value = "", None
    try:
        value = read_option(name, text)
    except ConfigurationError as error:
        told = str(error)
    # What was read can be given again; what was not is named.
    assert told.startswith(f"option {name}=") if told else read_option(name, value) == value


@given(st.dictionaries(st.sampled_from([*READERS, "unknown", ""]), st.text()))
def test_strings_never_raise(given_options):
    assert isinstance(read_options(given_options, {}), Options)


@given(
    st.dictionaries(
        st.sampled_from([variable(name) for name in READERS]),
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    )
)
def test_environment_never_raises(environ):
    assert isinstance(read_options({}, environ), Options)


# -- spans, sizes, paths ----------------------------------------------------------------------

SPANS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
SIZES = {"": 1, "b": 1, "k": 1 << 10, "m": MIB, "g": 1 << 30}
SPACES = st.text(" \t", max_size=2)


@given(st.integers(1, 10**6), st.sampled_from(sorted(SPANS)), SPACES, st.booleans())
def test_spans_have_units(number, unit, space, upper):
    text = f"{space}{number}{unit.upper() if upper else unit}{space}"

    assert read_option("max_age", text) == number * SPANS[unit]


@given(
    st.integers(1, 10**6).filter(lambda number: number % 1024),
    st.sampled_from(["k", "m", "g"]),
    st.sampled_from(["", "b", "ib", "B", "iB"]),
    SPACES,
)
def test_sizes_have_units(number, unit, suffix, space):
    size = number * SIZES[unit]
    text = f"{number}{space}{unit}{suffix}"
    if size >= MIB:
        assert read_option("max_bytes", text) == size
    else:
        with pytest.raises(ConfigurationError):
            read_option("max_bytes", text)


@given(st.floats(0.001, 1e6, allow_subnormal=False))
def test_fractions_are_read(number):
    text = f"{number:.3f}"
    if float(text) > 0:
        assert read_option("timeout", text) == float(text)


@given(st.text(string.ascii_letters + string.digits + "._-", min_size=1))
def test_paths_are_made_absolute(text):
    path = str(read_option("spool_path", text))

    assert path.startswith("/")
    assert read_option("spool_path", path) == path


def test_home_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")

    assert read_option("spool_path", "~/spool") == "/home/someone/spool"


def test_group_is_read_by_its_name():
    group = grp.getgrgid(os.getegid())

    assert read_option("group", f" {group.gr_name} ") == group.gr_gid


@pytest.mark.parametrize("text", ["1", "true", "YES", " on "])
def test_flag_is_on(text):
    assert read_option("verify_ssl", text) is True


@pytest.mark.parametrize("text", ["0", "false", "No", "off"])
def test_flag_is_off(text):
    assert read_option("verify_ssl", text) is False


def test_default_path_is_systemd_s_state_directory():
    environ = {"STATE_DIRECTORY": "/var/lib/app:/var/lib/other"}

    assert default_spool_path(environ) == "/var/lib/app/raven-spool"


def test_default_path_without_systemd_is_the_user_s():
    assert default_spool_path({}).endswith("/raven-spool")
