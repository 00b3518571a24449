"""Enough of a config for a search whose trainings are not run, or are fake."""

train_cfg = dict(by_epoch=True, max_epochs=10, val_interval=1)
train_dataloader = dict(dataset=dict(type='Any'))
val_dataloader = dict(dataset=dict(type='Any'))
val_cfg = dict()
val_evaluator = dict(type='Accuracy')
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
model = dict(head=dict(type='Head', alpha=1.0))
search = dict(lr_range=(0.2, 3.2))
