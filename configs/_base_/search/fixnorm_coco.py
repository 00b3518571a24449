_base_ = ['./fixnorm.py']

# Training starts from a pretrained backbone: a lower range (A.4.3).
search = dict(lr_range=(0.005, 0.1), metric='coco/bbox_mAP', alpha_key='model.bbox_head.alpha')
