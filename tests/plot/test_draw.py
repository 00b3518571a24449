"""The two renderings of a chart, seen through the libraries' own objects."""

import math

from mmfixnorm.plot.chart import Boundary, Chart, Estimate, HeatMap, Line, Panel, Star
from mmfixnorm.plot.html import draw_html, html_page
from mmfixnorm.plot.png import draw_png, save_svg
from tests.pages import figures_of

GAP = Line('with a gap', [1.0, 2.0, 3.0], [5.5, math.nan, 7.25], colour=1, markers=True)
BAND = Line('banded', [1.0, 2.0, 3.0], [4.0, 5.0, 6.0], band=([3.0, 4.0, 5.0], [5.0, 6.0, 7.0]), steps=True)
PANELS = [
    Panel('epoch', 'above', [BAND, GAP], boundaries=[Boundary(2.0, 'epoch 2')]),
    Panel('epoch', 'below', [GAP], 'titled', stars=[Star('best', 3.0, 7.25)]),
]
STACKED = Chart('two panels', PANELS, 'stacked', ['a <note>'])
NEAR = Estimate('near', 3.0, 60.0, 59.0, 62.0, colour=1, marker=2, filled=False)
FAR = Estimate('far', 5.0, 40.0, 39.0, 41.0)
ESTIMATES = Panel('cost', '', [], 'titled', estimates=[FAR, NEAR], y_range=(55.0, 65.0))
SCAN = Panel('angle', 'lost', [GAP], log_x=True, x_range=(0.1, 100.0))
TASKS = Panel('', 'gain', [], estimates=[NEAR], x_names=['cells', 'streets'])
GRID = Chart('a grid', [ESTIMATES] * 2, 'grid', ['60 [59, 62]'], legend=['near'])
MAP = Chart(
    'a table',
    HeatMap(
        x_title='learning rate',
        y_title='alpha',
        value_title='accuracy',
        columns=['lr = 0.4', 'lr = 1'],
        rows=['α = 0.5', 'α = 1', 'α = 8'],
        values=[[70.0, 75.5], [71.0, math.nan], [60.0, 76.0]],
        texts=[['70.00', '75.50'], ['71.00', 'diverged'], ['60.00', '76.00\n±1']],
        row_best=[1, 0, 1],
        column_best=[1, 2],
        row_best_name='best of the row',
        column_best_name='best of the column',
    ),
)


def numbers(values):
    return [None if v is None or math.isnan(v) else float(v) for v in values]


def test_any_number_of_panels_is_drawn():
    for arrangement in ('grid', 'stacked'):
        chart = Chart('many', [ESTIMATES] * 40, arrangement, [])
        assert len([key for key in draw_html(chart).layout if key.startswith('yaxis')]) >= 40, arrangement


def test_the_png_has_the_lines_axes_and_bands_of_the_chart():
    above, below = draw_png(STACKED).axes
    assert (above.get_ylabel(), below.get_ylabel()) == ('above', 'below')
    assert (above.get_xlabel(), below.get_xlabel()) == ('', 'epoch')  # one x axis, titled at the bottom
    assert below.get_title() == 'titled'
    banded, gap = above.lines[:2]
    assert numbers(banded.get_ydata()) == [4.0, 5.0, 6.0]
    assert banded.get_drawstyle() == 'steps-post'
    assert numbers(gap.get_ydata()) == [5.5, None, 7.25]
    (band,) = above.collections
    corners = band.get_paths()[0].vertices
    assert {(1.0, 3.0), (1.0, 5.0), (3.0, 5.0), (3.0, 7.0)} <= set(map(tuple, corners))
    assert above.lines[2].get_xdata()[0] == 2.0  # the boundary
    assert above.get_position().y0 > below.get_position().y0


def test_a_name_stands_in_the_legend_once():
    above, below = draw_png(STACKED).axes
    assert [t.get_text() for t in above.get_legend().get_texts()] == ['banded', 'with a gap']
    assert [t.get_text() for t in below.get_legend().get_texts()] == ['best']
    named = [trace.name for trace in draw_html(STACKED).data if trace.showlegend is not False]
    assert named == ['banded', 'with a gap', 'best']


def test_the_html_has_the_same_numbers_as_text_and_needs_no_network():
    page = html_page(STACKED)
    (figure,) = figures_of(page)
    data = figure['data']
    lines = [trace['y'] for trace in data if trace.get('legendgroup') == 'with a gap']
    assert lines == [[5.5, None, 7.25]] * 2
    assert [trace['y'] for trace in data if trace.get('fill')] == [[3.0, 4.0, 5.0]]
    assert '<li>a &lt;note&gt;</li>' in page


