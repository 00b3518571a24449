# FixNorm, as `mmfixnorm convert` makes it of the config with AdamW: ConvNeXt has fewer norm layers than weights, so all
# weights are weight-normalised; g of the classifier is bounded by alpha * sqrt(10).
_base_ = ['./convnext-thin_adamw_1xb128-20e_cifar10-5k.py']

model = dict(
    type='FixNormModel',
    head=dict(type='FixNormLinearClsHead', alpha=1.0),
    fixnorm=dict(
        plain_type='ImageClassifier',
        swap={r'backbone\..*': 'WNConv2d', r'backbone\.stages\..*': 'WNLinear'},
    ),
)
optim_wrapper = dict(
    type='FixNormOptimWrapper',
    constructor='FixNormOptimWrapperConstructor',
    optimizer=dict(weight_decay=0.0),
    paramwise_cfg=dict(_delete_=True),
)
search = dict(
    _delete_=True,
    type='FixNormSearch',
    lr_range=(2.5e-4, 0.016),
    metric='accuracy/top1',
    rule='greater',
)
