"""Numbers and times as people read them."""

import time

_UNITS = (("d", 86400), ("h", 3600), ("min", 60))


def span(seconds: float) -> str:
    for unit, length in _UNITS:
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"


def size(count: int) -> str:
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def until(at: float, now: float) -> str:
    clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
    return f"until {clock} (in {span(at - now)})"


def events(count: int) -> str:
    return f"{count} event{'s' if count != 1 else ''}"