def test_panels_stand_below_each_other_or_side_by_side():
    side_by_side = Chart('t', PANELS, 'row')
    left, right = draw_png(side_by_side).axes
    assert (left.get_xlabel(), right.get_xlabel()) == ('epoch', 'epoch')
    layout = draw_html(side_by_side).layout
    assert layout.xaxis.domain[1] < layout.xaxis2.domain[0]
    assert layout.yaxis.domain == layout.yaxis2.domain
    layout = draw_html(STACKED).layout
    assert layout.yaxis.domain[0] > layout.yaxis2.domain[1]
    assert (layout.xaxis.title.text, layout.xaxis2.title.text) == (None, 'epoch')


def test_the_heat_map_has_its_first_row_on_top_and_its_cells_written_in():
    axes = draw_png(MAP).axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ['lr = 0.4', 'lr = 1']
    assert [t.get_text() for t in axes.get_yticklabels()] == ['α = 0.5', 'α = 1', 'α = 8']
    bottom, top = axes.get_ylim()
    assert bottom > top  # row 0 at the top
    assert {(*t.get_position(), t.get_text()) for t in axes.texts} >= {(1, 1, 'diverged'), (0, 2, '60.00')}
    rows, columns = (c.get_offsets().tolist() for c in axes.collections)
    assert rows == [[1, 0], [0, 1], [1, 2]]
    assert columns == [[0, 1], [1, 2]]
    ink = {t.get_text(): t.get_color() for t in axes.texts}
    assert (ink['60.00'], ink['diverged'], ink['75.50']) == ('white', 'black', 'black')


def test_the_heat_map_of_the_html_is_the_same():
    figure = draw_html(MAP)
    table, rows, columns = figure.data
    assert [list(row) for row in table.z] == [[70.0, 75.5], [71.0, None], [60.0, 76.0]]
    assert figure.layout.yaxis.autorange == 'reversed'
    assert list(zip(rows.x, rows.y)) == [('lr = 1', 'α = 0.5'), ('lr = 0.4', 'α = 1'), ('lr = 1', 'α = 8')]
    assert list(zip(columns.x, columns.y)) == [('lr = 0.4', 'α = 1'), ('lr = 1', 'α = 8')]
    assert [a.text for a in figure.layout.annotations][-1] == '76.00<br>±1'
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ('learning rate', 'alpha')


def test_an_estimate_has_its_interval_and_one_out_of_view_stands_at_the_edge_with_its_value():
    first, second, legend, *empty = draw_png(GRID).axes
    assert not [axes for axes in empty if axes.axison]
    for axes in (first, second):
        assert axes.get_ylim() == (55.0, 65.0)
        (far,), (near,) = (container.lines[0].get_ydata() for container in axes.containers)
        assert (far, near) == (55.5, 60.0)
        (interval,) = axes.containers[1].lines[2][0].get_segments()
        assert interval.tolist() == [[3.0, 59.0], [3.0, 62.0]]
        assert [text.get_text() for text in axes.texts] == ['↓ 40.0']
    assert [text.get_text() for text in legend.get_legend().get_texts()] == ['near', 'far']


def test_the_html_has_the_same_estimates():
    figure = draw_html(GRID)
    far, near = figure.data[:2]
    assert (near.x, near.y, near.error_y.array, near.error_y.arrayminus) == ((3.0,), (60.0,), (2.0,), (1.0,))
    assert (far.y, near.marker.symbol) == ((55.5,), 'triangle-up-open')
    assert [a.text for a in figure.layout.annotations if '↓' in a.text] == ['↓ 40.0'] * 2
    assert [trace.name for trace in figure.data if trace.showlegend] == ['far', 'near']


def test_an_axis_can_be_logarithmic_with_given_ends_or_name_its_positions():
    chart = Chart('two axes', [SCAN, TASKS])
    scan, tasks = draw_png(chart).axes
    assert (scan.get_xscale(), scan.get_xlim(), tasks.get_xscale()) == ('log', (0.1, 100.0), 'linear')
    assert [(t.get_position()[0], t.get_text()) for t in tasks.get_xticklabels()] == [(0, 'cells'), (1, 'streets')]
    layout = draw_html(chart).layout
    assert (layout.xaxis.type, layout.xaxis.range, layout.xaxis2.type) == ('log', (-1.0, 2.0), None)
    assert (layout.xaxis2.tickvals, layout.xaxis2.ticktext) == ((0, 1), ('cells', 'streets'))


def test_an_svg_says_what_it_shows_and_is_the_same_each_time(tmp_path):
    light, again, dark = (tmp_path / name for name in ('light.svg', 'again.svg', 'dark.svg'))
    for path, ink in ((light, 'light'), (again, 'light'), (dark, 'dark')):
        save_svg(GRID, path, ink)
    assert light.read_bytes() == again.read_bytes() != dark.read_bytes()
    assert '<dc:description>60 [59, 62]</dc:description>' in light.read_text()


def test_the_legend_of_a_full_grid_is_below_it():
    figure = draw_png(Chart('a grid', [ESTIMATES] * 3, 'grid', legend=['near']))
    assert len(figure.axes) == 3
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ['near', 'far']
    figure.draw_without_rendering()
    assert legend.get_window_extent().y1 < min(axes.get_tightbbox().y0 for axes in figure.axes)
