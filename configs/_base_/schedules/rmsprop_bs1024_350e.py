# EfficientNet's own: RMSProp, lr 0.016 per 256 images after 5 epochs of warm-up, times 0.97 each 2.4 epochs (in its
# code in steps of that length, here in steps of an epoch), averaged weights.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='RMSprop', lr=0.064, alpha=0.9, momentum=0.9, eps=1e-3, weight_decay=1e-5),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type='ExponentialLR', gamma=0.97 ** (1 / 2.4), by_epoch=True, begin=5, end=350),
]
train_cfg = dict(by_epoch=True, max_epochs=350, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=1024, enable=False)
