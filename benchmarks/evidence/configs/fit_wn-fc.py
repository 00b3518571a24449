_base_ = ['./fit_fixnorm.py']

model = dict(
    head=dict(_delete_=True, type='WNLinearClsHead', num_classes=10, in_channels=96, loss=_base_.model.head.loss)
)
