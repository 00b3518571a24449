# FixNorm: all convolutions share one fixed norm; g of both classifiers is bounded by alpha * sqrt(19).
_base_ = ['./base-oc_r101-d8_wd_4xb2-cosine-40k_cityscapes-769x769.py', '../_base_/search/fixnorm_cityscapes.py']

model = dict(
    decode_head=dict(type='FixNormBaseOCHead', alpha=1.0),
    auxiliary_head=dict(type='FixNormFCNHead', alpha=1.0),
)
optim_wrapper = dict(
    type='FixNormOptimWrapper',
    constructor='FixNormOptimWrapperConstructor',
    optimizer=dict(lr=0.043, weight_decay=0.0),
)
