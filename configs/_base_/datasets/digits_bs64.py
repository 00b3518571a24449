# Made by tools/dataset_converters/digits.py. A search ranks on val; test is for the end.
data_root = 'data/digits'
data_preprocessor = dict(num_classes=10, mean=[73.3] * 3, std=[90.2] * 3, to_rgb=True)

test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
train_pipeline = [  # no flip: a mirrored 2 is no digit
    dict(type='LoadImageFromFile'),
    dict(type='RandomCrop', crop_size=8, padding=1),
    dict(type='PackInputs'),
]

train_set = dict(type='CustomDataset', data_root=f'{data_root}/train', pipeline=train_pipeline)
val_set = dict(type='CustomDataset', data_root=f'{data_root}/val', pipeline=test_pipeline)
test_set = dict(type='CustomDataset', data_root=f'{data_root}/test', pipeline=test_pipeline)

# num_workers=0: the images are tiny, and trials that run side by side share the cores. persistent_workers is set
# because mmpretrain's train tool makes it True where a config is silent, which torch refuses without workers.
loader = dict(num_workers=0, persistent_workers=False, collate_fn=dict(type='default_collate'))
in_order = dict(type='DefaultSampler', shuffle=False)
shuffled = dict(type='DefaultSampler', shuffle=True)
train_dataloader = dict(batch_size=64, dataset=train_set, sampler=shuffled, **loader)
val_dataloader = dict(batch_size=200, dataset=val_set, sampler=in_order, **loader)
test_dataloader = dict(batch_size=200, dataset=test_set, sampler=in_order, **loader)
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator
