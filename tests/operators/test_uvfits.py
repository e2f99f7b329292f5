"""UVFITS: the reader against reference tables of real files, the writer's round trip, every kind of bad file."""

import gzip

import numpy as np
import pytest
import torch
from astropy.io import fits

from sciinstruct.core.errors import FileFormatError, OutputError
from sciinstruct.operators.interferometry import Observation, read_uvfits_bands

FREQUENCY = 230e9
PAIRS = [(1, 2), (1, 3), (2, 3)]


NAMES = ("UU---SIN", "VV---SIN", "BASELINE", "DATE", "DATE", "INTTIM")


def small_file(
    path, *, data=None, codes=(-1, -1.0), names=NAMES, last=10.0, baselines=None, antennas=True, nx=None, change=None
):
    """Three stations, four times, built by astropy alone. `data`: (rows, IF, channel, stokes, 3)."""
    pairs = PAIRS * 4
    rows = len(pairs)
    if data is None:
        data = np.zeros((rows, 1, 1, 4, 3))
        data[..., :2, :] = [1.0, 0.5, 4.0]
    days = np.repeat([0.25, 0.2501, 0.3, 0.3001], 3)
    columns = [
        np.arange(rows) * 1e-3,
        np.arange(rows) * -2e-3,
        np.array([256 * a + b for a, b in pairs]) if baselines is None else baselines,
        np.full(rows, 2457854.5),
        days,
        np.broadcast_to(last, (rows,)),
    ]
    groups = fits.GroupData(data[:, None, None].astype(np.float32), bitpix=-32, parnames=list(names), pardata=columns)
    hdu = fits.GroupsHDU(groups)
    for k in range(1, 7):
        hdu.header[f"PSCAL{k}"], hdu.header[f"PZERO{k}"] = 1.0, 0.0
    kinds = ["COMPLEX", "STOKES", "FREQ", "IF", "RA", "DEC"]
    starts, steps = [1, codes[0], FREQUENCY, 1, 180.0, 10.0], [1, codes[1], 1e9, 1, 1, 1]
    for k, (kind, start, step) in enumerate(zip(kinds, starts, steps), start=2):
        hdu.header[f"CTYPE{k}"], hdu.header[f"CRVAL{k}"] = kind, start
        hdu.header[f"CDELT{k}"], hdu.header[f"CRPIX{k}"] = step, 1.0
    hdus = [hdu]
    if antennas:
        an = fits.BinTableHDU.from_columns(
            [
                fits.Column("ANNAME", "8A", array=np.array(["ONE ", "TWO", "THREE"])),
                fits.Column("STABXYZ", "3D", array=np.eye(3) * 6e6),
                fits.Column("NOSTA", "1J", array=[1, 2, 3]),
            ],
            name="AIPS AN",
        )
        an.header["RDATE"] = "2017-04-11"
        hdus.append(an)
    n_if = data.shape[1]
    if n_if > 1:
        columns = [
            fits.Column("IF FREQ", f"{n_if}D", array=[np.arange(n_if) * 10e9]),
            fits.Column("CH WIDTH", f"{n_if}E", array=[np.full(n_if, 1e9)]),
        ]
        hdus.append(fits.BinTableHDU.from_columns(columns, name="AIPS FQ"))
    if nx is not None:
        columns = [
            fits.Column("TIME", "1E", array=np.array(nx)[:, 0]),
            fits.Column("TIME INTERVAL", "1E", array=np.array(nx)[:, 1]),
        ]
        hdus.append(fits.BinTableHDU.from_columns(columns, name="AIPS NX"))
    if change:
        change(hdus)
    fits.HDUList(hdus).writeto(path)
    return path


def correlations(*hands, rows=12):
    """Data (rows, 1, 1, len(hands), 3) with the same (re, im, weight) per hand in every row."""
    return np.broadcast_to(np.array(hands, dtype=float), (rows, 1, 1, len(hands), 3)).copy()


REFERENCE = {
    "101": (7447, 0.53472224, -4395897344, -4509549056, -0.1552281 + 0.0090709j, 0.00384135, 1842.8715, 236.7561)
    + (8257298309, 24.980, 0.534722, 7.459723, 22),
    "096": (8645, 0.86805555, -4396973056, -4510950912, -0.1377156 + 0.0044496j, 0.00382148, 1768.1818, 251.9412)
    + (8261949306, 24.966, 0.868056, 8.031944, 25),
}


