# Weight decay as in the baseline, with gradients clipped at a joint norm of 1.
_base_ = ['./resnet20_wd_1xb128-20e_cifar10-5k.py', '../_base_/search/grid.py']

optim_wrapper = dict(optimizer=dict(lr=0.8), clip_grad=dict(max_norm=1.0))
search = dict(lr_range=(0.1, 6.4))
