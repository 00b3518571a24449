_base_ = ['./sgd_cosine-1200i.py']

param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=13),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=13, end=250, T_max=237),
]
train_cfg = dict(max_iters=250, val_interval=125)
