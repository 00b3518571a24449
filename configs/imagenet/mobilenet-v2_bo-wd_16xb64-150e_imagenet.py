# BO + WD of Table 1: what its search found, and the search.
_base_ = ['./mobilenet-v2_wd_16xb64-150e_imagenet.py', '../_base_/search/bayesian_wd.py']

optim_wrapper = dict(optimizer=dict(lr=0.64, weight_decay=2.2e-5))
search = dict(num_trials=35)
