_base_ = ['./camvid-frozen_wd.py']

model = dict(
    type='FixNormModel',
    fixnorm=dict(
        plain_type='EncoderDecoder', swap={r'backbone\.layer[23]\..*': dict(type='WNConv2d', train_scale=False)}
    ),
    decode_head=dict(type='FixNormBaseOCHead', alpha=1.0),
    auxiliary_head=dict(type='FixNormFCNHead', alpha=1.0),
)
optim_wrapper = dict(
    type='FixNormOptimWrapper',
    constructor='FixNormOptimWrapperConstructor',
    optimizer=dict(weight_decay=0.0),
)
search = dict(alpha_key=['model.decode_head.alpha', 'model.auxiliary_head.alpha'])
