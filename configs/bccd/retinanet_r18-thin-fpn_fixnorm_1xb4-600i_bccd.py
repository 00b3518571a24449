# FixNorm: all convolutions share one fixed norm; g of the class scores is bounded by alpha * sqrt(2 * 3).
_base_ = ['./retinanet_r18-thin-fpn_wd_1xb4-600i_bccd.py', '../_base_/search/fixnorm_coco.py']

model = dict(bbox_head=dict(type='FixNormRetinaHead', alpha=1.0))
optim_wrapper = dict(
    type='FixNormOptimWrapper',
    constructor='FixNormOptimWrapperConstructor',
    optimizer=dict(lr=0.03, weight_decay=0.0),
)
search = dict(lr_range=(0.01, 0.1))
