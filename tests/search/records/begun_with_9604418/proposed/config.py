"""The config of a search that was begun with commit 9604418: points proposed from results, trials by a formula."""

train_cfg = dict(by_epoch=True, max_epochs=10, val_interval=1)
train_dataloader = dict(dataset=dict(type='Any'))
val_dataloader = dict(dataset=dict(type='Any'))
val_cfg = dict()
val_evaluator = dict(type='Accuracy')
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, weight_decay=1e-4))
model = dict(head=dict(type='Head', alpha=1.0))
search = dict(
    type='BayesianSearch',
    backoff_s=0,
    weight_decay_range=(1e-5, 1e-2),
    num_trials=6,
    num_startup_trials=2,
    sampler='tpe',
)
