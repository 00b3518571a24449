"""Enough of sbatch, squeue, scancel and scontrol on one machine, for one user or as several of them.

Run as ``python -S stand_in_slurm.py COMMAND ARGUMENTS``; jobs are files in ``$STAND_IN_SLURM``. A file
``down`` there stands for a controller that does not answer, ``refuse`` has what sbatch says instead of taking a job,
jobs wait while there is ``hold``, for the reason in it, ``others`` has more lines of squeue, and
``calls`` lists what was asked. ``$STAND_IN_USER`` is who asks.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HOME = Path(os.environ['STAND_IN_SLURM'])
USER = os.environ.get('STAND_IN_USER', str(os.getuid()))


def read(job_id):
    return json.loads((HOME / f'{job_id}.json').read_text())


def write(job):
    draft = HOME / f'.{job["id"]}.{os.getpid()}'
    draft.write_text(json.dumps(job))
    os.replace(draft, HOME / f'{job["id"]}.json')


def jobs():
    return [read(p.stem) for p in sorted(HOME.glob('[0-9]*.json'))]


def start(job):
    subprocess.Popen(
        [sys.executable, '-S', __file__, 'run-job', job['id']],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def run_job(job_id):
    while (HOME / 'hold').exists():
        time.sleep(0.05)
    job = read(job_id)
    if job['state'] != 'PENDING':
        return
    env = {**os.environ, 'SLURM_JOB_ID': job_id, 'SLURM_CPUS_ON_NODE': '4'}
    if job['restarts']:
        env['SLURM_RESTART_COUNT'] = str(job['restarts'])
    with open(job['output'], 'ab') as log:
        script = ['/bin/bash', str(HOME / f'{job_id}.sh')]
        child = subprocess.Popen(script, env=env, stdout=log, stderr=log, start_new_session=True)
        write({**job, 'state': 'RUNNING', 'pid': child.pid})
        code = child.wait()
    now = read(job_id)
    if (now['state'], now['restarts']) == ('RUNNING', job['restarts']):  # nobody has cancelled or requeued it
        how = ('FAILED', 'NonZeroExitCode') if code else ('COMPLETED', 'None')
        write({**now, 'state': how[0], 'reason': how[1]})


def end(job, state):
    write({**job, 'state': state})
    if job['state'] == 'RUNNING':
        os.killpg(job['pid'], signal.SIGKILL)


def sbatch(arguments):
    options = dict(a.removeprefix('--').split('=', 1) for a in arguments if '=' in a)
    if options.get('partition') == 'nowhere':
        sys.exit('sbatch: error: Batch job submission failed: Invalid partition name specified')
    if (HOME / 'refuse').exists():
        sys.exit(f'sbatch: error: Batch job submission failed: {(HOME / "refuse").read_text()}')
    job_id = str(len(jobs()) + 1)
    (HOME / f'{job_id}.sh').write_text(sys.stdin.read())
    job = {'id': job_id, 'name': options['job-name'], 'output': options['output'].replace('%%', '%')}
    job.update(state='PENDING', reason='None', restarts=0, arguments=arguments, user=USER)
    write(job)
    start(job)
    sys.stdout.write(f'{job_id}\n')


def main(command, arguments):
    if command == 'run-job':
        return run_job(*arguments)
    with open(HOME / 'calls', 'a') as f:
        f.write(f'{command}\n')
    if (HOME / 'down').exists():
        sys.exit(f'{command}: error: Unable to contact slurm controller (connect failure)')
    if command == 'sbatch':
        sbatch(arguments)
    elif command == 'squeue':
        asked = next((a.removeprefix('--jobs=').split(',') for a in arguments if a.startswith('--jobs=')), None)
        shown = [j for j in jobs() if (j['id'] in asked if asked else f'--user={j["user"]}' in arguments)]
        if asked and not shown:
            sys.exit('slurm_load_jobs error: Invalid job id specified')
        if (HOME / 'others').exists():
            sys.stdout.flush()
            os.write(1, (HOME / 'others').read_bytes())
        reason = (HOME / 'hold').read_text() if (HOME / 'hold').exists() else ''
        for job in shown:
            if reason and job['state'] == 'PENDING':
                job['reason'] = reason
            sys.stdout.write('{id}|{state}|{reason}|{name}\n'.format(**job))
    elif command == 'scancel':
        names = [a.removeprefix('--name=') for a in arguments if a.startswith('--name=')]
        for job in jobs():
            if (
                job['user'] == USER
                and job['state'] in ('PENDING', 'RUNNING')
                and (job['name'] in names or job['id'] in arguments)
            ):
                end(job, 'CANCELLED')
    elif arguments[0] == 'requeue':
        job = read(arguments[1])
        again = {**job, 'restarts': job['restarts'] + 1}
        end(again, 'PENDING')
        start(again)
    else:
        sys.stdout.write('ClusterName             = stand-in\n')
    return None


if __name__ == '__main__':
    main(sys.argv[1], sys.argv[2:])