@pytest.fixture(scope="module", params=["101", "096"])
def real(request, eht_dir):
    path = eht_dir / f"SR1_M87_2017_{request.param}_lo_hops_netcal_StokesI.uvfits"
    return request.param, Observation.from_uvfits(path)


class TestRealFiles:
    def test_first_row_and_sums(self, real):
        day, obs = real
        rows, time, u, v, vis, sigma, total, errors, longest, resolution, first, last, scans = REFERENCE[day]
        assert len(obs) == rows
        assert (obs.stations[obs.station1[0]], obs.stations[obs.station2[0]]) == ("AA", "PV")
        assert obs.time[0].item() == pytest.approx(time, abs=1e-8)
        assert obs.u[0].item() == pytest.approx(u, abs=0.5) and obs.v[0].item() == pytest.approx(v, abs=0.5)
        assert abs(obs.vis[0].item() - vis) < 1e-7
        assert obs.sigma[0].item() == pytest.approx(sigma, abs=1e-8)
        assert obs.vis.abs().sum().item() == pytest.approx(total, abs=1e-4)
        assert obs.sigma.sum().item() == pytest.approx(errors, abs=1e-4)

    def test_summary(self, real):
        day, obs = real
        longest, resolution, first, last, scans = REFERENCE[day][8:]
        summary = obs.summary()
        assert summary.longest_baseline == pytest.approx(longest, abs=1)
        assert summary.resolution == pytest.approx(resolution, abs=1e-3)
        assert (summary.first_hour, summary.last_hour) == pytest.approx((first, last), abs=1e-6)
        assert summary.scans == scans and summary.baselines == 21 and len(summary.stations) == 7
        closures = {"101": (134, 113), "096": (173, 149)}[day]
        assert (summary.closure_phases, summary.log_closure_amplitudes) == closures
        assert "SR" not in obs.stations and "M87" in str(summary)

    def test_header(self, real):
        day, obs = real
        assert (obs.ra, obs.dec) == (187.7059307575226, 12.39112323919932)
        assert (obs.frequency, obs.bandwidth) == (227070703125.0, 1.856e9)
        assert obs.mjd == {"101": 57854.0, "096": 57849.0}[day] and obs.source == "M87"
        assert obs.integration.median().item() == pytest.approx(9.2, abs=0.1)

    def test_round_trip_is_exact(self, real, tmp_path):
        _, obs = real
        back = Observation.from_uvfits(obs.to_uvfits(tmp_path / "copy.uvfits"))
        for name in obs.ROWS:
            assert torch.equal(getattr(back, name), getattr(obs, name)), name
        assert torch.equal(back.positions, obs.positions)
        for name in ("stations", "ra", "dec", "frequency", "bandwidth", "mjd", "source", "band"):
            assert getattr(back, name) == getattr(obs, name), name
        assert "AIPS NX" in back.history[-1]

    def test_averaged_round_trip_keeps_scans_and_single_precision(self, real, tmp_path):
        _, obs = real
        obs = obs.scan_average()
        back = Observation.from_uvfits(obs.to_uvfits(tmp_path / "copy.uvfits"))
        assert torch.equal(back.scan, obs.scan)
        ulp = 2.0**-24
        assert ((back.u - obs.u).abs() <= ulp * obs.u.abs() + 1e-5).all()
        assert ((back.vis - obs.vis).abs() <= 2 * ulp * obs.vis.abs()).all()
        assert ((back.sigma / obs.sigma - 1).abs() <= 2 * ulp).all()

    def test_compressed_file_reads_the_same(self, real, eht_dir, tmp_path):
        day, obs = real
        path = tmp_path / "copy.uvfits.gz"
        path.write_bytes(gzip.compress(next(eht_dir.glob(f"*{day}_lo*")).read_bytes(), 1))
        assert torch.equal(Observation.from_uvfits(path).vis, obs.vis)

    def test_npz_round_trip_keeps_everything(self, real, tmp_path):
        _, obs = real
        obs = obs.scan_average().add_fractional_noise(0.02)
        back = Observation.load(obs.save(tmp_path / "obs.npz"))
        for name in (*obs.ROWS, "positions"):
            assert torch.equal(getattr(back, name), getattr(obs, name)), name
        assert back.history == obs.history and back.stations == obs.stations and back.ra == obs.ra

    @pytest.mark.parametrize("part", [0.0, 0.001, 0.02, 0.5, 0.97, 0.985, 0.9999])
    def test_truncated_anywhere(self, real, eht_dir, tmp_path, part):
        raw = next(eht_dir.glob(f"*{real[0]}_lo*")).read_bytes()
        path = tmp_path / "cut.uvfits"
        path.write_bytes(raw[: int(part * len(raw))])
        with pytest.raises(FileFormatError, match="cut.uvfits") as caught:
            Observation.from_uvfits(path)
        assert "\n" not in str(caught.value)

    def test_damaged_gzip(self, real, eht_dir, tmp_path):
        raw = gzip.compress(next(eht_dir.glob(f"*{real[0]}_lo*")).read_bytes(), 1)
        path = tmp_path / "cut.uvfits.gz"
        path.write_bytes(raw[: len(raw) // 2])
        with pytest.raises(FileFormatError, match="cut.uvfits.gz"):
            Observation.from_uvfits(path)


class TestStokes:
    def test_two_hands_average(self, tmp_path):
        obs = Observation.from_uvfits(small_file(tmp_path / "a", data=correlations((1, 2, 4), (3, 4, 1), (9, 9, 1))))
        assert torch.allclose(obs.vis, torch.full((12,), 2 + 3j, dtype=torch.complex128), rtol=1e-15)
        assert torch.allclose(obs.sigma, torch.tensor(0.5 * (0.25 + 1) ** 0.5, dtype=torch.float64))

    def test_linear_feeds_average(self, tmp_path):
        obs = Observation.from_uvfits(
            small_file(tmp_path / "a", codes=(-5, -1), data=correlations((1, 0, 4), (3, 0, 4)))
        )
        assert torch.equal(obs.vis.real, torch.full((12,), 2.0, dtype=torch.float64))

    def test_native_stokes_i(self, tmp_path):
        obs = Observation.from_uvfits(small_file(tmp_path / "a", codes=(1, 1), data=correlations((1, 2, 4), (8, 8, 4))))
        assert obs.vis[0].item() == 1 + 2j and obs.sigma[0].item() == 0.5

    @pytest.mark.parametrize("bad", [0.0, -1.0, float("nan")])
    def test_one_hand_kept(self, tmp_path, bad):
        obs = Observation.from_uvfits(small_file(tmp_path / "a", data=correlations((1, 2, 4), (7, 7, bad))))
        assert obs.vis[0].item() == 1 + 2j and obs.sigma[0].item() == 0.5
        assert any("12 visibilities with one parallel hand kept" in line for line in obs.history)

    def test_one_hand_dropped(self, tmp_path):
        data = correlations((1, 2, 4), (3, 2, 4))
        data[5:, ..., 1, 2] = 0
        obs = Observation.from_uvfits(small_file(tmp_path / "a", data=data), single_pol="drop")
        assert len(obs) == 5 and any("7 visibilities with one parallel hand dropped" in line for line in obs.history)

    def test_only_one_hand_in_the_file(self, tmp_path):
        path = small_file(tmp_path / "a", data=correlations((1, 2, 4)))
        assert len(Observation.from_uvfits(path)) == 12
        with pytest.raises(FileFormatError, match="single_pol='drop'"):
            Observation.from_uvfits(path, single_pol="drop")

    def test_value_that_is_not_finite_is_a_flag(self, tmp_path):
        data = correlations((1, 2, 4), (3, 2, 4))
        data[0, ..., :2, 0] = np.nan
        data[1, ..., 0, 1] = np.inf
        obs = Observation.from_uvfits(small_file(tmp_path / "a", data=data))
        assert len(obs) == 11 and obs.vis[0].item() == 3 + 2j

    def test_unknown_codes(self, tmp_path):
        path = small_file(tmp_path / "a", codes=(-3, -1), data=correlations((1, 2, 4), (1, 2, 4)))
        with pytest.raises(FileFormatError, match=r"codes \[-3, -4\]"):
            Observation.from_uvfits(path)

    def test_policy_is_checked(self, tmp_path):
        with pytest.raises(ValueError, match="single_pol"):
            Observation.from_uvfits(small_file(tmp_path / "a"), single_pol="average")


class TestChannels:
    @pytest.fixture
    def path(self, tmp_path):
        """Two IFs 10 GHz apart with two channels each; values 1, 2, 3, 4 and weights 1, 1, 2, 0."""
        data = np.zeros((12, 2, 2, 1, 3))
        data[..., 0, 0] = [[1, 2], [3, 4]]
        data[..., 0, 2] = [[1, 1], [2, 0]]
        return small_file(tmp_path / "a", codes=(1, 1), data=data)

    def test_weighted_average_at_the_weighted_frequency(self, path):
        obs = Observation.from_uvfits(path)
        assert obs.vis[3].item() == pytest.approx((1 + 2 + 6) / 4)
        assert obs.sigma[3].item() == pytest.approx(0.5)
        assert obs.u[3].item() == pytest.approx(3e-3 * (230e9 + 231e9 + 2 * 240e9) / 4, rel=1e-6)
        assert obs.bandwidth == 4e9

    def test_chosen_channels(self, path):
        obs = Observation.from_uvfits(path, channels=(1,))
        assert obs.vis[0].item() == 2 and obs.frequency == 231e9 and obs.bandwidth == 1e9
        with pytest.raises(FileFormatError, match="flagged"):
            Observation.from_uvfits(path, channels=(3,))
        with pytest.raises(ValueError, match="channels"):
            Observation.from_uvfits(path, channels=(4,))

    def test_one_observation_per_band(self, path):
        low, high = read_uvfits_bands(path)
        assert (low.vis[0].item(), high.vis[0].item()) == (1.5, 3)
        assert (low.frequency, high.frequency) == (230.5e9, 240.5e9) and low.band != high.band


class TestColumns:
    def test_date_offset_in_pzero(self, tmp_path):
        def move(hdus):
            hdus[0].header["PZERO4"] = 1.0

        assert Observation.from_uvfits(small_file(tmp_path / "a", change=move)).mjd == 57855.0

    def test_names_without_projection(self, tmp_path):
        obs = Observation.from_uvfits(small_file(tmp_path / "a", names=("UU", "VV--", *NAMES[2:])))
        assert obs.u[1].item() == pytest.approx(1e-3 * FREQUENCY, rel=1e-6)

    def test_many_station_baseline_code(self, tmp_path):
        codes = np.array([2048 * a + b + 65536 for a, b in PAIRS * 4])
        obs = Observation.from_uvfits(small_file(tmp_path / "a", baselines=codes))
        assert [(a, b) for a, b in zip(obs.station1[:3].tolist(), obs.station2[:3].tolist())] == [
            (0, 1),
            (0, 2),
            (1, 2),
        ]

    def test_subarray_fraction_and_unused_station(self, tmp_path):
        obs = Observation.from_uvfits(small_file(tmp_path / "a", baselines=np.full(12, 256 * 1 + 3 + 0.01)))
        assert obs.stations == ("ONE", "THREE") and obs.station2.unique().tolist() == [1]

    def test_autocorrelations_are_left_out(self, tmp_path):
        codes = np.array([257] * 6 + [258] * 6)
        assert len(Observation.from_uvfits(small_file(tmp_path / "a", baselines=codes))) == 6

    def test_array_centre_is_added(self, tmp_path):
        def move(hdus):
            hdus[1].header["ARRAYX"] = 100.0

        obs = Observation.from_uvfits(small_file(tmp_path / "a", change=move))
        assert obs.positions[0].tolist() == [6000100.0, 0.0, 0.0]

    def test_scan_table_is_preferred_to_pauses(self, tmp_path):
        gaps = Observation.from_uvfits(small_file(tmp_path / "a"))
        table = Observation.from_uvfits(small_file(tmp_path / "b", nx=[(0.2, 0.01), (0.25005, 2e-4), (0.30005, 2e-4)]))
        one = Observation.from_uvfits(small_file(tmp_path / "c", nx=[(0.27505, 0.06)]))
        assert gaps.n_scans == 2 and torch.equal(gaps.scan, table.scan) and one.n_scans == 1

    def test_scan_table_counts_from_the_first_day_where_the_reference_is_no_date(self, tmp_path):
        def old_style(hdus):
            hdus[1].header["RDATE"] = "11/04/17"

        obs = Observation.from_uvfits(small_file(tmp_path / "a", nx=[(0.27505, 0.06)], change=old_style))
        assert obs.n_scans == 1

    def test_scan_table_of_another_night_is_not_used(self, tmp_path):
        obs = Observation.from_uvfits(small_file(tmp_path / "a", nx=[(3.25, 0.01)]))
        assert obs.n_scans == 2 and "does not cover" in obs.history[-1]


def _no_numbers(hdus):
    hdus[1].columns["NOSTA"].name = "OTHER"


def _drop_stokes(hdus):
    hdus[0].header["CTYPE3"] = "JUNK"


def _second_array(hdus):
    hdus.append(hdus[1].copy())


def _wavelengths(hdus):
    hdus[0].header["PSCAL1"] = 1e9


def _early_date(hdus):
    hdus[0].header["PZERO5"] = -3e6


BAD_FILES = {
    "no antenna table": (dict(antennas=False), "no AIPS AN antenna table"),
    "no station numbers": (dict(change=_no_numbers), "no column NOSTA"),
    "two subarrays": (dict(change=_second_array), "subarrays"),
    "no stokes axis": (dict(change=_drop_stokes), "STOKES"),
    "all weights NaN": (dict(data=correlations((1, 1, np.nan), (1, 1, np.nan))), "all 12 visibilities are flagged"),
    "all weights zero": (dict(data=correlations((1, 1, 0), (1, 1, 0))), "all 12 visibilities are flagged"),
    "all weights negative": (dict(data=correlations((1, 1, -4), (1, 1, -4))), "all 12 visibilities are flagged"),
    "only autocorrelations": (dict(baselines=np.full(12, 257)), "autocorrelations"),
    "unknown station": (dict(baselines=np.full(12, 256 + 9)), r"stations \[9\]"),
    "u, v in wavelengths": (dict(change=_wavelengths), "light-seconds"),
    "no u": (dict(names=("XX", *NAMES[1:])), "parameter UU is missing"),
    "no date": (dict(names=(*NAMES[:3], "A", "B", "INTTIM")), "parameter DATE is missing"),
    "date before 1858": (dict(change=_early_date), "Julian date"),
    "two sources": (dict(names=(*NAMES[:5], "SOURCE"), last=np.arange(12)), "several sources"),
}


class TestBadFiles:
    @pytest.mark.parametrize("case", BAD_FILES)
    def test_one_line_that_names_the_file(self, tmp_path, case):
        options, text = BAD_FILES[case]
        path = small_file(tmp_path / "bad.uvfits", **options)
        with pytest.raises(FileFormatError, match=text) as caught:
            Observation.from_uvfits(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)

    def test_zero_rows(self, tmp_path):
        path = tmp_path / "empty.uvfits"
        small_file(path)
        raw = path.read_bytes()
        card = next(raw[i : i + 80] for i in range(0, 28800, 80) if raw[i : i + 6] == b"GCOUNT")
        blank = card.replace(b"12", b" 0")
        size = 12 * (6 + 4 * 3) * 4
        start = raw.index(b"END" + b" " * 77)
        start = (start // 2880 + 1) * 2880
        path.write_bytes(raw[:start].replace(card, blank) + raw[start + -(-size // 2880) * 2880 :])
        with pytest.raises(FileFormatError, match="zero rows"):
            Observation.from_uvfits(path)

    def test_foreign_files(self, tmp_path):
        text, image = tmp_path / "notes.uvfits", tmp_path / "image.fits"
        text.write_text("u v vis\n1 2 3\n")
        fits.PrimaryHDU(np.zeros((4, 4))).writeto(image)
        with pytest.raises(FileFormatError, match="not a FITS file"):
            Observation.from_uvfits(text)
        with pytest.raises(FileFormatError, match="not uv data"):
            Observation.from_uvfits(image)
        with pytest.raises(FileFormatError, match="written by Observation.save"):
            Observation.load(image)

    def test_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            Observation.from_uvfits(tmp_path / "nothing.uvfits")
        with pytest.raises(FileNotFoundError):
            Observation.load(tmp_path / "nothing.npz")

    def test_truncated_npz(self, tmp_path):
        path = Observation.from_uvfits(small_file(tmp_path / "a")).save(tmp_path / "obs.npz")
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(FileFormatError, match=r"obs\.npz"):
            Observation.load(path)

    def test_unwritable_output_leaves_nothing(self, tmp_path):
        obs = Observation.from_uvfits(small_file(tmp_path / "a"))
        (tmp_path / "file").write_text("")
        for write in (obs.to_uvfits, obs.save):
            with pytest.raises(OutputError):
                write(tmp_path / "file" / "out")
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "file"]

    def test_long_station_name_is_refused(self, tmp_path):
        obs = Observation.from_uvfits(small_file(tmp_path / "a")).evolve("renamed", stations=("A", "B", "NINECHARS"))
        with pytest.raises(ValueError, match="NINECHARS"):
            obs.to_uvfits(tmp_path / "b")
