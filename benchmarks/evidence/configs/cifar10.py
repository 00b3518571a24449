# 500 images of each class to train on, 300 others to rank on; test is for what has been chosen.
_base_ = [
    '../../../configs/_base_/datasets/cifar10_in-memory_bs128.py',
    '../../../configs/_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmfixnorm.cls', 'benchmarks.evidence.networks'])

train_dataloader = dict(batch_size=100, dataset=dict(dataset=dict(subset=500)))
val_dataloader = dict(dataset=dict(dataset=dict(subset=(4500, 4800))))

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.4, momentum=0.9, nesterov=True, weight_decay=1e-4),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
# Linear warm-up of one epoch, then one cosine cycle.
warmup = dict(type='LinearLR', start_factor=0.01, by_epoch=True, convert_to_iter_based=True)
cosine = dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True)
param_scheduler = [
    dict(begin=0, end=1, **warmup),
    dict(begin=1, end=15, T_max=14, **cosine),
]
train_cfg = dict(by_epoch=True, max_epochs=15, val_interval=5)
val_cfg = dict()
test_cfg = dict()

default_hooks = dict(checkpoint=dict(interval=15))
custom_hooks = [
    dict(type='ChannelsLastHook'),
    dict(type='WeightNormHook', interval=50, per_layer=False, fc=False),
    dict(type='CrossBoundaryRiskHook', interval=50),
]
search = dict(type='GridSearch', lrs=(0.4,), metric='accuracy/top1', rule='greater')
