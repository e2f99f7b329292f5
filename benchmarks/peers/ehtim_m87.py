"""Closure-only reconstruction of M87 by eht-imaging, as a measure beside our own: one image, its time and its chi2.

eht-imaging is GPL and stays outside the package: run this in an environment of its own (``pip install ehtim pandas``):

    python benchmarks/peers/ehtim_m87.py FILE.uvfits --out image.fits

Recipe: regularised maximum likelihood on closure phases and log closure amplitudes, in the order of the M87 scripts
(release 2019-D01-02): scan average, zero baselines rescaled to 0.6 Jy, 2 % systematic noise, Gaussian prior of 40 uas,
64 pixels over 128 uas, imaging rounds restarted from the blurred previous image. Closure phases leave out the zero
baselines. Prints one JSON line; the FITS image has FITS conventions (first row South), fluxes in Jy per pixel.
"""

import argparse
import contextlib
import io
import json
import platform
import time
import warnings

import numpy as np

FLUX = 0.6  # Jy
NPIX, FOV = 64, 128.0  # pixels, uas
PRIOR_FWHM = 40.0  # uas
UV_MIN = 1e8  # wavelengths
DATA_TERMS = {"cphase": 1.0, "logcamp": 1.0}
REGULARIZERS = {"simple": 5.0, "tv2": 5.0, "l1": 5.0, "flux": 1e3, "cm": 1e3}
ROUNDS = (1.0, 5.0, 15.0, 15.0)  # weight of the data terms in each


def prepare(path):
    """Load and prepare the data; eht-imaging's own functions throughout."""
    import ehtim as eh

    obs = eh.obsdata.load_uvfits(path)
    obs.add_scans()
    obs = obs.avg_coherent(0.0, scan_avg=True)
    obs = obs.rescale_zbl(FLUX, UV_MIN)
    obs = obs.add_fractional_noise(0.02)
    obs.reorder_tarr_snr()
    return obs


def reconstruct(obs, maxit):
    """Image rounds with growing data weight, each from the blurred result of the one before."""
    import ehtim as eh

    uas = eh.RADPERUAS
    empty = eh.image.make_square(obs, NPIX, FOV * uas)
    prior = empty.add_gauss(FLUX, (PRIOR_FWHM * uas, PRIOR_FWHM * uas, 0, 0, 0))
    image = prior
    for weight in ROUNDS:
        imager = eh.imager.Imager(
            obs,
            image,
            prior_im=prior,
            flux=FLUX,
            data_term={name: weight * value for name, value in DATA_TERMS.items()},
            reg_term=REGULARIZERS,
            maxit=maxit,
            stop=1e-6,
            cp_uv_min=UV_MIN,
            ttype="direct",
            clipfloor=-1.0,
            norm_reg=True,
        )
        imager.make_image_I(show_updates=False)
        result = imager.out_last()
        image = result.blur_circ(0.5 * obs.res())
        image.imvec *= FLUX / image.total_flux()
    return result


def chi_square(obs, image):
    """Reduced chi2 per data term by eht-imaging's own definitions (diagonal covariances)."""
    terms = {name: obs.chisq(image, dtype=name, ttype="direct", cp_uv_min=UV_MIN) for name in DATA_TERMS}
    return {name: round(float(value), 4) for name, value in terms.items()}


def main():
    """Reconstruct one file and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--out", required=True, help="FITS image to write")
    parser.add_argument("--maxit", type=int, default=150, help="iterations per round")
    options = parser.parse_args()
    chatter = io.StringIO()  # the package prints as it goes
    with contextlib.redirect_stdout(chatter), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ehtim as eh

        begin = time.perf_counter()
        obs = prepare(options.file)
        loaded = time.perf_counter()
        image = reconstruct(obs, options.maxit)
        done = time.perf_counter()
        image.save_fits(options.out)
        chi2 = chi_square(obs, image)
    record = {
        "package": "ehtim",
        "file": options.file.rsplit("/", 1)[-1],
        "seconds_prepare": round(loaded - begin, 2),
        "seconds_image": round(done - loaded, 2),
        "chi2_ehtim": chi2,
        "flux_jy": round(float(image.total_flux()), 4),
        "rows": len(obs.data),
        "image": options.out,
        "versions": {
            "ehtim": getattr(eh, "__version__", "?"),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
