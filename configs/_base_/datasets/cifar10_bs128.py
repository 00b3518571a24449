# Made by tools/dataset_converters/cifar10.py. Train and val share a folder and no image: 4500 and
# 500 of the 5000 per class. A search ranks on val; test is for the end.
data_root = 'data/cifar10'
data_preprocessor = dict(num_classes=10, mean=[125.307, 122.961, 113.8575], std=[51.5865, 50.847, 51.255], to_rgb=True)

test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]

train_set = dict(
    type='SubsetCustomDataset',
    data_root=f'{data_root}/train',
    subset=4500,
    pipeline=train_pipeline,
)
val_set = dict(
    type='SubsetCustomDataset',
    data_root=f'{data_root}/train',
    subset=(4500, 5000),
    pipeline=test_pipeline,
)
test_set = dict(type='CustomDataset', data_root=f'{data_root}/test', pipeline=test_pipeline)

# Workers start anew each epoch: a resumed run then draws the crops that an uninterrupted one does.
loader = dict(num_workers=2, persistent_workers=False, collate_fn=dict(type='default_collate'))
in_order = dict(type='DefaultSampler', shuffle=False)
shuffled = dict(type='DefaultSampler', shuffle=True)
train_dataloader = dict(batch_size=128, dataset=train_set, sampler=shuffled, **loader)
val_dataloader = dict(batch_size=250, dataset=val_set, sampler=in_order, **loader)
test_dataloader = dict(batch_size=250, dataset=test_set, sampler=in_order, **loader)
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator
