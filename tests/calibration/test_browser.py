"""Both pages in a real headless browser: nothing on the console, nothing fetched; small, and made in seconds."""

import json
import shutil
import subprocess
import time
from typing import NamedTuple

import pytest
import torch

from sciinstruct.calibration.report import write_report
from sciinstruct.calibration.study import calibrate
from sciinstruct.calibration.study_report import write_study
from sciinstruct.core import InverseProblem, Likelihood, Posterior
from sciinstruct.operators.blur import GaussianBlur
from sciinstruct.priors import GaussianField, exact_posterior

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
LIMIT = 5 * 2**20


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    return found or pytest.skip(f"needs one of {', '.join(BROWSERS)}")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A report of 256 samples of 64x64 pixels with its seconds, and a study's page."""
    folder, g = tmp_path_factory.mktemp("pages"), torch.Generator().manual_seed(0)
    prior = GaussianField(torch.ones(64, 64))
    truth = prior.sample_exact(1, generator=g)
    operator = GaussianBlur(2.0, (64, 64))
    likelihood = Likelihood(operator, 0.1, operator(truth)).simulate(truth, g)
    problem = InverseProblem(prior, likelihood, name="64x64 blur")
    posterior = Posterior(exact_posterior(prior, likelihood).sample(256, generator=g))
    began = time.process_time()
    report = write_report(posterior, folder, problem=problem, truth=truth[0].double()).html
    seconds = time.process_time() - began
    draws = torch.randn(32, 33, 1, 8, 8, generator=g)
    return report, write_study(calibrate(0.7 * draws[:, 1:], draws[:, 0]), folder).html, seconds


def test_a_report_of_256_samples_is_small_and_quick(pages):
    report, study, seconds = pages
    assert report.stat().st_size <= LIMIT and study.stat().st_size <= LIMIT
    assert seconds <= 20  # of one core


class Seen(NamedTuple):
    shot: int  # bytes of the picture
    console: list[str]
    fetched: set[str]  # addresses the page asked for, but itself


def show(browser, page, folder):
    """Open the page, offline, and listen."""
    shot, net = folder / "page.png", folder / "net.json"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    options += ["--enable-logging=stderr", "--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=1100,2400"]
    options += [f"--user-data-dir={folder / 'profile'}", f"--log-net-log={net}", f"--screenshot={shot}"]
    done = subprocess.run([browser, *options, page.as_uri()], capture_output=True, text=True, timeout=120)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Seen(shot.stat().st_size, console, requests_of_the_page(net))


def requests_of_the_page(net):
    """What has an origin; the browser's own chatter with its maker has none."""
    text = net.read_text().rstrip()
    log = json.loads(text if text.endswith("}") else text.rstrip(",") + "]}")
    params = [event["params"] for event in log["events"] if "url" in event.get("params", {})]
    return {p["url"] for p in params if p.get("initiator", "not an origin") != "not an origin"}


@pytest.mark.parametrize("which", [0, 1])
def test_the_browser_shows_it_and_stays_silent(browser, pages, which, tmp_path):
    seen = show(browser, pages[which], tmp_path)
    assert seen.shot > 50_000 and seen.console == [] and seen.fetched == set()


def test_a_page_that_fetches_and_complains_is_noticed(browser, tmp_path):
    page = tmp_path / "page.html"
    page.write_text('<img src="http://example.invalid/x.png"><script>console.error("broken")</script>')
    seen = show(browser, page, tmp_path)
    assert seen.fetched == {"http://example.invalid/x.png"} and "broken" in seen.console[0]
