_base_ = ['./sgd_cosine-1200i.py']

param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=1000, T_max=950),
]
train_cfg = dict(max_iters=1000, val_interval=250)
