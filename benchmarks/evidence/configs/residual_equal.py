# All weights have the same norm.
_base_ = ['./residual_per-layer.py']

optim_wrapper = dict(targets='equal')
