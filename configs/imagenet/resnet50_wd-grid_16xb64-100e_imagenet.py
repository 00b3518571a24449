# Fig. 1 right: the learning rate of weight decay is searched as widely as that of Algorithm 1.
_base_ = ['./resnet50_wd_16xb64-100e_imagenet.py', '../_base_/search/grid.py']
