# Blood cells in COCO format: annotations/instances_{train,val,test}.json and images/. Half the size of the photos.
data_root = 'data/bccd'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(320, 240), keep_ratio=True),
    dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(320, 240), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]

cells = dict(
    type='CocoDataset',
    data_root=data_root,
    data_prefix=dict(img='images/'),
    metainfo=dict(classes=('RBC', 'WBC', 'Platelets')),
)
train_set = dict(ann_file='annotations/instances_train.json', pipeline=train_pipeline, **cells)
val_set = dict(ann_file='annotations/instances_val.json', pipeline=test_pipeline, test_mode=True, **cells)
test_set = dict(ann_file='annotations/instances_test.json', pipeline=test_pipeline, test_mode=True, **cells)

loader = dict(num_workers=0, persistent_workers=False)  # trials that run side by side share the cores
in_order = dict(type='DefaultSampler', shuffle=False)
endless = dict(type='InfiniteSampler', shuffle=True)
train_dataloader = dict(batch_size=4, dataset=train_set, sampler=endless, **loader)
val_dataloader = dict(batch_size=4, dataset=val_set, sampler=in_order, **loader)
test_dataloader = dict(batch_size=4, dataset=test_set, sampler=in_order, **loader)
val_evaluator = dict(type='CocoMetric', ann_file=f'{data_root}/annotations/instances_val.json', metric='bbox')
test_evaluator = dict(val_evaluator, ann_file=f'{data_root}/annotations/instances_test.json')
