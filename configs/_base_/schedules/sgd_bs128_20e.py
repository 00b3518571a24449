_base_ = ['./sgd_bs64_20e.py']

auto_scale_lr = dict(base_batch_size=128)
