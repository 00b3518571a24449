# The baseline's learning rate, tuned as well.
_base_ = ['./resnet8_wd_1xb64-20e_digits.py', '../_base_/search/grid.py']

search = dict(lr_range=(0.05, 0.8))
