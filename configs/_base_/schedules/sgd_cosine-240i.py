_base_ = ['./sgd_cosine-1200i.py']

param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=12),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=12, end=240, T_max=228),
]
train_cfg = dict(max_iters=240, val_interval=120)
