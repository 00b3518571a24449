# FixNorm: all convolutions share one fixed norm; g of both classifiers is bounded by alpha * sqrt(11).
_base_ = ['./base-oc_r18-thin-d8_wd_1xb8-240i_camvid.py', '../_base_/search/fixnorm_cityscapes.py']

model = dict(
    decode_head=dict(type='FixNormBaseOCHead', alpha=1.0),
    auxiliary_head=dict(type='FixNormFCNHead', alpha=1.0),
)
optim_wrapper = dict(
    type='FixNormOptimWrapper',
    constructor='FixNormOptimWrapperConstructor',
    optimizer=dict(lr=0.1, weight_decay=0.0),
)
search = dict(lr_range=(0.02, 0.4))
