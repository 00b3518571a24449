# Made by `tools/dataset_converters/digits.py --task det`. A search ranks on val; test is for the end.
data_root = 'data/digits_det'
metainfo = dict(classes=('0', '1', '2', '3', '4', '5', '6', '7', '8', '9'))

train_pipeline = [  # no flip: a mirrored 2 is no digit
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(96, 96)),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
test_pipeline = train_pipeline

digits = dict(type='CocoDataset', data_root=data_root, metainfo=metainfo)
train_set = dict(
    ann_file='annotations/instances_train.json',
    data_prefix=dict(img='train/'),
    pipeline=train_pipeline,
    filter_cfg=dict(filter_empty_gt=True),
    **digits,
)
held_out = dict(pipeline=test_pipeline, test_mode=True, **digits)
val_set = dict(ann_file='annotations/instances_val.json', data_prefix=dict(img='val/'), **held_out)
test_set = dict(ann_file='annotations/instances_test.json', data_prefix=dict(img='test/'), **held_out)

# num_workers=0: the images are small, and trials that run side by side share the cores.
loader = dict(num_workers=0, persistent_workers=False)
in_order = dict(type='DefaultSampler', shuffle=False)
endless = dict(type='InfiniteSampler', shuffle=True)
train_dataloader = dict(batch_size=16, dataset=train_set, sampler=endless, **loader)
val_dataloader = dict(batch_size=20, dataset=val_set, sampler=in_order, **loader)
test_dataloader = dict(batch_size=20, dataset=test_set, sampler=in_order, **loader)
val_evaluator = dict(type='CocoMetric', ann_file=f'{data_root}/annotations/instances_val.json', metric='bbox')
test_evaluator = dict(val_evaluator, ann_file=f'{data_root}/annotations/instances_test.json')
