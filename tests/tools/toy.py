"""One epoch of the toy task under norm fixing: four steps of eight images."""

custom_imports = dict(imports=['mmfixnorm', 'toy_task'])
model = dict(type='ToyNet')
optim_wrapper = dict(
    type='FixNormOptimWrapper',
    constructor='FixNormOptimWrapperConstructor',
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9),
)
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    dataset=dict(type='Blobs'),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    dataset=dict(type='Blobs', num=16),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='HitRate')
test_evaluator = val_evaluator
train_cfg = dict(by_epoch=True, max_epochs=1, val_interval=1)
val_cfg = dict()
test_cfg = dict()
custom_hooks = [dict(type='SaveEachRank')]
randomness = dict(seed=0)
