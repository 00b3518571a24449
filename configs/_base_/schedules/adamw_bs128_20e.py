_base_ = ['./sgd_bs128_20e.py']

# Weight decay as for DeiT and ConvNeXt: on weights, not on biases, norm layers, tokens and position embeddings.
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=2e-3, weight_decay=0.05),
    paramwise_cfg=dict(
        flat_decay_mult=0.0,
        custom_keys={'.cls_token': dict(decay_mult=0.0), '.pos_embed': dict(decay_mult=0.0)},
    ),
)
