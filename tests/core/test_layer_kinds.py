"""Which weights the audit measures and which the norm-fixing set takes, by kind of layer."""

import pytest
from mmcv.ops import DeformConv2dPack, ModulatedDeformConv2dPack
from mmpretrain.models.peft.lora import LoRALinear
from torch import nn
from torch.nn.utils import prune, spectral_norm
from torch.nn.utils import weight_norm as former_weight_norm
from torch.nn.utils.parametrizations import weight_norm
from torchvision.ops import DeformConv2d

from mmfixnorm.core import FixNormLinear, WNConv2d, norm_fixing_parameters
from mmfixnorm.core.audit.probe import audited_weights
from mmfixnorm.core.layer_kinds import (
    describe_unfixed_weights,
    is_norm_layer,
    is_weight_layer,
    stored_statistics_layers,
    unfixed_weights,
)

pytestmark = pytest.mark.filterwarnings('ignore:.*weight_norm.* is deprecated')


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
    (former_weight_norm(nn.Conv2d(2, 4, 3)), 'weight_v', AUDIT_ONLY),
    (spectral_norm(nn.Conv2d(2, 4, 3)), 'weight_orig', AUDIT_ONLY),
    (prune.random_unstructured(nn.Linear(2, 4), 'weight', 0.5), 'weight_orig', AUDIT_ONLY),
    (DeformConv2dPack(2, 4, 3), 'weight', BOTH),
    (DeformConv2dPack(2, 4, 3), 'conv_offset.weight', BOTH),
    (ModulatedDeformConv2dPack(2, 4, 3), 'weight', BOTH),
    (DeformConv2d(2, 4, 3), 'weight', BOTH),
    (LoRALinear(nn.Linear(2, 4), rank=1), 'original_layer.weight', BOTH),
    (LoRALinear(nn.Linear(2, 4), rank=1), 'lora_down.weight', AUDIT_ONLY),
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
    assert (f'0.{name}' in unfixed_weights(model)) is (takers == AUDIT_ONLY)


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


def test_weights_that_norm_fixing_leaves_alone_are_named_by_kind():
    model = nn.Sequential(
        LoRALinear(nn.Linear(2, 4), rank=1),
        former_weight_norm(nn.Conv1d(2, 4, 3)),
        weight_norm(nn.Linear(2, 4)),
        nn.MultiheadAttention(4, 2).requires_grad_(False),
    )
    text = describe_unfixed_weights(model, shown=3)
    assert 'LoRA adapters: 0.lora_down.weight, 0.lora_up.weight;' in text
    listed = '1.weight_g, 1.weight_v, 2.parametrizations.weight.original0 and 1 more'
    assert f'(weight_norm, spectral_norm, pruning, parametrize): {listed}.' in text
    assert 'MultiheadAttention' not in text  # frozen
    assert describe_unfixed_weights(nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4))) == ''


def test_a_pattern_may_still_name_what_the_set_leaves_out():
    model = nn.Sequential(LoRALinear(nn.Linear(2, 4), rank=1), nn.Linear(4, 2))
    assert [*norm_fixing_parameters(model, exclude=['lora_', 'original'])] == ['1.weight']


def test_a_frozen_norm_belongs_to_the_deformable_convolution_not_its_offsets():
    model = nn.Sequential(DeformConv2dPack(2, 4, 3), nn.BatchNorm2d(4))
    model.train = lambda mode=True: model
    model.eval()
    model[1].eval()
    assert stored_statistics_layers(model) == {'0': '1'}
