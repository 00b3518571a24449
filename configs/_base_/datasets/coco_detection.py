# train2017 and val2017 are what the paper calls trainval35k and minival.
data_root = 'data/coco/'

load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
resize = dict(type='Resize', scale=(1333, 800), keep_ratio=True)
train_pipeline = [*load, resize, dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')]
test_pipeline = [
    load[0],
    resize,
    load[1],  # after Resize: boxes are compared in the size of the file
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]

train_set = dict(
    type='CocoDataset',
    data_root=data_root,
    ann_file='annotations/instances_train2017.json',
    data_prefix=dict(img='train2017/'),
    filter_cfg=dict(filter_empty_gt=True, min_size=32),
    pipeline=train_pipeline,
)
val_set = dict(
    type='CocoDataset',
    data_root=data_root,
    ann_file='annotations/instances_val2017.json',
    data_prefix=dict(img='val2017/'),
    test_mode=True,
    pipeline=test_pipeline,
)

loader = dict(num_workers=2, persistent_workers=True)
endless = dict(sampler=dict(type='InfiniteSampler', shuffle=True), batch_sampler=dict(type='AspectRatioBatchSampler'))
train_dataloader = dict(batch_size=2, dataset=train_set, **endless, **loader)
val_dataloader = dict(batch_size=1, dataset=val_set, sampler=dict(type='DefaultSampler', shuffle=False), **loader)
test_dataloader = val_dataloader
val_evaluator = dict(type='CocoMetric', ann_file=f'{data_root}annotations/instances_val2017.json', metric='bbox')
test_evaluator = val_evaluator
