custom_imports = dict(
    imports=[
        'toy_toolbox',
    ]
)
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=2, type='CheckpointHook'))
default_scope = 'mmengine'
launcher = 'none'
loader = dict(batch_size=32, num_workers=0)
model = dict(head=dict(alpha=1.0, type='ToyHead'), type='ToyClassifier')
optim_wrapper = dict(optimizer=dict(lr=0.425, momentum=0.9, type='SGD'))
param_scheduler = [
    dict(begin=0, end=1, start_factor=0.1, type='LinearLR'),
    dict(T_max=3, begin=1, end=4, type='CosineAnnealingLR'),
]
randomness = dict(seed=0)
resume = False
train_cfg = dict(by_epoch=True, max_epochs=4, val_interval=1)
train_dataloader = dict(
    batch_size=32,
    dataset=dict(num=256, type='ToyPoints'),
    num_workers=0,
    sampler=dict(shuffle=True, type='DefaultSampler'),
)
val_cfg = dict()
val_dataloader = dict(
    batch_size=32,
    dataset=dict(num=256, seed=1, type='ToyPoints'),
    num_workers=0,
    sampler=dict(shuffle=False, type='DefaultSampler'),
)
val_evaluator = dict(type='ToyAccuracy')
work_dir = '/tmp/project/work_dir/trials/r1-k1/run'
