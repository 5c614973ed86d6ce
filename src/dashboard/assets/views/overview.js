/** How the service is doing: numbers of now, lines over time, models with load, what failed last. */

import { post } from '../api.js';
import { chart } from '../chart.js';
import { curlPost } from '../curl.js';
import { el } from '../dom.js';
import { compact, number, percent, rough, shortId, since, span, when } from '../format.js';
import { t } from '../i18n.js';
import { badge, card, code, heading, load, nothing, problem, table, tile } from '../parts.js';
import { may, tenant, who } from '../session.js';
import { createModel } from './model-form.js';
import { alertLine } from './alerts.js';

/** What can be looked back on: minutes, and seconds of one step. */
const RANGES = { hour: [60, 60], day: [1440, 300], week: [10_080, 3600], month: [43_200, 3600] };

/** Rows of a list that is an extract. */
const FEW = 6;

/** Longer ranges change slowly and cost more: they are asked for again after so many milliseconds. */
const KEPT = { hour: 0, day: 15_000, week: 60_000, month: 60_000 };

let kept = { key: '', at: 0, series: null };

export default {
  title: 'nav.overview',
  every: 4,

  async load({ params, signal }) {
    const range = rangeOf(params);
    const [overview, series, failures, alerts] = await Promise.all([
      post('stat/getOverview', {}, signal),
      part(seriesOf(range, signal)),
      part(may('task:read') ? post('task/listTask', { state: 3, page: { pageSize: FEW } }, signal) : null),
      part(post('monitor/listAlert', { open: true, page: { pageSize: FEW } }, signal)),
    ]);
    return { overview, series, failures, alerts, range };
  },

  render(data, context) {
    const { overview, range } = data;
    const head = heading(t('nav.overview'), overview.models.length ? ranges(range, context) : null);
    if (!overview.models.length) return [head, welcome(context)];
    return [
      head,
      alertsOf(data.alerts),
      tiles(data),
      data.series.error ? problem(data.series.error) : charts(data.series.data, range),
      el('div.pair', {}, failuresOf(data), modelsOf(overview)),
    ];
  },
};

/** The answer, or why there is none: one part that fails leaves the others. */
async function part(question) {
  try {
    return { data: await question };
  } catch (error) {
    if (error.status === 401 || !error.status) throw error;
    return { error };
  }
}

const rangeOf = (params) => (params.get('range') in RANGES ? params.get('range') : 'hour');

async function seriesOf(range, signal) {
  const key = `${range} ${tenant()}`;
  if (kept.key === key && Date.now() - kept.at < KEPT[range]) return kept.series;
  const [minutes, stepSeconds] = RANGES[range];
  const series = await post('stat/listSeries', { minutes, stepSeconds, byModel: true }, signal);
  kept = { key, at: Date.now(), series };
  return series;
}

function ranges(range, { change }) {
  const one = (name) => el('button', { type: 'button', 'aria-pressed': String(name === range), onclick: () => change({ range: name === 'hour' ? '' : name }) }, t(`range.${name}`));
  return el('div.choices', { role: 'group', 'aria-label': t('range.label') }, Object.keys(RANGES).map(one));
}

/** Nobody has registered a model yet: what to do, in order. */
function welcome({ reload }) {
  const model = '{"modelName":"tts","baseUrl":"http://127.0.0.1:5000","route":"/synthesize","maxConcurrency":2}';
  const task = '{"modelName":"tts","requestPayload":{"text":"Good morning."}}';
  return card(
    t('welcome.title'),
    {},
    el('p.lead', {}, t('welcome.lead')),
    el(
      'ol.steps',
      {},
      el('li', {}, el('h3', {}, t('welcome.model')), el('p', {}, t('welcome.model.how')), may('model:write') ? el('button.primary', { type: 'button', onclick: () => createModel(reload) }, t('model.create')) : null, el('details', {}, el('summary', {}, t('welcome.curl')), code(curlPost('model/createModel', model), t('welcome.curl')))),
      el('li', {}, el('h3', {}, t('welcome.test')), el('p', {}, t('welcome.test.how'))),
      el('li', {}, el('h3', {}, t('welcome.service')), el('p', {}, t('welcome.service.how')), code(curlPost('task/createTask', task), t('welcome.service'))),
    ),
  );
}

function alertsOf({ data }) {
  if (!data?.list.length) return null;
  return card(t('alerts.open', { count: data.total ?? data.list.length }), { class: 'card alarm', 'aria-label': t('alerts.title') }, el('ul.form', {}, data.list.map(alertLine)));
}

