launcher = 'none'
model = dict(head=dict(alpha=1.0, type='Head'))
optim_wrapper = dict(optimizer=dict(lr=1.169521719, type='SGD', weight_decay=6.447036683e-05))
randomness = dict(seed=0)
resume = False
train_cfg = dict(by_epoch=True, max_epochs=10, val_interval=1)
train_dataloader = dict(dataset=dict(type='Any'))
val_cfg = dict()
val_dataloader = dict(dataset=dict(type='Any'))
val_evaluator = dict(type='Accuracy')
work_dir = '/tmp/rec/bayes/work_dir/trials/bo-00/run'
