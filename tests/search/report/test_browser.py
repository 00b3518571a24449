"""The report in a real headless Chromium, without a network."""

import json
import re

import pytest

from mmfixnorm.plot.chart import Chart, Line, Panel
from mmfixnorm.plot.html import html_page
from mmfixnorm.search.report import write_report
from tests.search.report.browser import needs_chromium, render

pytestmark = [needs_chromium, pytest.mark.slow]


@pytest.fixture
def report(make_search):
    """The report of a whole search, with validation curves and logs that a careless page would run."""
    search = make_search()
    search.run('diverge-high', workers=4)
    problem = search.problem()
    for row in search.record().attempts:
        folder = problem.trial_dir(row.spec.key)
        (folder / 'curve.jsonl').write_text(''.join(f'{json.dumps([e, 60.0 + e])}\n' for e in range(1, 11)))
        (folder / 'log.txt').write_text(f'log of {row.spec.key} </pre><script>throw Error("from the log")</script>\n')
    return write_report(problem, search.record()).report


def test_it_renders_without_an_error_and_shows_the_numbers_of_the_study(report, tmp_path):
    dom, console = render(report, tmp_path / 'profile')
    assert console == []
    # The figures are drawn: lr by round, alpha, progress, validations.
    assert len(re.findall('class="[^"]*js-plotly-plot', dom)) == 4
    assert dom.count('class="trace scatter') >= 2 + 1 + 1 + 3
    assert 'winner: lr 1.1, alpha 4: accuracy/top1 90 (11 of 11 T_max' in dom
    keys = [f'r{r}-k{k}' for r in (0, 1) for k in range(5)] + [f'alpha-{i}' for i in range(1, 6)]
    assert re.findall(r'<tr[^>]*><td>([a-z0-9]+-k?\d)</td>', dom) == keys
    assert all(f'log of {key} &lt;/pre&gt;&lt;script&gt;' in dom for key in keys)


def test_every_mistake_of_a_page_is_noticed(report, tmp_path):
    mistakes = ('throw new Error("thrown")', 'console.error("told")', 'fetch("https://example.org/asked-for")')
    scripts = ''.join(f'<script>{mistake}</script>' for mistake in mistakes)
    page = tmp_path / 'broken.html'
    page.write_text(report.read_text().replace('</body>', f'{scripts}</body>'))
    console = '\n'.join(render(page, tmp_path / 'profile').console)
    assert all(word in console for word in ('thrown', 'told', 'fetch'))


def test_the_page_of_an_analysis_tool_renders_too(tmp_path):
    chart = Chart('two panels', [Panel('epoch', 'y', [Line('a line', [1, 2], [3, 4])])] * 2, notes=['a <note>'])
    page = tmp_path / 'chart.html'
    page.write_text(html_page(chart))
    dom, console = render(page, tmp_path / 'profile')
    assert console == []
    assert dom.count('class="trace scatter') == 2
    assert '<li>a &lt;note&gt;</li>' in dom
