"""The config of a search that was begun with commit 9604418: real trainings of a second, interrupted in the middle."""

custom_imports = dict(imports=['toy_toolbox'])
default_scope = 'mmengine'
model = dict(type='ToyClassifier', head=dict(type='ToyHead', alpha=1.0))
loader = dict(batch_size=32, num_workers=0)
train_dataloader = dict(
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='ToyPoints', num=256),
    **loader,
)
val_dataloader = dict(
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='ToyPoints', num=256, seed=1),
    **loader,
)
val_cfg = dict()
val_evaluator = dict(type='ToyAccuracy')
train_cfg = dict(by_epoch=True, max_epochs=4, val_interval=1)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=1),
    dict(type='CosineAnnealingLR', T_max=3, begin=1, end=4),
]
default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1))
search = dict(
    backoff_s=0, lr_range=(0.05, 0.8), num_splits=2, schedule_fractions=(0.5, 1.0), alphas=[1.0, 2.0], confirm_seeds=1
)
