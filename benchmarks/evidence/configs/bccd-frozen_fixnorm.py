_base_ = ['./bccd-frozen_wd.py']

model = dict(
    type='FixNormModel',
    fixnorm=dict(plain_type='RetinaNet', swap={r'backbone\.layer[234]\..*': dict(type='WNConv2d', train_scale=False)}),
    bbox_head=dict(type='FixNormRetinaHead', alpha=1.0),
)
optim_wrapper = dict(
    type='FixNormOptimWrapper',
    constructor='FixNormOptimWrapperConstructor',
    optimizer=dict(weight_decay=0.0),
)
search = dict(alpha_key='model.bbox_head.alpha')
