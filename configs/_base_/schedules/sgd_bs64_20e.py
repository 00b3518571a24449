optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)

# Linear warm-up, then one cosine cycle: 1 epoch of 20, near the 4 of 120 on ImageNet.
warmup = dict(type='LinearLR', start_factor=0.01, by_epoch=True, convert_to_iter_based=True)
cosine = dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True)
param_scheduler = [
    dict(begin=0, end=1, **warmup),
    dict(begin=1, end=20, T_max=19, **cosine),
]

train_cfg = dict(by_epoch=True, max_epochs=20, val_interval=4)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=64, enable=False)
