"""Stokes I and its weight from the correlations stored in a UVFITS file."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sciinstruct.operators.interferometry.uvfits_file import UvfitsFile

_PARALLEL_HANDS = ((-1, -2), (-5, -6))  # RR, LL and XX, YY
_STOKES_I = 1


def stokes_i(file: "UvfitsFile", single_pol: str) -> tuple["NDArray[np.complex128]", "NDArray[np.float64]", list[str]]:
    """Stokes I of every row and channel.

    I = (RR + LL) / 2 with variance (sigma_RR^2 + sigma_LL^2) / 4, or the one good hand under ``single_pol='keep'``;
    a weight that is NaN or not positive, or a value that is not finite, is a flag.

    Returns
    -------
    values, weights : arrays, shape (rows, channels)
        Visibility in Jy and inverse variance per real component; both 0 where flagged.
    notes : list of str
        Lines for the history.

    Raises
    ------
    FileFormatError
        If the STOKES axis has neither I nor a parallel hand.
    """
    codes = np.rint(file.axis("STOKES")).astype(int).tolist()
    if _STOKES_I in codes:
        values, weights = _correlation(file, codes.index(_STOKES_I))
        return values, weights, []
    for pair in _PARALLEL_HANDS:
        present = [codes.index(code) for code in pair if code in codes]
        if present:
            hands = [_correlation(file, k) for k in present]
            return _combine(hands, single_pol)
    raise file.error(f"the STOKES axis has codes {codes}, none of I (1), RR, LL (-1, -2), XX, YY (-5, -6)")


def _correlation(file: "UvfitsFile", k: int) -> tuple["NDArray[np.complex128]", "NDArray[np.float64]"]:
    real, imag, weight = (file.data[:, :, :, k, part].reshape(len(file.data), -1) for part in range(3))
    good = np.isfinite(real) & np.isfinite(imag) & np.isfinite(weight) & (weight > 0)
    return np.where(good, real, 0) + 1j * np.where(good, imag, 0), np.where(good, weight, 0)


def _combine(
    hands: list[tuple["NDArray[np.complex128]", "NDArray[np.float64]"]], single_pol: str
) -> tuple["NDArray[np.complex128]", "NDArray[np.float64]", list[str]]:
    if len(hands) == 1:
        hands = [hands[0], (np.zeros_like(hands[0][0]), np.zeros_like(hands[0][1]))]
    (a, wa), (b, wb) = hands
    both = (wa > 0) & (wb > 0)
    single = (wa > 0) ^ (wb > 0)
    keep = single & (single_pol == "keep")
    harmonic = 4 * wa * wb / np.where(both, wa + wb, 1)  # 1 / sigma_I^2
    values = np.where(both, (a + b) / 2, np.where(keep, a + b, 0))
    weights = np.where(both, harmonic, np.where(keep, wa + wb, 0))
    verb = "kept as Stokes I" if single_pol == "keep" else "dropped"
    return values, weights, [f"{int(single.sum())} visibilities with one parallel hand {verb}"] * bool(single.any())
