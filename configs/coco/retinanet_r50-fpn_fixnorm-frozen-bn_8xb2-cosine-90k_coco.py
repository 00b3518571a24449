# FixNorm for FPN and head alone: the backbone keeps its BN on stored statistics.
_base_ = ['./retinanet_r50-fpn_wd_8xb2-cosine-90k_coco.py', '../_base_/search/fixnorm_coco.py']

model = dict(bbox_head=dict(type='FixNormRetinaHead', alpha=0.5))
optim_wrapper = dict(
    type='FixNormOptimWrapper',
    constructor='FixNormOptimWrapperConstructor',
    # Such a BN is an affine map: the backbone's convolutions are not scale-invariant and stay out of the set. Only
    # they get the weight decay, which the constructor applies to weights that are left out.
    optimizer=dict(lr=0.0145, weight_decay=1e-4),
    paramwise_cfg=dict(exclude=[r'^backbone\.']),
)
