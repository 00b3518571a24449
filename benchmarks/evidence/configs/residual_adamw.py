_base_ = ['./residual_wd.py']

optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=2e-3, weight_decay=5e-2))
