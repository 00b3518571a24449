_base_ = ['./sgd_bs16_step-90k.py']

param_scheduler = [
    dict(type='LinearLR', start_factor=1 / 3, by_epoch=False, begin=0, end=500),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=500, end=90000, T_max=89500),
]
