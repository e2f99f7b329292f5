"""Is a posterior to be trusted? Ranks, coverage, scores, posterior-predictive checks, studies and reports.

`write_report` makes the report of one posterior; `calibrate` tests many posteriors against their truths and
`write_study` reports what it found; `run_study` makes the posteriors first. `conformal_pixels` and `conformal_band`
widen intervals until they hold, which is no evidence that the posterior was right.
"""

from sciinstruct.calibration.chains import posterior_from_arviz
from sciinstruct.calibration.conformal import conformal_band, conformal_pixels
from sciinstruct.calibration.lc2st import local_classifier_test
from sciinstruct.calibration.predictive import predictive_check
from sciinstruct.calibration.quantities import Quantity
from sciinstruct.calibration.ranks import coverage_from_ranks, mean_coverage_error, randomised_ranks
from sciinstruct.calibration.report import ReportPaths, write_report
from sciinstruct.calibration.robustness import RobustnessPaths, write_robustness
from sciinstruct.calibration.running import StudyRun, run_study
from sciinstruct.calibration.scores import fair_crps, fair_energy_score
from sciinstruct.calibration.stein import stein_ratio
from sciinstruct.calibration.study import CalibrationReport, calibrate
from sciinstruct.calibration.study_report import compare, write_study
from sciinstruct.calibration.tarp import tarp_ranks
from sciinstruct.calibration.verdicts import Verdict
from sciinstruct.core.wasserstein import sliced_w2

__all__ = [
    "CalibrationReport",
    "Quantity",
    "ReportPaths",
    "RobustnessPaths",
    "StudyRun",
    "Verdict",
    "calibrate",
    "compare",
    "conformal_band",
    "conformal_pixels",
    "coverage_from_ranks",
    "fair_crps",
    "fair_energy_score",
    "local_classifier_test",
    "mean_coverage_error",
    "predictive_check",
    "posterior_from_arviz",
    "randomised_ranks",
    "run_study",
    "sliced_w2",
    "stein_ratio",
    "tarp_ranks",
    "write_report",
    "write_robustness",
    "write_study",
]
