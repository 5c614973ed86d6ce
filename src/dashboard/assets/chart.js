/**
 * Lines over time, drawn by uPlot, with a sentence and a table for those who do not see them.
 */

import { el, fill } from './dom.js';
import { brief, moment } from './format.js';
import { locale, t } from './i18n.js';
import { table } from './parts.js';
import { colour } from './theme.js';

const HEIGHT = 180;
const DAY = 86_400;

/** Steps between the lines of what is counted: there is no half a task. */
const WHOLE = Array.from({ length: 10 }, (_, power) => [1, 2, 5, 25].map((step) => step * 10 ** power)).flat().sort((one, other) => one - other);

/** Most rows of the table under a chart, newest first. */
const MOST_ROWS = 300;

/**
 * @typedef {{title: string, summary: string, at: number[], series: {label: string, colour: string,
 *   values: (number|null)[], filled?: boolean}[], show: (value: number) => string, whole?: boolean}} ChartData
 *   `at` are Unix seconds; `whole` for numbers of things, else values are milliseconds; `colour` is a name of the style sheet
 */

/** A chart that lives in the page: it is drawn when it is there, and again when it changes. */
class TimeChart extends HTMLElement {
  /** @type {ChartData} */
  data;

  connectedCallback() {
    this.canvas = el('div.chart-canvas', { role: 'img' });
    this.rows = el('div', {});
    const asTable = el('details', { ontoggle: () => this.tabulate() }, el('summary', {}, t('chart.table')), this.rows);
    this.details = asTable;
    fill(this, this.canvas, asTable);
    this.watch = new ResizeObserver(() => this.fit());
    this.watch.observe(this);
    this.themed = () => this.redraw();
    addEventListener('themechange', this.themed);
    this.redraw();
  }

  disconnectedCallback() {
    this.watch.disconnect();
    removeEventListener('themechange', this.themed);
    this.plot?.destroy();
    this.plot = null;
  }

  /** Takes newer data. @param {ChartData} data */
  update(data) {
    const sameLines = data.series.length === this.data.series.length && data.series.every((line, index) => line.label === this.data.series[index].label);
    this.data = data;
    if (!sameLines || !this.plot) return this.redraw();
    this.describe();
    this.plot.setData(columns(data));
    this.tabulate();
  }

  redraw() {
    this.plot?.destroy();
    this.describe();
    this.plot = new uPlot(options(this.data, this.clientWidth), columns(this.data), this.canvas);
    this.tabulate();
  }

  describe() {
    this.canvas.setAttribute('aria-label', `${this.data.title}: ${this.data.summary}`);
  }

  fit() {
    if (this.plot && this.clientWidth) this.plot.setSize({ width: this.clientWidth, height: HEIGHT });
  }

  tabulate() {
    if (!this.details.open) return;
    const { at, series, show, title } = this.data;
    const indices = at.map((_, index) => index).reverse().slice(0, MOST_ROWS);
    const column = (line) => ({ label: line.label, kind: 'num', cell: (index) => (line.values[index] === null ? '–' : show(line.values[index])) });
    const time = { label: t('chart.time'), cell: (index) => moment(at[index] * 1000) };
    fill(this.rows, table({ caption: title, columns: [time, ...series.map(column)], rows: indices }));
  }
}

customElements.define('time-chart', TimeChart);

/** A chart for a view. @param {string} key the same for the same chart @param {ChartData} data */
export function chart(key, data) {
  const node = el('time-chart.chart', { 'data-keep': key });
  node.data = data;
  return node;
}

const columns = (data) => [data.at, ...data.series.map((line) => line.values)];

function options(data, width) {
  const [ink, line] = [colour('--faint'), colour('--line')];
  const axis = { stroke: ink, font: '12px system-ui, sans-serif', grid: { stroke: line, width: 1 }, ticks: { show: false } };
  return {
    width: Math.max(width, 240),
    height: HEIGHT,
    padding: [10, 8, 0, 0],
    cursor: { y: false, points: { size: 6 } },
    scales: { y: { range: (_, __, most) => [0, Math.max(most * 1.1, data.whole ? 4 : 1)] } },
    axes: [
      { ...axis, grid: { show: false }, size: 30, space: 64, values: (_, splits, __, ___, step) => splits.map((at) => tick(at, step)) },
      { ...axis, size: 62, space: 34, incrs: data.whole ? WHOLE : undefined, values: (_, splits) => splits.map((value) => (data.whole ? data.show(value) : brief(value))) },
    ],
    series: [
      { label: t('chart.time'), value: (_, at) => (at ? moment(at * 1000) : '–') },
      ...data.series.map((one) => {
        const stroke = colour(one.colour);
        const fillColour = one.filled ? stroke.replace(/^rgb\((.*)\)$/, 'rgba($1, 0.14)') : undefined;
        return { label: one.label, stroke, width: 1.75, fill: fillColour, points: { show: false }, spanGaps: false, value: (_, value) => (value === null || value === undefined ? '–' : data.show(value)) };
      }),
    ],
  };
}

/** A label of the time axis: the day where the steps are days, else the time of day. */
function tick(at, step) {
  const form = step >= DAY ? { day: 'numeric', month: 'short' } : { hour: '2-digit', minute: '2-digit' };
  return new Intl.DateTimeFormat(locale(), form).format(new Date(at * 1000));
}
