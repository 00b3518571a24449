# The bound by projection after each step, in place of min(g, bound) in the forward pass alone.
_base_ = ['./residual_fixnorm.py']

custom_hooks = [*_base_.custom_hooks, dict(type='ProjectedScaleHook')]
