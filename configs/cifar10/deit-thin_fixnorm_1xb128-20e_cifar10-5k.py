# FixNorm, as `mmfixnorm convert` makes it of the config with AdamW: no norm layer takes out the scale of any weight, so
# all are weight-normalised. The classifier starts at zero there, which has no direction; here as in LinearClsHead.
_base_ = ['./deit-thin_adamw_1xb128-20e_cifar10-5k.py']

model = dict(
    type='FixNormModel',
    head=dict(init_cfg=[dict(type='Normal', layer='Linear', std=0.01)]),
    fixnorm=dict(
        plain_type='ImageClassifier',
        alpha=1.0,
        swap={
            'head.layers.head': 'FixNormLinear',
            'backbone.patch_embed.projection': 'WNConv2d',
            r'backbone\..*': 'WNLinear',
        },
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
    alpha_key='model.fixnorm.alpha',
)
