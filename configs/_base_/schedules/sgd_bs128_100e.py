_base_ = ['./sgd_bs64_20e.py']

# Linear warm-up, then one cosine cycle: 4 epochs of 100, near the 4 of 120 on ImageNet.
warmup = dict(type='LinearLR', start_factor=0.01, by_epoch=True, convert_to_iter_based=True)
cosine = dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True)
param_scheduler = [
    dict(begin=0, end=4, **warmup),
    dict(begin=4, end=100, T_max=96, **cosine),
]
train_cfg = dict(max_epochs=100, val_interval=5)
auto_scale_lr = dict(base_batch_size=128)
