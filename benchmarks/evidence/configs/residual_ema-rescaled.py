_base_ = ['./residual_fixnorm.py']

custom_hooks = [*_base_.custom_hooks, dict(type='FixNormEMAHook', ema_type='ExponentialMovingAverage', momentum=0.02)]
