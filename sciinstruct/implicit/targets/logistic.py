"""Bayesian logistic regression."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sciinstruct.core.checks import check_finite, check_positive
from sciinstruct.implicit.targets.base import Target


class LogisticRegression(Target):
    r"""Posterior of weights w and intercept under :math:`P(y = 1 | x) = \mathrm{sigmoid}(w^T x + c)`, prior N(0, s^2).

    Parameters
    ----------
    features : Tensor, shape (N, p)
        Standardise them: the prior is the same for all weights.
    labels : Tensor, shape (N,)
        0 or 1.
    prior_sd : float
        s, of weights and intercept.
    name : str

    Raises
    ------
    ValueError
        If shapes disagree, a feature is not finite, or a label is neither 0 nor 1.
    """

    features: Tensor
    labels: Tensor

    def __init__(
        self, features: Tensor, labels: Tensor, *, prior_sd: float = 1.0, name: str = "logistic regression"
    ) -> None:
        if features.ndim != 2 or labels.shape != features.shape[:1]:
            raise ValueError(
                f"features (N, p) need labels (N,), got shapes {tuple(features.shape)} and {tuple(labels.shape)}"
            )
        check_finite("features", features)
        check_positive("prior_sd", prior_sd)
        if not ((labels == 0) | (labels == 1)).all():
            raise ValueError("labels must be 0 or 1")
        super().__init__(features.shape[1] + 1, name)
        self.prior_sd = prior_sd
        self.register_buffer("features", _with_intercept(features.double()))
        self.register_buffer("labels", labels.double())

    def log_prob(self, x: Tensor) -> Tensor:
        """Log posterior density of (weights, intercept), up to a constant."""
        logits = x @ self.features.to(x).T
        fit = (self.labels.to(x) * logits - torch.nn.functional.softplus(logits)).sum(1)
        return fit - 0.5 * (x / self.prior_sd).square().sum(1)

    @staticmethod
    def log_predictive(x: Tensor, features: Tensor, labels: Tensor) -> float:
        """Mean log probability of labels (M,) at features (M, p) under the average over posterior draws (n, p + 1)."""
        logits = x.double() @ _with_intercept(features.double()).T
        signed = torch.where(labels.to(logits) > 0.5, logits, -logits)
        each = torch.nn.functional.logsigmoid(signed).logsumexp(0) - math.log(len(x))
        return float(each.mean())


def _with_intercept(features: Tensor) -> Tensor:
    return torch.cat([features, torch.ones_like(features[:, :1])], 1)


class LabelledSplit(NamedTuple):
    """Standardised features and labels, for training and held out."""

    features: Tensor
    labels: Tensor
    held_out_features: Tensor
    held_out_labels: Tensor


def breast_cancer(held_out: float = 0.2, seed: int = 0) -> LabelledSplit:
    """The Wisconsin diagnostic data that scikit-learn ships: 569 tumours, 30 features, benign or not.

    Parameters
    ----------
    held_out : float
        Share kept aside, in [0, 1).
    seed : int
        Of the split.

    Raises
    ------
    ImportError
        Without scikit-learn.
    ValueError
        If `held_out` is out of range.
    """
    if not 0 <= held_out < 1:
        raise ValueError(f"held_out must be at least 0 and below 1, got {held_out}")
    try:
        from sklearn.datasets import load_breast_cancer
    except ImportError as error:
        raise ImportError("this data set comes with scikit-learn: pip install scikit-learn") from error
    x, y = (torch.as_tensor(a).double() for a in load_breast_cancer(return_X_y=True))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    n = round(held_out * len(x))
    aside, kept = order[:n], order[n:]
    x = (x - x[kept].mean(0)) / x[kept].std(0)
    return LabelledSplit(x[kept], y[kept], x[aside], y[aside])
