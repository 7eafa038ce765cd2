"""raven.transport.exceptions, under the same names."""


class InvalidScheme(ValueError):
    """A transport was made for a URL that it does not handle."""


class DuplicateScheme(Exception):
    """The scheme is registered already."""
