"""``status --follow`` on another machine that may only read: another name, and a work dir that cannot be written."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# In a mount and a host name of its own, as on another machine that has the work dir read-only.
ELSEWHERE = """
hostname elsewhere && mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" || exit 77
touch "$0/mine" 2>/dev/null && exit 78
exec "$@"
"""


def elsewhere(work_dir, *command):
    script = ['unshare', '--mount', '--uts', '/bin/sh', '-c', ELSEWHERE, str(work_dir), *command]
    return subprocess.Popen(
        script, cwd=ROOT, env={**os.environ, 'PYTHONPATH': str(ROOT)}, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.slow
@pytest.mark.skipif(shutil.which('unshare') is None, reason='unshare is not installed')
def test_a_search_is_followed_from_a_machine_that_may_only_read(make_search, small):
    search = make_search(small)
    followers, seen = [], []
    words = [sys.executable, '-m', 'mmfixnorm', 'search', 'status', search.config, '--work-dir', str(search.work_dir)]

    def begin_to_follow(event):
        if event.kind == 'submitted' and not followers:
            options = ['--follow', '--interval', '0.1', '--log-format', 'json']
            followers.append(elsewhere(search.work_dir, *words, *options))

    assert search.run('slow', listener=begin_to_follow).kind == 'done'
    out, _ = followers[0].communicate(timeout=120)
    if followers[0].returncode == 77:
        pytest.skip('needs the rights to mount')
    assert followers[0].returncode == 0
    seen = [json.loads(line) for line in out.splitlines()]
    recorded = {line['key']: line['value'] for line in seen if line['event'] == 'recorded'}
    assert recorded == {a.spec.key: a.result.value for a in search.record().attempts}
    started = [line['where'] for line in seen if line['event'] == 'started']
    assert all(where.endswith(f' on {os.uname().nodename}') for where in started)
    once = elsewhere(search.work_dir, *words, '--all')
    table = once.communicate(timeout=120)[0]
    assert once.returncode == 0
    assert all(key in table for key in recorded)
    assert not (search.work_dir / 'mine').exists()
