_base_ = ['./sgd_cosine-1200i.py']

param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=20),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=20, end=400, T_max=380),
]
train_cfg = dict(max_iters=400, val_interval=200)
