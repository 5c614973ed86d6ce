/** What the models did, by day, tenant, creator or model: chart, table, file. */

import { post } from '../api.js';
import { chart } from '../chart.js';
import { csv, save } from '../csv.js';
import { el } from '../dom.js';
import { compact, dayBefore, number, percent, size, span } from '../format.js';
import { t } from '../i18n.js';
import { button, card, field, heading, nothing, table, tile, toast } from '../parts.js';
import { who } from '../session.js';

/** Rows of one question, and how many questions at most: what is more has to be narrowed down. */
const PAGE_SIZE = 1000;
const MOST_PAGES = 10;

const DAY = 86_400_000;
const GROUPS = ['day', 'tenantId', 'creator', 'modelName'];
const COUNTS = ['requestCount', 'successCount', 'failureCount', 'totalSeconds', 'resultBytes'];

/** Most rows of the table on the page; the file has all. */
const MOST_ROWS = 200;

export default {
  title: 'nav.stats',
  every: 60,

  async load({ params, signal }) {
    const ask = { startDay: params.get('from') || dayBefore(29), endDay: params.get('to') || dayBefore(0), modelName: params.get('model') ?? '', creator: params.get('creator') ?? '' };
    const rows = [];
    let total = 0;
    for (let pageNum = 1; pageNum <= MOST_PAGES; pageNum += 1) {
      const page = await post('stat/listModelStat', { ...ask, page: { pageNum, pageSize: PAGE_SIZE } }, signal);
      rows.push(...page.list);
      total = page.total;
      if (rows.length >= total || !page.list.length) break;
    }
    return { rows, total, ask };
  },

  render({ rows, total, ask }, context) {
    const by = GROUPS.includes(context.params.get('by')) ? context.params.get('by') : 'day';
    return [
      heading(t('nav.stats'), rows.length ? button(t('stats.csv'), () => download(rows, ask)) : null),
      card('', { 'aria-label': t('stats.filter') }, filters(ask, context)),
      total > rows.length ? el('p.note.warn', {}, t('stats.tooMany', { shown: number(rows.length), total: number(total) })) : null,
      rows.length
        ? [totals(rows), card(t('stats.calls'), {}, byDay(rows, ask)), card(t('stats.by'), { actions: groups(by, context) }, grouped(rows, by))]
        : card('', {}, nothing(t('stats.none'), el('p', {}, t('stats.none.how')))),
    ];
  },
};

function filters(ask, { params, change }) {
  const day = (key, value, label) => field(label, el('input', { id: `stats-${key}`, type: 'date', value, onchange: (event) => change({ [key]: event.target.value }) }));
  const text = (key, label) => field(label, el('input', { id: `stats-${key}`, type: 'search', value: params.get(key) ?? '', onchange: (event) => change({ [key]: event.target.value }) }));
  return el('div.filters', { role: 'search' }, day('from', ask.startDay, t('stats.from')), day('to', ask.endDay, t('stats.to')), text('model', t('task.model')), text('creator', t('task.creator')));
}

function totals(rows) {
  const sum = rows.reduce(add, empty());
  return el(
    'ul.tiles',
    { 'aria-label': t('stats.totals') },
    tile({ label: t('stats.requestCount'), value: compact(sum.requestCount) }),
    tile({ label: t('stats.successCount'), value: compact(sum.successCount) }),
    tile({ label: t('stats.failureCount'), value: compact(sum.failureCount), note: share(sum), tone: sum.failureCount ? 'bad' : 'neutral' }),
    tile({ label: t('stats.average'), value: average(sum) }),
    tile({ label: t('stats.resultBytes'), value: size(sum.resultBytes) }),
  );
}

const empty = () => Object.fromEntries(COUNTS.map((count) => [count, 0]));

function add(sum, row) {
  COUNTS.forEach((count) => (sum[count] += row[count]));
  return sum;
}

const share = (sum) => (sum.requestCount ? percent(sum.failureCount / sum.requestCount) : '');
const average = (sum) => (sum.requestCount ? span((sum.totalSeconds / sum.requestCount) * 1000) : '–');

/** Sums of the rows that have the same value there, in the order in which those come up. */
function sums(rows, by) {
  const groups = new Map();
  for (const row of rows) groups.set(row[by], add(groups.get(row[by]) ?? empty(), row));
  return [...groups].map(([value, sum]) => ({ value, ...sum }));
}

function byDay(rows, ask) {
  const found = new Map(sums(rows, 'day').map((sum) => [sum.value, sum]));
  const days = [];
  for (let at = Date.parse(ask.startDay); at <= Date.parse(ask.endDay); at += DAY) days.push(new Date(at).toISOString().slice(0, 10));
  const values = (count) => days.map((day) => found.get(day)?.[count] ?? 0);
  const all = rows.reduce(add, empty());
  return chart('stats', {
    title: t('stats.calls'),
    summary: t('chart.endedSum', { good: number(all.successCount), bad: number(all.failureCount) }),
    // The middle of the day, so that no time zone moves it into another.
    at: days.map((day) => Date.parse(day) / 1000 + 43_200),
    series: [
      { label: t('stats.successCount'), colour: '--good', values: values('successCount'), filled: true },
      { label: t('stats.failureCount'), colour: '--bad', values: values('failureCount') },
    ],
    show: compact,
    whole: true,
  });
}

function groups(by, { change }) {
  const shown = GROUPS.filter((group) => group !== 'tenantId' || who().admin);
  const one = (group) => el('button', { type: 'button', 'aria-pressed': String(group === by), onclick: () => change({ by: group === 'day' ? '' : group }) }, t(`stats.${group}`));
  return el('div.choices', { role: 'group', 'aria-label': t('stats.by') }, shown.map(one));
}

function grouped(rows, by) {
  const all = sums(rows, by);
  all.sort((one, other) => (by === 'day' ? other.value.localeCompare(one.value) : other.requestCount - one.requestCount));
  const count = (name, show = number) => ({ label: t(`stats.${name}`), kind: 'num', cell: (sum) => show(sum[name]) });
  return [
    table({
      caption: t('stats.by'),
      rows: all.slice(0, MOST_ROWS),
      key: (sum) => sum.value,
      columns: [
        { label: t(`stats.${by}`), kind: 'wide', cell: (sum) => sum.value || '–' },
        count('requestCount'),
        count('successCount'),
        { label: t('stats.failureCount'), kind: 'num', cell: (sum) => el('span', { class: sum.failureCount ? 'bad-text' : null }, number(sum.failureCount), sum.failureCount ? ` (${share(sum)})` : '') },
        { label: t('stats.average'), kind: 'num', cell: average },
        count('totalSeconds', (seconds) => span(seconds * 1000)),
        count('resultBytes', size),
      ],
    }),
    all.length > MOST_ROWS ? el('p.faint', {}, t('stats.rest', { count: number(all.length - MOST_ROWS) })) : null,
  ];
}

/** Every row, as the API has it, under the API's names. */
function download(rows, ask) {
  const head = ['day', 'tenantId', 'creator', 'modelName', ...COUNTS];
  save(`model-asynch ${ask.startDay} ${ask.endDay}.csv`, csv(head, rows.map((row) => head.map((name) => row[name]))));
  toast(t('stats.saved', { count: number(rows.length) }));
}
