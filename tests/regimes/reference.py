"""The plain loop that every regime is compared with: float64, torch functions only, nothing of this project.

A step takes the mean loss over chunks of samples. Chunks are what accumulation takes one after the other and what
processes take side by side, each with batch statistics of its own.
"""

import math

import torch
import torch.nn.functional as F

ALPHA = 0.6
SET = ('backbone.0.weight', 'backbone.3.weight', 'head.weight')


def logits(w, x):
    """conv - batch norm - ReLU - conv - batch norm - mean - FixNorm-FC, in training mode."""
    x = F.conv2d(x, w['backbone.0.weight'])
    x = F.batch_norm(x, None, None, w['backbone.1.weight'], w['backbone.1.bias'], training=True).relu()
    x = F.conv2d(x, w['backbone.3.weight'])
    x = F.batch_norm(x, None, None, w['backbone.4.weight'], w['backbone.4.bias'], training=True).mean((2, 3))
    fc = w['head.weight']
    scale = torch.minimum(w['head.g'], torch.full_like(w['head.g'], ALPHA * math.sqrt(len(fc))))
    return x @ (fc / fc.norm() * scale).T + w['head.bias']


def joint_norm(tensors):
    return math.sqrt(sum(t.square().sum().item() for t in tensors))


def sgd(lr=0.5, momentum=0.9):
    """Nesterov momentum: v <- m v + g; w <- w - lr (g + m v)."""
    velocity = {}

    def update(name, w, g, t):
        v = velocity[name] = momentum * velocity.get(name, 0) + g
        return w - lr * (g + momentum * v)

    return update


def adamw(lr=0.05, beta1=0.9, beta2=0.999, eps=1e-8):
    """Weight decay 0."""
    first, second = {}, {}

    def update(name, w, g, t):
        m = first[name] = beta1 * first.get(name, 0) + (1 - beta1) * g
        v = second[name] = beta2 * second.get(name, 0) + (1 - beta2) * g * g
        return w - lr * (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + eps)

    return update


def rmsprop(lr=0.05, alpha=0.99, eps=1e-8):
    mean_square = {}

    def update(name, w, g, t):
        v = mean_square[name] = alpha * mean_square.get(name, 0) + (1 - alpha) * g * g
        return w - lr * g / (v.sqrt() + eps)

    return update


def lamb(lr=0.05, beta1=0.9, beta2=0.999, eps=1e-6):
    """Gradients clipped to joint norm 1 beforehand, no trust ratio where nothing is decayed: mmpretrain's defaults."""
    inner = adamw(lr, beta1, beta2, eps)
    inner.max_grad_norm = 1.0
    return inner


def by_group(inside, outside):
    """One optimizer for the set, and another for the rest."""
    return lambda name, w, g, t: (inside if name in SET else outside)(name, w, g, t)


def turned(w, step, angle):
    """Turn the vector ``w`` by ``angle`` towards the part of ``step`` across it."""
    tangent = step - w * (w * step).sum() / w.square().sum()
    return math.cos(angle) * w + math.sin(angle) * w.norm() * tangent / tangent.norm()


def turn_units(old, proposed, angle, per):
    """Turn each unit of the set towards the proposed weights; all three are name -> tensor."""
    if per == 'set':
        flat = turned(
            *(torch.cat([t.flatten() for t in x]) for x in (old.values(), [proposed[n] - old[n] for n in old])), angle
        )
        return dict(
            zip(old, (part.view_as(w) for part, w in zip(flat.split([w.numel() for w in old.values()]), old.values())))
        )
    return {
        n: torch.stack([turned(u, v - u, angle) for u, v in zip(w, proposed[n])])
        if per == 'filter' and w.ndim > 2
        else turned(w, proposed[n] - w, angle)
        for n, w in old.items()
    }


def train(
    start,
    batches,
    update,
    *,
    chunks=1,
    clip=None,
    skipped=(),
    target=None,
    frozen_from=None,
    frozen_until=None,
    held=None,
    angle=None,
    fixed=SET,
    norms=None,
):
    """Train from ``start`` (name -> tensor) and return the last weights, in float64.

    Args:
        update: One of the optimizers above.
        chunks: Into how many parts each batch is divided.
        clip: Largest joint norm of the gradients.
        skipped: Numbers of the steps that are left out.
        target: The norm to keep; None for that of ``start``.
        frozen_from: Name -> number of the first step that does not train it any more.
        frozen_until: Name -> number of the first step that trains it.
        held: Name -> numbers of further steps that do not train it.
        angle: ``(angle, per)``: each unit of the set turns by this angle.
        norms: A list that gets the norm of the set after each step.
    """
    w = {name: value.detach().double().clone() for name, value in start.items()}
    target = joint_norm([w[n] for n in fixed]) if target is None else target
    done = 0
    for number, (x, y) in enumerate(batches):
        if number in skipped:
            continue
        done += 1
        free = [n for n in w if (frozen_until or {}).get(n, 0) <= number < (frozen_from or {}).get(n, math.inf)]
        free = [n for n in free if number not in (held or {}).get(n, ())]
        leaves = {n: w[n].clone().requires_grad_(n in free) for n in w}
        parts = zip(x.double().chunk(chunks), y.chunk(chunks))
        loss = sum(F.cross_entropy(logits(leaves, a), b) for a, b in parts) / chunks
        grads = dict(zip(free, torch.autograd.grad(loss, [leaves[n] for n in free])))
        for limit in filter(None, (clip, getattr(update, 'max_grad_norm', None))):
            norm = joint_norm(grads.values())
            grads = {n: g * min(1.0, limit / norm) for n, g in grads.items()}
        new = {n: update(n, w[n], grads[n], done) for n in free}
        if angle is not None:
            new.update(turn_units({n: w[n] for n in fixed if n in free}, new, *angle))
        w.update(new)
        movable = [n for n in fixed if n in free]
        rest = joint_norm([w[n] for n in fixed if n not in free])
        factor = math.sqrt(target**2 - rest**2) / joint_norm([w[n] for n in movable]) if movable else 1.0
        w.update({n: w[n] * factor for n in movable})
        if norms is not None:
            norms.append(joint_norm([w[n] for n in fixed]))
    return w
