# FixNorm: all trained convolutions share one fixed norm; g of the class scores is bounded by alpha * sqrt(9 * 80).
_base_ = ['./retinanet_r50-fpn_wd_8xb2-cosine-90k_coco.py', '../_base_/search/fixnorm_coco.py']

model = dict(
    # BN on stored statistics is an affine map, and the convolution before it not scale-invariant: BN is trained,
    # but for the stem and the first stage. These are frozen whole and their convolutions not in the set.
    backbone=dict(norm_cfg=dict(type='SyncBN'), norm_eval=False),
    bbox_head=dict(type='FixNormRetinaHead', alpha=0.5),
)
optim_wrapper = dict(
    type='FixNormOptimWrapper',
    constructor='FixNormOptimWrapperConstructor',
    optimizer=dict(lr=0.0145, weight_decay=0.0),
)
