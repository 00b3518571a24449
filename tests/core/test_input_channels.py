"""Input channels against those that a model was built with."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from mmfixnorm.core.input_channels import input_channels


class Focus(nn.Module):
    """Space to depth, as the stem of YOLOX: the convolution sees 4 channels for each of the image."""

    def __init__(self, channels):
        super().__init__()
        self.late = nn.Conv2d(8, 8, 1)  # registered first, reached last
        self.conv = nn.Conv2d(4 * channels, 8, 3)

    def forward(self, images):
        return self.late(self.conv(functional.pixel_unshuffle(images, 2)))


class Shifted(nn.Module):
    """Batch statistics and a random draw come after the first layer, so a forward that ends there leaves no trace."""

    def __init__(self, channels):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.Dropout())

    def forward(self, images):
        return self.stem(images)


STEMS = {
    'convolution': lambda c: nn.Sequential(nn.Conv2d(c, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3)),
    'two groups': lambda c: nn.Conv2d(c, 2 * c, 3, groups=c),
    'pixels in a row': lambda c: nn.Sequential(nn.Flatten(), nn.Linear(c * 16 * 12, 5)),
    'space to depth': Focus,
    'with batch statistics': Shifted,
}


@pytest.mark.parametrize('channels', [1, 2, 3, 4, 13])
@pytest.mark.parametrize('stem', STEMS.values(), ids=STEMS)
def test_the_channels_are_those_that_the_stem_was_built_with(stem, channels):
    model = stem(channels)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    assert input_channels(model, (16, 12)) == channels
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model(torch.zeros(2, channels, 16, 12))  # and no hook is left


def test_a_model_without_a_layer_counts_as_one_for_three_channels():
    assert input_channels(nn.AvgPool2d(2), (8, 8)) == 3
