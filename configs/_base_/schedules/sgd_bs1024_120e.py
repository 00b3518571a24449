_base_ = ['./sgd_bs64_20e.py']

# He et al. 2019: Nesterov momentum, 4 epochs of linear warm-up, one cosine cycle to zero.
warmup = dict(type='LinearLR', start_factor=0.01, by_epoch=True, convert_to_iter_based=True)
cosine = dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True)
optim_wrapper = dict(optimizer=dict(lr=0.4, weight_decay=1e-4))
param_scheduler = [
    dict(begin=0, end=4, **warmup),
    dict(begin=4, end=120, T_max=116, **cosine),
]
train_cfg = dict(max_epochs=120, val_interval=1)
auto_scale_lr = dict(base_batch_size=1024)
