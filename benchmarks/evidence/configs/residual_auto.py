# No alpha: its bound follows the measured cross-boundary risk.
_base_ = ['./residual_fixnorm.py']

model = dict(head=dict(alpha='auto'))
custom_hooks = [*_base_.custom_hooks, dict(type='AutoAlphaHook')]
