# BO + WD of Table 1: what its search found, and the search.
_base_ = ['./resnet50-d_wd_16xb64-120e_imagenet.py', '../_base_/search/bayesian_wd.py']

optim_wrapper = dict(optimizer=dict(lr=0.53, weight_decay=8.6e-5))
search = dict(num_trials=25)
