_base_ = ['./sgd_bs8_poly-40k.py']

param_scheduler = [dict(type='CosineAnnealingLR', by_epoch=False, begin=0, end=40000, T_max=40000)]
