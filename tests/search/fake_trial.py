"""A trial in milliseconds: a formula of lr and alpha instead of a training.

Run as ``python -S fake_trial.py MODE TRIAL_DIR``. It appends to ``ledger.txt`` beside the trials'
folder when its result is written, so a test can count trainings that came to their end.
"""

import json
import math
import os
import signal
import sys
import time

SCALE = 3.0  # the largest |g| / sqrt(#class) of a training with a bound
NUMBERS = ('lr', 'alpha', 'fraction', 'weight_decay')


def accuracy(lr, alpha, fraction, weight_decay):
    """Unimodal in log lr, best near 1.1; best alpha near 4, weight decay near 8e-5; longer is better."""
    score = 90 - 10 * math.log(lr / 1.1) ** 2 - math.log((alpha or 4) / 4) ** 2
    score -= math.log((weight_decay or 8e-5) / 8e-5) ** 2
    return round(score - 5 * (1 - fraction), 6)


def stamp(trial_dir, spec, word):
    """Leave in the folder which trial of which search writes there now."""
    with open(os.path.join(trial_dir, 'stamps.txt'), 'a') as f:
        f.write(f'{spec["fingerprint"]} {spec["key"]} {spec["attempt"]} {os.getpid()} {word}\n')


def keep_points(trial_dir, spec):
    """Keep the ends of epochs up to 9 for other alphas; the scale rises evenly to ``SCALE`` at the end of 10."""
    bounds = [min(alpha, spec['alpha']) for alpha in spec['fork_alphas']]
    done = start_of(trial_dir, spec).get('forked_at', 0) // 8
    for epoch in range(done + 1, 10):
        scale = SCALE * epoch / 10
        if not any(scale < bound for bound in bounds):
            continue
        folder = os.path.join(trial_dir, 'forks', str(epoch * 8))
        os.makedirs(folder, exist_ok=True)
        point = dict(key=spec['key'], fingerprint=spec['fingerprint'], iteration=epoch * 8, max_iters=80, step=epoch)
        with open(os.path.join(folder, 'point.json'), 'w') as f:
            json.dump({**point, 'largest_scale': scale, 'next_loss': 1.0}, f)


def start_of(trial_dir, spec):
    """Return what the result says of a trial that continues another one; empty if it does not."""
    path = os.path.join(trial_dir, 'fork', 'point.json')
    if not os.path.exists(path):
        return {}
    with open(path) as f:
        point = json.load(f)
    if point['largest_scale'] >= spec['alpha']:
        sys.exit('that training has met the bound of this one already')
    part = point['iteration'] / point['max_iters']
    return {'forked_from': point['key'], 'forked_at': point['iteration'], 'forked_part': part}


def main(mode, trial_dir):
    with open(os.path.join(trial_dir, 'spec.json')) as f:
        spec = json.load(f)
    outcome, value, message = 'done', accuracy(*(spec[k] for k in NUMBERS)), ''
    if mode == 'short-low' and spec['fraction'] < 1:  # shorter trainings prefer the lowest learning rate
        value = 50 - 10 * spec['lr']
    if mode == 'forking':
        keep_points(trial_dir, spec)
    if mode in ('bounded', 'forking'):  # a larger alpha has no effect
        value = accuracy(spec['lr'], min(spec['alpha'], SCALE), spec['fraction'], spec['weight_decay'])
    if mode == 'tie':
        value = 50.0
    if mode == 'seeds':  # the seeds 1, 2, 3 of a confirmation
        value += (spec['seed'] or 2) - 2
    if mode == 'images':  # an accuracy on 40 of them
        value = round(value / 2.5) * 2.5
    if mode == 'brief':  # long enough to outlive a driver
        time.sleep(0.15)
    if mode == 'stamped':  # so that a file of one search written by a trial of another is seen
        for _ in range(60):
            stamp(trial_dir, spec, 'step')
            time.sleep(0.025)
    if mode == 'slow':  # so that a live table is drawn while it runs
        time.sleep(1.5)
    if mode == 'timed' and spec['key'].endswith('k1'):  # long enough to outlive a driver
        time.sleep(0.4)
    warnings = [f'class {n} never occurs, at lr {spec["lr"]}' for n in ('cat', 'dog')] if mode == 'warning' else []
    if mode == 'hang':
        time.sleep(60)
    if mode == 'diverge-all' or (mode == 'diverge-high' and spec['lr'] > 2.5):
        outcome, value, message = 'diverged', None, 'the loss is nan'
    if mode == 'kill-once' and spec['key'] == 'r0-k1' and spec['attempt'] == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if mode in ('fail', 'fail-' + spec['key']):
        sys.exit('out of memory, says the fake')
    if mode == 'broken':
        outcome, value, message = 'broken', None, 'the set of weights to fix is empty'
    if mode == 'corrupt-' + spec['key']:
        with open(os.path.join(trial_dir, 'result.json'), 'w') as f:
            f.write('{"key": "r0-k1", "att')
        return
    result = {
        'key': spec['key'],
        'attempt': spec['attempt'],
        'fingerprint': spec['fingerprint'],
        'outcome': outcome,
        'value': value,
        'message': message,
        'seconds': 3600 * spec['fraction'] if mode == 'timed' else 0.0,
        'warnings': warnings,
        'largest_scale': SCALE if mode in ('bounded', 'forking') else None,
        **(start_of(trial_dir, spec) if mode == 'forking' else {}),
    }
    if spec.get('is_ramp'):
        ramp = {'lr_range': None if mode == 'endless' else [0.2, 3.2], 'end': 4.0, 'part': 0.04}
        ramp['steps'] = [[0.1 * 2**i, 2.3, 0.001 * 2**i, 0.01 * 2**i] for i in range(6)]
        result |= {'outcome': 'measured', 'value': None, 'ramp': ramp}
    temporary = os.path.join(trial_dir, 'result.tmp')
    with open(temporary, 'w') as f:
        json.dump(result, f)
    os.replace(temporary, os.path.join(trial_dir, 'result.json'))
    if mode == 'stamped':
        stamp(trial_dir, spec, 'end')
    with open(os.path.join(os.path.dirname(trial_dir), '..', 'ledger.txt'), 'a') as f:
        f.write(f'{spec["key"]}\n')


if __name__ == '__main__':
    main(sys.argv[1], sys.argv[2])
