"""The site in docs/ builds without a warning, and its pages say what the code and the raw results have."""

import importlib
import json
import re
import runpy
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from benchmarks import lr_range, wd_against_fixnorm
from benchmarks.evidence import report, rotation, rotation_report
from mmfixnorm import __version__
from mmfixnorm.search.methods import METHODS

DOCS = Path(__file__).resolve().parents[1] / 'docs'
README = DOCS.parent / 'README.md'


@pytest.mark.slow
def test_the_site_builds_and_a_warning_is_an_error(tmp_path: Path) -> None:
    options = ['-W', '--keep-going', '-q', '-b', 'html', '-d', str(tmp_path / 'doctrees')]
    command = [sys.executable, '-m', 'sphinx', *options, str(DOCS), str(tmp_path / 'html')]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'FixNormLinear' in (tmp_path / 'html/api.html').read_text()
    first = (tmp_path / 'html/index.html').read_text()
    assert 'only-dark' in first
    assert first.count('sd-card-title') == first.count('sd-stretched-link') > 0


def test_what_builds_the_site_is_installed_for_the_tests() -> None:
    of = {name: (DOCS.parent / f'requirements/{name}.txt').read_text().splitlines() for name in ('docs', 'test')}
    assert [line for line in of['docs'] if not line.startswith('#') and line not in of['test']] == []


def test_the_page_of_the_api_has_what_the_packages_export_and_nothing_else() -> None:
    page = (DOCS / 'api.md').read_text()
    listed = re.findall(r'^\.\. auto(?:class|function):: mmfixnorm\.(\S+)$', page, re.MULTILINE)
    packages = ('engine', 'cls', 'det', 'seg', 'convert', 'fold', 'search')
    exported = [f'{name}.{key}' for name in packages for key in importlib.import_module(f'mmfixnorm.{name}').__all__]
    assert sorted(listed) == sorted(exported)
    assert '.. automodule:: mmfixnorm.core\n' in page  # what its __all__ has


