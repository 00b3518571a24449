_base_ = ['./sgd_cosine-1200i.py']

param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=30, end=600, T_max=570),
]
train_cfg = dict(max_iters=600, val_interval=200)