function tiles({ overview, series, range }) {
  const sum = series.data?.sum ?? {};
  const over = (sum.succeeded ?? 0) + (sum.failed ?? 0);
  const minutes = RANGES[range][0];
  const oldest = since(overview.oldestEnqueueAt);
  // Nothing ran, so there was no time to measure.
  const measured = (name) => span(sum.calls ? Math.round(sum[name]) : null);
  const most = (p95) => t('overview.p95', { span: measured(p95) });
  const period = t(`range.${range}`);
  return el(
    'ul.tiles',
    { 'aria-label': t('overview.numbers') },
    tile({ label: t('overview.queued'), value: compact(overview.queued), note: oldest === null ? t('overview.nothingWaits') : t('overview.oldest', { age: span(oldest) }), href: '#/lanes' }),
    tile({ label: t('overview.running'), value: `${number(overview.running)} / ${number(overview.limit)}`, note: overview.uploading ? t('overview.uploading', { count: number(overview.uploading) }) : overview.resting ? t('overview.resting', { count: number(overview.resting) }) : t('overview.fullLanes', { count: number(overview.fullLanes) }), href: '#/lanes' }),
    tile({ label: t('overview.done'), value: compact(sum.succeeded ?? 0), note: t('overview.perMinute', { rate: rough((sum.succeeded ?? 0) / minutes) }), href: '#/tasks?state=2' }),
    tile({ label: t('overview.failed'), value: compact(sum.failed ?? 0), note: over ? t('overview.share', { share: percent((sum.failed ?? 0) / over), period }) : period, tone: sum.failed ? 'bad' : 'neutral', href: '#/tasks?state=3' }),
    tile({ label: t('overview.wait'), value: measured('waitP50Ms'), note: most('waitP95Ms') }),
    tile({ label: t('overview.run'), value: measured('runP50Ms'), note: most('runP95Ms') }),
  );
}

function charts({ list: steps, sum, stepSeconds }, range) {
  // The last step has only begun, and would look like a slump.
  const list = steps.slice(0, -1);
  const at = list.map((point) => new Date(point.at).getTime() / 1000);
  // Nothing ran, so there was no time to measure.
  const values = (name) => list.map((point) => (name.endsWith('Ms') ? point[name] || null : point[name]));
  const line = (label, colour, name, filled = false) => ({ label, colour, values: values(name), filled });
  const figure = (key, title, summary, series, show) => card(title, {}, chart(`${key}-${range}`, { title, summary, at, series, show, whole: show === compact }));
  const times = (which) => t('chart.times', { p50: span(sum[`${which}P50Ms`]), p95: span(sum[`${which}P95Ms`]) });
  return el(
    'div.trio',
    {},
    figure('ended', t('chart.ended', { step: t(`step.${stepSeconds}`) }), t('chart.endedSum', { good: number(sum.succeeded), bad: number(sum.failed) }), [line(t('state.2'), '--good', 'succeeded', true), line(t('state.3'), '--bad', 'failed')], compact),
    figure('wait', t('chart.wait'), times('wait'), [line('p50', '--accent', 'waitP50Ms'), line('p95', '--warn', 'waitP95Ms')], span),
    figure('run', t('chart.run'), times('run'), [line('p50', '--accent', 'runP50Ms'), line('p95', '--warn', 'runP95Ms')], span),
  );
}

function failuresOf({ failures: { data, error }, series }) {
  const all = el('a', { href: '#/tasks?state=3' }, t('overview.allFailed'));
  const body = error
    ? problem(error)
    : table({
        caption: t('overview.failures'),
        rows: data?.list ?? [],
        key: (task) => task.taskId,
        columns: [
          { label: t('task.task'), kind: 'short', cell: (task) => [el('a.mono', { href: `#/task/${task.taskId}`, title: task.taskId }, shortId(task.taskId)), el('span.sub', {}, when(task.finishedAt ?? task.createdAt))] },
          { label: t('task.model'), cell: (task) => task.modelName },
          { label: t('task.reason'), kind: 'wide', cell: (task) => el('span.clip', { title: task.errorMsg }, task.errorMsg) },
        ],
        empty: nothing(t('overview.noFailures')),
      });
  return card(t('overview.failures'), { actions: data?.total ? all : null }, body, elsewhere(series.data));
}

/** An admin who chose no tenant sees its own tasks, and where else tasks failed. */
function elsewhere(series) {
  const own = who().tenantId;
  const failing = (who().admin && !tenant() ? series?.models ?? [] : []).filter((model) => model.failed > 0 && model.tenantId !== own);
  if (!failing.length) return null;
  failing.sort((one, other) => other.failed - one.failed);
  const link = (model) => `#/tasks?state=3&tenant=${model.tenantId}&model=${encodeURIComponent(model.modelName)}`;
  const line = (model) => el('li', {}, el('a', { href: link(model) }, t('overview.failedThere', { tenant: model.tenantId, model: model.modelName, count: number(model.failed) })));
  return el('div', {}, el('h3', {}, t('overview.elsewhere')), el('ul', {}, failing.slice(0, FEW).map(line)));
}

function modelsOf(overview) {
  const name = (model) => [
    el('a', { href: `#/tasks?model=${encodeURIComponent(model.modelName)}&tenant=${model.tenantId}` }, model.modelName),
    el('span.sub', {}, t('who.of', { tenant: model.tenantId }), model.shared ? ` · ${t('model.sharedNow')}` : ''),
  ];
  return card(
    t('overview.models'),
    { actions: el('a', { href: '#/models' }, t('overview.allModels')) },
    table({
      caption: t('overview.models'),
      rows: overview.models.slice(0, 12),
      key: (model) => `${model.tenantId}-${model.modelId}`,
      columns: [
        { label: t('task.model'), kind: 'wide', cell: name },
        { label: t('overview.running'), cell: (model) => (model.enabled ? load(model.running, model.limit, t('model.load', { name: model.modelName })) : badge(t('model.paused'))) },
        { label: t('overview.queued'), kind: 'num', cell: (model) => number(model.queued + model.resting) },
        { label: t('lane.oldest'), kind: 'num', cell: (model) => span(since(model.oldestEnqueueAt)) },
      ],
    }),
  );
}
