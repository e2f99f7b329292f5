"""Is the posterior right for *these* data? A classifier's answer, through the package sbi where it is installed."""

import torch
from torch import Tensor

from sciinstruct.core import SciinstructError
from sciinstruct.core.checks import check_finite


def local_classifier_test(
    samples: Tensor,
    truth: Tensor,
    features: Tensor,
    here: Tensor,
    here_features: Tensor,
    *,
    trials: int = 100,
    seed: int = 1,
) -> float:
    r"""P-value of "the posterior is right at this observation", by L-C2ST.

    A classifier learns to tell (truth, data) from (sample, data) over a study. Where it can, at the samples of the
    observation in question, the posterior is wrong there. For a handful of derived quantities and summaries of the
    data: classifiers of whole images have no power at a few hundred observations.

    Parameters
    ----------
    samples : Tensor, shape (N, S, k)
        k quantities of the posterior samples of N observations; the first sample of each is used.
    truth : Tensor, shape (N, k)
        The same of the truths.
    features : Tensor, shape (N, p)
        Summaries of the data.
    here : Tensor, shape (M, k)
        Quantities of posterior samples at the observation in question.
    here_features : Tensor, shape (p,)
        Its summaries.
    trials : int
        Trainings on permuted labels: the p-value is a multiple of 1/trials.
    seed : int
        Of the classifiers.

    Returns
    -------
    float

    Raises
    ------
    SciinstructError
        If sbi is not installed.
    ValueError
        If shapes disagree or values are not finite.

    References
    ----------
    Linhart, Gramfort, Rodrigues 2023, "L-C2ST: local diagnostics for posterior approximations".
    """
    _check(samples, truth, features, here, here_features)
    try:
        from sbi.diagnostics.lc2st import LC2ST
    except ImportError as error:
        raise SciinstructError("this test needs sbi: pip install sbi; ranks by a feature need nothing") from error
    data = [values.detach().cpu().float() for values in (truth, features, samples[:, 0])]
    test = LC2ST(*data, seed=seed, z_score=True, num_trials_null=trials)
    test.train_on_observed_data(verbosity=0).train_under_null_hypothesis(verbosity=0)
    return float(test.p_value(here.detach().cpu().float(), here_features.detach().cpu().float()[None]))


def _check(samples: Tensor, truth: Tensor, features: Tensor, here: Tensor, here_features: Tensor) -> None:
    n, k, p = len(truth), truth.shape[-1], features.shape[-1]
    expected = {
        "samples": (samples, (n, samples.shape[1] if samples.ndim > 1 else 0, k)),
        "truth": (truth, (n, k)),
        "features": (features, (n, p)),
        "here": (here, (len(here), k)),
        "here_features": (here_features, (p,)),
    }
    for name, (values, shape) in expected.items():
        if tuple(values.shape) != shape:
            raise ValueError(f"{name} must have shape {shape}, got {tuple(values.shape)}")
        check_finite(name, torch.as_tensor(values))
