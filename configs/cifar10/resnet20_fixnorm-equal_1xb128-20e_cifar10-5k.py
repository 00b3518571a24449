# FixNorm with the same fixed norm for each weight: equal effective learning rates.
_base_ = ['./resnet20_fixnorm-per-layer_1xb128-20e_cifar10-5k.py']

optim_wrapper = dict(targets='equal')
