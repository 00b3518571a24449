"""The manifest of docs/clusters.md against the fields of KubeRay's RayCluster.

``FIELDS`` are those that the manifest may use, as KubeRay 1.1 (``ray-operator/apis/ray/v1/raycluster_types.go``) and
Kubernetes' pods define them: a type, or what is below; a name with ``!`` must be there.
"""

import re
from pathlib import Path

import pytest
import yaml

PAGE = Path(__file__).parents[1] / 'docs/clusters.md'
TEXTS = {'*': str}  # any names
POD = {
    'spec!': {
        'containers!': [
            {
                'name!': str,
                'image': str,
                'resources': {'limits': {'*': (str, int)}, 'requests': {'*': (str, int)}},
                'volumeMounts': [{'name!': str, 'mountPath!': str}],
            }
        ],
        'volumes': [
            {'name!': str, 'persistentVolumeClaim': {'claimName!': str}, 'emptyDir': {'medium': str, 'sizeLimit': str}}
        ],
    }
}
WORKERS = {'groupName!': str, 'replicas': int, 'minReplicas': int, 'maxReplicas': int}
FIELDS = {
    'apiVersion!': str,
    'kind!': str,
    'metadata!': {'name!': str, 'namespace': str},
    'spec!': {
        'rayVersion': str,
        'headGroupSpec!': {'rayStartParams!': TEXTS, 'template!': POD},
        'workerGroupSpecs': [{**WORKERS, 'rayStartParams!': TEXTS, 'template!': POD}],
    },
}


def faults(value, allowed, path=''):
    if isinstance(allowed, list):
        if not isinstance(value, list):
            return [f'{path}: a list']
        return [fault for i, item in enumerate(value) for fault in faults(item, allowed[0], f'{path}[{i}]')]
    if not isinstance(allowed, dict):
        return [] if isinstance(value, allowed) and not isinstance(value, bool) else [f'{path}: {allowed}']
    if not isinstance(value, dict):
        return [f'{path}: a mapping']
    named = {name.rstrip('!'): below for name, below in allowed.items()}
    found = [f'{path}.{name[:-1]}: missing' for name in allowed if name.endswith('!') and name[:-1] not in value]
    for name, below in value.items():
        if name not in named and '*' not in named:
            found.append(f'{path}.{name}: unknown')
        else:
            found += faults(below, named.get(name, named.get('*')), f'{path}.{name}')
    return found


@pytest.fixture
def manifest():
    return yaml.safe_load(re.search(r'```yaml\n(.*?)```', PAGE.read_text(encoding='utf-8'), re.DOTALL)[1])


def test_the_manifest_has_no_field_that_the_schema_does_not_know(manifest):
    assert faults(manifest, FIELDS) == []
    assert (manifest['apiVersion'], manifest['kind']) == ('ray.io/v1', 'RayCluster')


def test_what_is_mounted_is_a_volume_of_the_pod_and_the_workers_hold_a_trial(manifest):
    groups = [manifest['spec']['headGroupSpec'], *manifest['spec']['workerGroupSpecs']]
    for pod in (group['template']['spec'] for group in groups):
        volumes = {volume['name'] for volume in pod['volumes']}
        assert {mount['name'] for container in pod['containers'] for mount in container['volumeMounts']} == volumes
    workers = groups[1]
    on_each = workers['template']['spec']['containers'][0]['resources']['limits']['nvidia.com/gpu']
    nodes, gpus = map(
        int, re.search(r"type='ray', nodes_per_trial=(\d+), gpus_per_trial=(\d+)", PAGE.read_text()).groups()
    )
    assert workers['replicas'] == nodes
    assert on_each * nodes == gpus


@pytest.mark.parametrize(
    ('change', 'fault'),
    [
        (lambda m: m['spec'].pop('headGroupSpec'), '.spec.headGroupSpec: missing'),
        (lambda m: m['spec']['headGroupSpec']['rayStartParams'].update({'num-gpus': 0}), "num-gpus: <class 'str'>"),
        (lambda m: m['spec']['workerGroupSpecs'][0].update(replica=2), '.spec.workerGroupSpecs[0].replica: unknown'),
    ],
)
def test_a_fault_in_it_would_be_found(manifest, change, fault):
    change(manifest)
    assert faults(manifest, FIELDS)[0].endswith(fault)
