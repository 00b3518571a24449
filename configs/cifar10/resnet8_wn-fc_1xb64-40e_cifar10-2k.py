# @WN-FC: convolutions and a weight-normalised classifier share one fixed norm; g has no bound.
_base_ = ['./resnet8_wd_1xb64-40e_cifar10-2k.py', '../_base_/search/grid.py']

model = dict(head=dict(type='WNLinearClsHead'))
optim_wrapper = dict(
    type='FixNormOptimWrapper',
    constructor='FixNormOptimWrapperConstructor',
    optimizer=dict(lr=0.8, weight_decay=0.0),
)
