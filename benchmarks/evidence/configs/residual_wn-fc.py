_base_ = ['./residual_fixnorm.py']

model = dict(
    head=dict(_delete_=True, type='WNLinearClsHead', num_classes=10, in_channels=64, loss=_base_.model.head.loss)
)
