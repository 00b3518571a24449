# resnet18_wd.py with FixNorm.
_base_ = ['resnet18_wd.py']
custom_imports = dict(imports=['mmfixnorm.cls', 'benchmarks.evidence.networks'])
model = dict(head=dict(type='FixNormLinearClsHead', alpha=1.0))
optim_wrapper = dict(
    type='FixNormOptimWrapper',
    constructor='FixNormOptimWrapperConstructor',
    optimizer=dict(weight_decay=0.0),
)
custom_hooks = [
    dict(type='ChannelsLastHook'),
    dict(type='WeightNormHook', interval=50, per_layer=False, fc=False),
    dict(type='CrossBoundaryRiskHook', interval=50),
    dict(type='ClassCheckHook'),
]
search = dict(
    _delete_=True,
    type='FixNormSearch',
    lr_range=(0.2, 3.2),
    metric='accuracy/top1',
    rule='greater',
    alpha_key='model.head.alpha',
)
