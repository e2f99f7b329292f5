"""Units of length and time as image files spell them."""

import math
import re
import warnings
from pathlib import Path

_UM_PER_UNIT = {
    **dict.fromkeys(("m", "meter", "metre", "meters", "metres"), 1e6),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 1e4),
    **dict.fromkeys(("mm", "millimeter", "millimetre", "millimeters", "millimetres"), 1e3),
    **dict.fromkeys(("um", "micron", "microns", "micrometer", "micrometre", "micrometers", "micrometres"), 1.0),
    **dict.fromkeys(("nm", "nanometer", "nanometre", "nanometers", "nanometres"), 1e-3),
    **dict.fromkeys(("Å", "A", "angstrom", "angstroms", "ångström"), 1e-4),  # noqa: RUF001
    **dict.fromkeys(("pm", "picometer", "picometre"), 1e-6),
    **dict.fromkeys(("inch", "in", "inches"), 25400.0),
}
_S_PER_UNIT = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), 1e-3),
    **dict.fromkeys(("us", "usec", "microsecond", "microseconds"), 1e-6),
    **dict.fromkeys(("min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hour", "hours"), 3600.0),
}
NO_LENGTH = {"", "pixel", "pixels", "px", "reference frame"}
DISPLAY_DPI = (72.0, 96.0)
_PRINT_UM = 10.0  # coarser than this from an inch or cm tag is more likely a printing setting


def _spelling(unit: str) -> str:
    """Bring the spellings of one unit together: both Greek letters, escapes, text decoded as Latin-1."""
    try:
        unit = unit.encode("latin-1").decode("utf-8")
    except UnicodeError:
        pass
    unit = re.sub(r"\\u([0-9A-Fa-f]{4})", lambda found: chr(int(found.group(1), 16)), unit).strip()
    unit = unit.replace("\u00b5", "u").replace("\u03bc", "u").replace("\u212b", "\u00c5")
    return unit.lower() if len(unit) > 2 else unit


def um_per(unit: str) -> float | None:
    r"""Micrometres in one `unit`; None if it is no length (``"pixel"``) or not known.

    Parameters
    ----------
    unit : str
        ``"um"`` with a Latin u, U+00B5 or U+03BC, the literal text ``"\u00B5m"``, ``"micron"``, ``"nm"``, ``"mm"``,
        ``"cm"``, ``"m"``, ``"angstrom"``, ``"inch"`` and their long names.

    Examples
    --------
    >>> um_per("nm")
    0.001
    """
    return _UM_PER_UNIT.get(_spelling(unit))


def length_um(value: float | None, unit: str, what: str, path: Path) -> float | None:
    """Turn a length from a file into um; None, with a warning that says why, where the file gives no usable length."""
    if value is None or _spelling(unit) == "":
        return None
    scale = um_per(unit)
    if scale is None:
        why = "pixels are no length" if _spelling(unit) in NO_LENGTH else "it is no unit of length known here"
        warnings.warn(f"{path}: {what} is in {unit!r} ({why}), so it is left unknown", stacklevel=2)
        return None
    if not math.isfinite(value) or value == 0:
        warnings.warn(f"{path}: {what} is {value:g} {unit}, so it is left unknown", stacklevel=2)
        return None
    return abs(value) * scale


def time_s(value: float | None, unit: str) -> float | None:
    """Turn a time from a file into seconds; None if it is not positive or the unit is not known."""
    scale = _S_PER_UNIT.get(_spelling(unit))
    return value * scale if scale is not None and value is not None and 0 < value < math.inf else None


def resolution_um(pixels_per_unit: float, unit: str, path: Path) -> float | None:
    """Pixel size in um from a plain TIFF's resolution tag in pixels per inch or cm.

    72 and 96 per inch describe a screen, not a specimen: None, with a warning. A pixel above 10 um is kept, with a
    warning.
    """
    if not 0 < pixels_per_unit < math.inf:
        return None
    size = _UM_PER_UNIT[unit] / pixels_per_unit
    dpi = _UM_PER_UNIT["inch"] / size
    if any(math.isclose(dpi, display, rel_tol=2e-3) for display in DISPLAY_DPI):  # 28.35 per cm is 72 dpi
        warnings.warn(
            f"{path}: {dpi:.0f} dpi is a screen's resolution, so the pixel size is left unknown", stacklevel=2
        )
        return None
    if size > _PRINT_UM:
        warnings.warn(
            f"{path}: its {dpi:.0f} dpi means pixels of {size:.4g} um, which may be a printing setting", stacklevel=2
        )
    return size
