_base_ = ['./residual_wd.py']

model = dict(head=dict(type='FixNormLinearClsHead', alpha=1.0))
optim_wrapper = dict(
    type='FixNormOptimWrapper',
    constructor='FixNormOptimWrapperConstructor',
    optimizer=dict(weight_decay=0.0),
)
