# FixNorm without a number for alpha: g grows freely in the first fifth, then only as fast as the risk falls.
_base_ = ['./resnet20_wn-fc_1xb128-20e_cifar10-5k.py']

model = dict(head=dict(type='FixNormLinearClsHead', alpha='auto'))
custom_hooks = [*_base_.custom_hooks, dict(type='AutoAlphaHook')]
