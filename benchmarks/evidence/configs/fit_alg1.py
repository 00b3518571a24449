# Algorithm 1: lambda_fc is set to the weight decay that was found for weight decay.
_base_ = ['./fit_wd.py']

optim_wrapper = dict(
    type='FixNormOptimWrapper',
    constructor='FixNormOptimWrapperConstructor',
    optimizer=dict(weight_decay=0.0),
    paramwise_cfg=dict(lambda_fc=1e-4),
)
