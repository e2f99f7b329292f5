"""Which components of a mixture are one mode."""

import torch
from torch import Tensor

from sciinstruct.inference.families.mixture import GaussianMixtureFamily


def merge_components(family: GaussianMixtureFamily) -> Tensor:
    r"""Label each component with its mode, (K,) int64, modes numbered by falling weight.

    Two components belong to one mode if the mixture's density has no valley of a nat or more half-way between their
    means, or if the means differ by less than half of what two draws of a component do, :math:`4 |\mu_i - \mu_j|^2 < tr
    C_i + tr C_j`, directly or through others.
    """
    means, k = family.means.detach(), family.n_components
    spread = family.variances().sum(1)
    near = 4 * torch.cdist(means, means).square() < spread[:, None] + spread
    middle = log_density(family, 0.5 * (means[:, None] + means).reshape(k * k, -1)).reshape(k, k)
    ends = log_density(family, means)
    near |= middle > torch.minimum(ends[:, None], ends) - 1
    for _ in range(k):  # transitive closure
        near = (near.to(means) @ near.to(means)) > 0
    first = near.to(torch.int64).argmax(1)  # lowest index of the group
    weight = torch.zeros_like(family.weights).index_add_(0, first, family.weights)
    order = weight.argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(k, device=order.device)
    return rank[first]


def log_density(family: GaussianMixtureFamily, x: Tensor) -> Tensor:
    """Log-density up to a constant, (n,), of flattened images (n, D) under equally weighted components."""
    with torch.no_grad():
        tiny = 1e-6 * family.scale.mean().reshape(1)
        _, each = family.component_eps(x.reshape(1, len(x), *family.event_shape), tiny)
    return each[0].logsumexp(0)


def pool(values: Tensor, labels: Tensor) -> Tensor:
    """Sum `values` (K,) over components with the same label; one entry per mode."""
    total = torch.zeros(int(labels.max()) + 1, dtype=values.dtype, device=values.device)
    return total.index_add_(0, labels, values)


def cluster_images(images: Tensor, least_correlation: float = 0.6, *, shifted: bool = False) -> Tensor:
    """Label images (n, *event) by likeness, (n,) int64, clusters numbered by falling size.

    Average-linkage clusters of the Pearson correlation between images, cut at `least_correlation`; with `shifted`, of
    the highest correlation over all (periodic) shifts of one against the other.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    if len(images) == 1:
        return torch.zeros(1, dtype=torch.int64)
    alike = _shifted_correlation(images) if shifted else torch.corrcoef(images.flatten(1).double().cpu())
    distance = (1 - alike).clamp(min=0).fill_diagonal_(0).numpy()
    tree = linkage(squareform(distance, checks=False), method="average")
    labels = torch.from_numpy(fcluster(tree, 1 - least_correlation, criterion="distance")).long() - 1
    order = torch.bincount(labels).argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    return rank[labels]


def _shifted_correlation(images: Tensor) -> Tensor:
    """Highest Pearson correlation over periodic shifts of the last two axes, (n, n), float64 on the CPU."""
    flat = images.double().cpu().flatten(1)
    flat = flat - flat.mean(1, keepdim=True)
    flat = flat / flat.norm(dim=1, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny)
    spectra = torch.fft.rfft2(flat.reshape(images.shape))
    size = images.shape[-2:]
    rows = [torch.fft.irfft2(one.conj() * spectra, s=size).flatten(2).sum(1).amax(1) for one in spectra]
    highest = torch.stack(rows)
    return torch.maximum(highest, highest.T)
