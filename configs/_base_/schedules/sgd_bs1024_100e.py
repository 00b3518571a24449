_base_ = ['./sgd_bs1024_120e.py']

param_scheduler = [
    dict(begin=0, end=4, **_base_.warmup),
    dict(begin=4, end=100, T_max=96, **_base_.cosine),
]
train_cfg = dict(max_epochs=100)
