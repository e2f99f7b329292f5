"""Small residual networks whose answer starts at zero."""

from torch import Tensor, nn


class Centred(nn.Module):
    """Layers with the last one set to zero."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        for p in layers[-1].parameters():
            nn.init.zeros_(p)

    def forward(self, x: Tensor) -> Tensor:
        """Answer of the shape of `x`."""
        return self.layers(x)


def residual_network(event_shape: tuple[int, ...], width: int) -> nn.Module:
    """Multilayer perceptron for vectors (d,), dilated convolutions for images (C, H, W)."""
    if len(event_shape) == 1:
        d = event_shape[0]
        return Centred(nn.Linear(d, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, d))
    if len(event_shape) != 3:
        raise ValueError(f"a generator makes vectors (d,) or images (C, H, W), not {event_shape}")
    c = event_shape[0]
    layers: list[nn.Module] = []
    for index, dilation in enumerate((1, 2, 4, 2)):
        conv = nn.Conv2d(c if index == 0 else width, width, 3, padding=dilation, dilation=dilation)
        layers += [conv, nn.SiLU()]
    return Centred(*layers, nn.Conv2d(width, c, 3, padding=1))
