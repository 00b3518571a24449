# Made by `tools/dataset_converters/digits.py --task seg`. A search ranks on val; test is for the end.
data_root = 'data/digits_seg'
# Not CityscapesDataset, which insists on its own classes. 255 is void: the soft edges of the strokes.
digits = dict(
    type='BaseSegDataset',
    data_root=data_root,
    img_suffix='_leftImg8bit.png',
    seg_map_suffix='_gtFine_labelTrainIds.png',
    metainfo=dict(
        classes=('0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'background'),
        palette=[[255 - 20 * k, 25 * k, 80 * (k % 4)] for k in range(10)] + [[40, 40, 40]],
    ),
)

train_pipeline = [  # no flip: a mirrored 2 is no digit
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
test_pipeline = train_pipeline

# num_workers=0: the images are small, and trials that run side by side share the cores.
loader = dict(num_workers=0, persistent_workers=False)
in_order = dict(type='DefaultSampler', shuffle=False)
endless = dict(type='InfiniteSampler', shuffle=True)
train_set = dict(
    data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'), pipeline=train_pipeline, **digits
)
train_dataloader = dict(batch_size=8, sampler=endless, dataset=train_set, **loader)
val_set = dict(
    data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'), pipeline=test_pipeline, **digits
)
val_dataloader = dict(batch_size=20, sampler=in_order, dataset=val_set, **loader)
test_set = dict(
    data_prefix=dict(img_path='leftImg8bit/test', seg_map_path='gtFine/test'), pipeline=test_pipeline, **digits
)
test_dataloader = dict(batch_size=20, sampler=in_order, dataset=test_set, **loader)
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
