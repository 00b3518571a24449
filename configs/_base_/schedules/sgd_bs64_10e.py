_base_ = ['./sgd_bs64_20e.py']

param_scheduler = [
    dict(begin=0, end=0.5, **_base_.warmup),
    dict(begin=0.5, end=10, T_max=9.5, **_base_.cosine),
]
train_cfg = dict(max_epochs=10, val_interval=2)
