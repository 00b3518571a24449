# FixNorm with the backbone's BN on stored statistics: its trained convolutions are in the set with their scale held.
_base_ = ['./retinanet_r50-fpn_wd_8xb2-cosine-90k_coco.py', '../_base_/search/fixnorm_coco.py']

model = dict(
    type='FixNormModel',
    # Such a BN is an affine map. Weight-normalised, the convolution before it computes the same and is scale-invariant;
    # BN's own weight trains the scale. The stem and the first stage are frozen whole and not in the set.
    fixnorm=dict(plain_type='RetinaNet', swap={r'backbone\.layer[234]\..*': dict(type='WNConv2d', train_scale=False)}),
    bbox_head=dict(type='FixNormRetinaHead', alpha=0.5),
)
optim_wrapper = dict(
    type='FixNormOptimWrapper',
    constructor='FixNormOptimWrapperConstructor',
    optimizer=dict(lr=0.0145, weight_decay=0.0),
)
