"""What mmfixnorm is and needs. Settings of the tools are in pyproject.toml."""

import os
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


def requirements(name: str) -> list[str]:
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith('#')]


def version() -> str:
    scope: dict[str, str] = {}
    exec((ROOT / 'mmfixnorm/version.py').read_text(), scope)
    return scope['__version__']


class BuildWithMim(build_py):
    """Put configs, tools and the model index into ``mmfixnorm/.mim``, where mim looks for them.

    A wheel gets copies; an editable install gets links, so that edits are seen.
    """

    def run(self) -> None:
        super().run()
        mim = (ROOT if self.editable_mode else Path(self.build_lib)) / 'mmfixnorm/.mim'
        shutil.rmtree(mim, ignore_errors=True)
        mim.mkdir(parents=True)
        for name in ('configs', 'tools', 'model-index.yml'):
            if self.editable_mode:
                (mim / name).symlink_to(os.path.join('..', '..', name))
            elif (ROOT / name).is_dir():
                ignored = shutil.ignore_patterns('__pycache__', '*.pyc')
                shutil.copytree(ROOT / name, mim / name, ignore=ignored)
            else:
                shutil.copy(ROOT / name, mim / name)


readme = ROOT / 'README.md'
setup(
    name='mmfixnorm',
    version=version(),
    description='FixNorm (training without weight decay) for OpenMMLab, and its tuning',
    long_description=readme.read_text() if readme.exists() else '',
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    keywords='weight decay, weight normalization, hyper-parameter tuning, OpenMMLab',
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Typing :: Typed',
    ],
    packages=find_packages(include=['mmfixnorm', 'mmfixnorm.*']),
    entry_points={'console_scripts': ['mmfixnorm = mmfixnorm.cli:main']},
    package_data={'mmfixnorm': ['py.typed']},
    cmdclass={'build_py': BuildWithMim},
    python_requires='>=3.10',
    install_requires=requirements('runtime'),
    extras_require={
        'onedl': requirements('onedl'),
        'openmmlab': requirements('openmmlab'),
        'data': requirements('data'),
        'analysis': requirements('analysis'),
        'peers': requirements('peers'),
        'docs': requirements('docs'),
        'ray': ['ray>=2.9'],
        'completion': ['argcomplete>=3'],
        'test': requirements('test'),
    },
    zip_safe=False,
)
