# RetinaNet with FixNorm, the best row of Table 4: tools/dist_train.sh configs/retinanet_fixnorm.py 8
_base_ = ['./coco/retinanet_r50-fpn_fixnorm_8xb2-cosine-90k_coco.py']
