import pytest
from torch import nn

from mmfixnorm.core import WNConv2d
from mmfixnorm.core.layer_kinds import stored_statistics_layers


class Stem(nn.Sequential):
    """A block that keeps its normalisations in evaluation mode, as ``norm_eval=True`` does."""

    def __init__(self, *layers, frozen=()):
        super().__init__(*layers)
        self.frozen = frozen

    def train(self, mode=True):
        super().train(mode)
        for i in self.frozen:
            self[i].eval()
        return self


def net(frozen, norm=nn.BatchNorm2d):
    return Stem(nn.Conv2d(3, 4, 3), norm(4), nn.ReLU(), nn.Conv2d(4, 6, 3), norm(6), nn.Conv2d(6, 2, 1), frozen=frozen)


@pytest.mark.parametrize(('frozen', 'expected'), [((), {}), ((1,), {'0': '1'}), ((1, 4), {'0': '1', '3': '4'})])
def test_layers_in_front_of_a_frozen_batch_norm_are_found(frozen, expected):
    assert stored_statistics_layers(net(frozen)) == expected


def test_the_mode_that_training_sets_counts_not_the_present_one():
    model = net(()).eval()
    assert stored_statistics_layers(model) == {}
    assert not any(module.training for module in model.modules())


def test_modes_are_put_back_one_by_one():
    model = net((1,))
    model[4].eval()
    before = [module.training for module in model.modules()]
    stored_statistics_layers(model)
    assert [module.training for module in model.modules()] == before


def test_a_norm_without_stored_statistics_is_fine_in_any_mode():
    assert stored_statistics_layers(net((1, 4), norm=lambda n: nn.BatchNorm2d(n, track_running_stats=False))) == {}


def test_a_norm_of_other_width_is_not_taken_for_the_layers_own():
    model = Stem(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 1), nn.Upsample(scale_factor=2), nn.BatchNorm2d(4), frozen=(3,))
    assert stored_statistics_layers(model) == {}


def test_linear_layers_count_too():
    assert stored_statistics_layers(Stem(nn.Linear(3, 4), nn.BatchNorm1d(4), frozen=(1,))) == {'0': '1'}


def test_a_weight_normalised_layer_is_scale_invariant_in_front_of_any_norm():
    model = net((1, 4))
    model[0] = WNConv2d.from_plain(model[0], train_scale=False)
    assert stored_statistics_layers(model) == {'3': '4'}