def test_every_page_is_in_the_table_of_contents() -> None:
    listed = re.findall(r'^([a-z_]+)$', (DOCS / 'index.md').read_text(), re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == {page.stem for page in DOCS.glob('*.md')} - {'index'}


@pytest.mark.parametrize('name', ['own_config', 'own_boxes', 'own_masks', 'by_hand', 'suits'])
def test_a_line_of_code_of_a_tutorial_fits_beside_both_sidebars(name: str) -> None:
    blocks = re.findall(r'^```\w+\n(.*?)^```$', page(name), re.DOTALL | re.MULTILINE)
    assert blocks
    assert [line for block in blocks for line in block.splitlines() if len(line) > 90] == []


def test_no_page_has_the_name_of_one_that_sphinx_writes() -> None:
    # A page named search would be replaced by the results of the search field, without a warning.
    assert not {page.stem for page in DOCS.glob('*.md')} & {'search', 'genindex', 'modindex', 'py-modindex'}


def test_links_of_the_readme_lead_to_files_and_headings() -> None:
    targets = re.findall(r'(?:\]\(|src="|srcset=")(?!https?:)([^)"#]*)(#[^)"]*)?', README.read_text())
    assert len(targets) > 30
    for path, anchor in targets:
        assert (DOCS.parent / path).is_file(), path
        if anchor:
            headings = re.findall(r'^#+ (.*)$', (DOCS.parent / path).read_text(), re.MULTILINE)
            slugs = {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}
            assert anchor[1:] in slugs, anchor


def test_the_search_page_has_every_method() -> None:
    text = (DOCS / 'tuning.md').read_text()
    assert [kind for kind in METHODS if f'`{kind}`' not in text] == []


def test_the_page_of_configs_has_every_config_as_it_is_now() -> None:
    script = runpy.run_path(str(DOCS / 'configs_table.py'))
    page = (DOCS / 'configs.md').read_text()
    assert page == script['with_tables'](page)
    files = [f for f in (DOCS.parent / 'configs').rglob('*.py') if '_base_' not in f.parts]
    assert [file.stem for file in files if f'`{file.stem}`' not in page and file.stem not in page] == []


def test_the_cheat_sheet_has_every_key_as_the_code_has_it() -> None:
    script = runpy.run_path(str(DOCS / 'keys_table.py'))
    page = (DOCS / 'config_keys.md').read_text()
    assert page == script['with_tables'](page)
    assert [kind for kind in METHODS if f'### `{kind}`' not in page] == []


def test_the_table_of_networks_is_of_the_measured_lines() -> None:
    script = runpy.run_path(str(DOCS / 'suits_table.py'))
    page = (DOCS / 'suits.md').read_text()
    assert page == script['with_table'](page)


def test_the_badges_say_what_the_package_is() -> None:
    script = runpy.run_path(str(DOCS / 'badges.py'))
    texts = script['texts']()
    assert texts['version'] == __version__
    files = {file.stem: file.read_text() for file in (DOCS / 'images/badges').glob('*.svg')}
    assert files == {name: script['badge'](name, text) for name, text in texts.items()}
    shown = re.findall(r'images/badges/(\w+)\.svg', README.read_text())
    assert sorted(shown) == sorted(texts)


def lines_of(name: str) -> list[dict[str, Any]]:
    """The raw lines of a benchmark."""
    return [json.loads(line) for line in (DOCS.parent / 'benchmarks' / name).read_text().splitlines()]


def page(name: str) -> str:
    return (DOCS / f'{name}.md').read_text()


def test_the_tables_of_the_ramps_and_of_the_small_detectors_are_of_their_lines() -> None:
    assert lr_range.table(lines_of('lr_range_cpu_202611.jsonl')) in page('tuning')
    rows = '\n'.join(wd_against_fixnorm.table(lines_of('wd_against_fixnorm_cpu_202611.jsonl')))
    assert rows in page('detection_and_segmentation')


def test_the_cost_of_an_iteration_is_that_of_its_line() -> None:
    lines = lines_of('train_iteration_cpu_202611.jsonl')
    line = next(line for line in lines if line['fixnorm'] == 'resnet50_fixnorm_16xb64-100e_imagenet.py')
    text = ' '.join(page('method').split())
    parts = {part: after - before for part, (before, after) in line['parts_ms'].items()}
    assert f'the step takes {parts["step"]:.1f} ms more and the head {parts["head"]:.1f} ms more' in text
    seconds = line['iteration']['median_ms'][0] / 1000
    assert f'with {line["batch"]} images on two cores, {100 * (line["by_parts"] - 1):.2f} % of {seconds:.1f} s' in text
    ratios = [
        '{ratio:.2f} [{0:.2f}, {1:.2f}]'.format(*line[key]['interval_95'], **line[key])
        for key in ('control', 'iteration')
    ]
    assert f'the baseline against itself gives {ratios[0]}, FixNorm against the baseline {ratios[1]}' in text
    low, high = sorted(f'{mb:.4g}' for mb in line['peak_mb'].values())
    assert low == high  # the same to four digits


def test_the_cost_of_an_iteration_by_angle_is_that_of_its_line() -> None:
    (line,) = lines_of('train_iteration_cpu_202612.jsonl')
    text = ' '.join(page('rotation').split())
    parts = {part: after - before for part, (before, after) in line['parts_ms'].items()}
    more = f'{parts["step"]:.0f} ms more than that of SGD with weight decay and the head {parts["head"]:.0f} ms'
    seconds = line['iteration']['median_ms'][0] / 1000
    before, after = line['peak_mb'].values()
    assert f'{more}, together {100 * (line["by_parts"] - 1):.1f} % of {seconds:.1f} s' in text
    assert f'peak memory is {after / before:.3f} times' in text
    at_64 = sum(parts.values()) / (64 / line['batch'] * line['iteration']['median_ms'][0])
    assert f'it would be {100 * at_64:.1f} % (computed)' in text
    for key, what in (('iteration', 'resolve it:'), ('control', 'the baseline against itself')):
        assert '{what} {ratio:.2f} [{0:.2f}, {1:.2f}]'.format(*line[key]['interval_95'], what=what, **line[key]) in text


def test_the_cost_of_the_head_is_that_of_its_lines() -> None:
    def median(code: str, form: str, less: str = '') -> float:
        lines = [line['medians_ms'] for line in lines_of('head_cpu_202612.jsonl') if line['code'] == code]
        return statistics.median(of[form] - of.get(less, 0.0) for of in lines)

    above = {code: median(code, 'smaller scaled', 'plain') for code in ('before', 'now')}
    plain = f'a plain one ({median("now", "plain"):.1f} ms)'
    words = f'{above["now"]:.1f} ms above {plain} where it was {above["before"]:.1f}'
    assert words in ' '.join(page('method').split())


def test_the_table_of_frozen_bn_is_of_its_lines() -> None:
    for line in lines_of('frozen_bn_cpu_202611.jsonl'):
        found, name = line['found'], line['config'].split('/')[-1]
        start = f'| mmdet `{name}` | {found["in_set"]} | {found["held"]} | {found["failing"]} | {found["loaded"]:g} '
        assert f'{start}| {found["folded"]:g} | within' in page('convert')


def test_the_differences_of_risk_are_those_of_the_lines() -> None:
    results = report.Results()
    risk = {
        name: [run['curves']['val/mcbr'][1][-1] for run in results.runs(*place)] for name, place in report.FIT.items()
    }
    for other in ('wn-fc', 'alg1'):
        test = stats.ttest_ind(risk[other], risk['fixnorm-head'], equal_var=False)
        assert '[{:+.3f}, {:+.3f}]'.format(*test.confidence_interval(0.95)) in page('evidence')
        assert f'{statistics.mean(risk[other]):.3f}' in page('evidence')


# A difference with its interval, and a mean with its standard deviation, as the tables of the evidence write them.
DIFFERENCE = re.compile(r'[+-]\d+\.\d+ \[[+-]\d+\.\d+, [+-]\d+\.\d+\]')
SPREAD = re.compile(r'\d+\.\d\d \(sd \d+\.\d\d\)')


def test_a_difference_or_spread_in_words_is_one_of_the_tables() -> None:
    results = report.Results()
    made = '\n'.join(text for tables in report.pages(results).values() for text in tables.values())
    made += report.difference(*(results.values(*report.FIT[name]) for name in ('alg1', 'wn-fc')))
    pages = [
        README,
        *(
            DOCS / f'{name}.md'
            for name in ('evidence', 'rotation', 'rotation_measured', 'suits', 'tuning', 'why_not_a_sweep')
        ),
    ]
    found = {
        (page.stem, text) for page in pages for of in (DIFFERENCE, SPREAD) for text in of.findall(page.read_text())
    }
    assert len(found) > 50
    assert [(page, text) for page, text in found if text not in made] == []


def test_what_the_readme_says_in_words_of_three_trainings_and_of_the_angle() -> None:
    results, below = report.Results(), []
    for task, (experiment, *groups) in report.TUNED.items():
        for test in ('test', 'angle-test'):
            values = results.values(f'lr-fit-{task}', test)
            for group in groups:  # of Algorithm 4 and of weight decay
                high = report.difference(values, results.values(experiment, f'{group}-test')).rpartition(' ')[2]
                below += [(task, test, group)] * (high[0] == '-')
    assert below == [('digits', 'test', 'fixnorm')]
    above = []
    for task in report.TUNED:
        untuned = results.values(*rotation.where_default(results, task))
        gain = report.difference(results.values(f'lr-fit-{task}', 'angle-test'), untuned)
        assert gain.partition('[')[2][0] == '-' or gain.rpartition(' ')[2][0] == '+', task  # worse on none
        above += [task] * (gain.partition('[')[2][0] == '+')
    assert above == ['residual']
    assert 'on none of five tasks, and above the untuned 0.02 on one;' in README.read_text()
    words = ' '.join(README.read_text().split())
    adamw, _ = rotation_report.tuned_decay(results, 'deit')
    converted = ('fixnorm', rotation.TASKS['deit'].converted)
    for method in converted:
        level = report.difference(results.values('rotation-deit', f'{method}/test'), adamw)
        assert (level.partition('[')[2][0], level.rpartition(' ')[2][0]) == ('-', '+'), method
    assert 'On a small DeiT FixNorm and the angle are level with tuned AdamW' in words
    convnext = {
        m: statistics.mean(results.values('rotation-convnext', f'{m}/test'))
        for m in ('adamw', 'adamw-clip', 'lamb', *converted)
    }
    assert max(convnext[m] for m in converted) < min(convnext[m] for m in ('adamw-clip', 'lamb'))
    below = '{:.2f} and {:.2f} below'.format(*(convnext['adamw'] - convnext[m] for m in converted))
    assert f'on a small ConvNeXt {below}' in words
    for network in ('gfl', 'fcos', 'uper'):
        clipped = results.values(f'rotation-{network}', 'wd-clip/test')
        gain = report.difference(results.values(f'rotation-{network}', 'angle/test'), clipped)
        assert gain.partition('[')[2][0] == '+', network
    assert 'also on GFL, FCOS and UPerNet, which had no say' in words

    bccd, camvid, digits = (
        {m: results.values(f'rotation-{task}', f'{m}/test') for m in ('angle', 'wd', 'wd-clip')}
        for task in ('bccd', 'camvid', 'digits')
    )
    gain, clipping = (statistics.mean(bccd[m]) - statistics.mean(bccd['wd']) for m in ('angle', 'wd-clip'))
    assert gain / 2 < clipping < gain  # most of the way
    for values, gains in ((bccd, True), (camvid, True), (digits, False)):
        low = report.difference(values['angle'], values['wd']).partition('[')[2]
        assert (low[0] == '+') == gains


def test_what_the_pages_say_of_untuned_weight_decay_and_of_points_that_were_tried_twice() -> None:
    results = report.Results()
    suits, sweep, evidence = ((DOCS / f'{name}.md').read_text() for name in ('suits', 'why_not_a_sweep', 'evidence'))
    losses = [
        statistics.mean(results.values(experiment, f'{bo}-test'))
        - statistics.mean(results.values(experiment, 'reference-test'))
        for experiment, bo in (('table1-residual', 'bo'), ('table1-mobile', 'bo-low'))
    ]
    assert '{:.2f} and {:.2f} points below'.format(*losses) in suits
    tried = [
        len({(run['lr'], run['weight_decay']) for run in results.runs('table1-mobile', group)})
        for group in ('bo', 'bo-low')
    ]
    assert '{} and {} different points of 25'.format(*tried) in sweep
    assert '({} different points\nof 25, then {} of 25'.format(*tried) in evidence


def test_the_mean_cost_of_the_recorded_searches_is_that_of_their_table() -> None:
    (mean,) = re.findall(r'^\| mean \| 11\.00 \| (\S+) \|', (DOCS / 'tuning.md').read_text(), re.MULTILINE)
    assert f'11 T_max became {float(mean):.1f}' in (DOCS / 'why_not_a_sweep.md').read_text()


def test_the_times_before_and_after_are_of_their_lines() -> None:
    for line in lines_of('convert_before_after_cpu_202611.jsonl'):
        before, now = line['before'], line['now']
        times = f'{before["convert_s"]:.0f} | {now["convert_s"]:.0f} | {before["convert_s"] / now["convert_s"]:.1f}'
        memory = f'{before["peak_mb"] / 1024:.1f} | {now["peak_mb"] / 1024:.1f}'
        assert f'| `{line["config"].split("/")[-1]}` | {times} | {memory} |' in page('convert')


def test_where_an_untuned_angle_is_below_tuned_weight_decay() -> None:
    rows = rotation_report.default_table(report.Results()).splitlines()[2:]
    highs = {row.split(' | ')[0].strip('| '): [float(high) for high in re.findall(r', (\S+)\]', row)] for row in rows}
    assert highs.keys() == {*report.TUNED, 'deit', 'convnext', 'gfl', 'fcos', 'uper'}
    assert all(highs.values())
    assert {task for task, of_task in highs.items() if of_task[0] < 0} == {'deit'}  # tuned, and at a clip below
    assert {task for task, of_task in highs.items() if min(of_task) < 0} == {'deit', 'convnext'}
    words = ' '.join(README.read_text().split())
    assert '0.02 itself is seen below tuned weight decay on none but a small DeiT ([table]' in words


def test_how_far_the_learning_rate_of_a_recipe_is_from_the_best() -> None:
    ratios = [line['lr_child'] / line['best'] for line in lines_of('lr_from_networks_cpu_202611.jsonl')]
    assert sum(1 / 1.2 <= ratio <= 1.2 for ratio in ratios) == 4
    assert len(ratios) == 5
    assert 'within a factor of 1.2 of the best on four of five networks' in page('suits')
    assert f'it is {1 / min(ratios):.1f} times too small' in page('fine_tuning')


def test_how_much_the_usual_angle_loses_on_a_task_at_most() -> None:
    results = report.Results()
    losses = []
    for task in report.TUNED:
        runs = [run for seed in rotation.SEEDS for run in results.runs(f'rotation-{task}', f'angle/seed{seed}')]
        of_lr: dict[float, list[float]] = {}
        for run in runs:
            of_lr.setdefault(run['lr'], []).append(run['value'] or 0.0)
        means = {lr: statistics.mean(values) for lr, values in of_lr.items()}
        losses.append(max(means.values()) - means[0.02])
    assert (
        f'0.02 loses {max(losses):.1f}\n  points to 0.01 on blood cells' in (DOCS / 'rotation_measured.md').read_text()
    )
    for network in ('gfl', 'fcos', 'uper'):
        best, usual = (results.values(f'rotation-{network}', f'{name}/test') for name in ('angle', 'untuned'))
        losses.append(statistics.mean(best) - statistics.mean(usual))
    fine = {run['lr']: run['value'] for run in results.runs('fine-tune-bccd', 'angle/seed0')}
    words = (
        f'0.02 lost {min(losses):.0f} to {max(losses):.0f} points, {max(fine.values()) - fine[0.02]:.0f} in fine-tuning'
    )
    assert words in README.read_text()


CHANGES = """# Changelog

## 0.3.0 (not released yet)

- A line that is
  wrapped; [the page](docs/a.md) and [a site](https://a.b).

## 0.2.0

### Training

- Old.
"""


def test_the_notes_of_a_release_are_what_the_changelog_says_of_it() -> None:
    notes = runpy.run_path(str(DOCS / 'release_notes.py'))['notes']
    assert notes(CHANGES, '0.3.0') == '- A line that is wrapped; the page and [a site](https://a.b).\n'
    assert notes(CHANGES, '0.2.0') == '## Training\n\n- Old.\n'
    with pytest.raises(ValueError, match=re.escape('has no entry of 0.1.0; it has: 0.3.0, 0.2.0')):
        notes(CHANGES, '0.1.0')


def test_the_version_is_the_same_wherever_it_is_written() -> None:
    changelog, citation = ((DOCS.parent / name).read_text() for name in ('CHANGELOG.md', 'CITATION.cff'))
    assert re.findall(r'^## (\S+)', changelog, re.MULTILINE)[0] == __version__
    assert re.findall(r'^version: (\S+)$', citation, re.MULTILINE) == [__version__]
    done = subprocess.run([sys.executable, str(DOCS / 'release_notes.py')], capture_output=True, text=True, check=True)
    assert '## The search' in done.stdout


# Accuracies and the like: two decimals, at least two digits before them.
MEAN = re.compile(r'(?<![\d.,+\-\[])\d\d\.\d\d(?![\d.])')


@pytest.mark.parametrize('name', ['evidence', 'suits', 'why_not_a_sweep'])
def test_a_mean_in_words_is_one_of_the_tables(name: str) -> None:
    tables = '\n'.join(text for of_page in report.pages(report.Results()).values() for text in of_page.values())
    assert [text for text in MEAN.findall(page(name)) if text not in tables] == []
