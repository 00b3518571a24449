_base_ = ['./resnet8_wd_1xb64-10e_cifar10-2k.py', '../_base_/search/grid.py']

# For Fig. 1 and 5. A factor of two from one to the next.
optim_wrapper = dict(optimizer=dict(lr=0.8))
search = dict(lr_range=None, lrs=(0.2, 0.4, 0.8, 1.6, 3.2))
