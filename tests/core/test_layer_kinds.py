"""Which weights the audit measures and which the norm-fixing set takes, by kind of layer."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from mmfixnorm.core import FixNormLinear, WNConv2d, norm_fixing_parameters
from mmfixnorm.core.audit.probe import audited_weights
from mmfixnorm.core.layer_kinds import is_norm_layer, is_weight_layer


class Deformable(nn.Module):
    """Has what mmcv's deformable convolutions have: a weight and a kernel size, and nn.Module as its base."""

    def __init__(self):
        super().__init__()
        self.kernel_size = (3, 3)
        self.weight = nn.Parameter(torch.randn(4, 2, 3, 3))


BOTH, AUDIT_ONLY, NEITHER = ('audit', 'set'), ('audit',), ()
# layer, its parameter -> who takes it
TABLE = [
    (nn.Conv1d(2, 4, 3), 'weight', BOTH),
    (nn.Conv2d(2, 4, 3, groups=2), 'weight', BOTH),
    (nn.Conv3d(2, 4, 3), 'weight', BOTH),
    (nn.ConvTranspose2d(2, 4, 3), 'weight', BOTH),
    (WNConv2d(2, 4, 3), 'weight', BOTH),
    (nn.Linear(2, 4), 'weight', BOTH),
    (FixNormLinear(2, 4, alpha=1.0), 'weight', BOTH),
    (nn.MultiheadAttention(4, 2), 'out_proj.weight', BOTH),
    (nn.MultiheadAttention(4, 2), 'in_proj_weight', AUDIT_ONLY),
    (nn.MultiheadAttention(4, 2, kdim=3), 'k_proj_weight', AUDIT_ONLY),
    (weight_norm(nn.Conv2d(2, 4, 3)), 'parametrizations.weight.original1', AUDIT_ONLY),
    (weight_norm(nn.Linear(2, 4)), 'parametrizations.weight.original1', AUDIT_ONLY),
    (Deformable(), 'weight', AUDIT_ONLY),
    (nn.Linear(2, 4), 'bias', NEITHER),
    (nn.Embedding(2, 4), 'weight', NEITHER),
    (nn.Bilinear(2, 2, 4), 'weight', NEITHER),
    (nn.BatchNorm2d(4), 'weight', NEITHER),
    (nn.LayerNorm((4, 4)), 'weight', NEITHER),
    (WNConv2d(2, 4, 3), 'g', NEITHER),
]


@pytest.mark.parametrize('layer, name, takers', TABLE, ids=str)
def test_the_table_says_who_takes_a_weight(layer, name, takers):
    model = nn.Sequential(layer)
    assert f'0.{name}' in dict(model.named_parameters())
    assert (f'0.{name}' in audited_weights(model)) is ('audit' in takers)
    assert (f'0.{name}' in norm_fixing_parameters(model)) is ('set' in takers)


@pytest.mark.parametrize('layer', [nn.Linear(2, 4), FixNormLinear(2, 4, alpha=1.0)])
def test_the_set_of_algorithm_1_leaves_linear_layers_out(layer):
    model = nn.Sequential(nn.Conv2d(2, 4, 3), layer)
    assert [*norm_fixing_parameters(model, fc=False)] == ['0.weight']
    assert [*audited_weights(model)] == ['0.weight', '1.weight']


@pytest.mark.parametrize(
    'layer', [nn.BatchNorm2d(4), nn.SyncBatchNorm(4), nn.InstanceNorm2d(4), nn.GroupNorm(2, 4), nn.LayerNorm(4)]
)
def test_a_norm_layer_is_no_weight_layer(layer):
    assert is_norm_layer(layer)
    assert not is_weight_layer(layer)
