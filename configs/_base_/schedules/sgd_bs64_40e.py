_base_ = ['./sgd_bs64_20e.py']

param_scheduler = [
    dict(begin=0, end=2, **_base_.warmup),
    dict(begin=2, end=40, T_max=38, **_base_.cosine),
]
train_cfg = dict(max_epochs=40, val_interval=2)
