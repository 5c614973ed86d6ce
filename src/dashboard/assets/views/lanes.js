/** The lanes: one tenant's queue for one model each. Who waits, who is full, and why. */

import { post } from '../api.js';
import { el } from '../dom.js';
import { clock, number, since, span } from '../format.js';
import { t } from '../i18n.js';
import { card, field, heading, load, nothing, pager, select, table } from '../parts.js';
import { who } from '../session.js';
import { laneBadge, laneOptions, laneReason } from '../states.js';

const PAGE_SIZE = 50;

export default {
  title: 'nav.lanes',
  every: 3,

  async load({ params, signal }) {
    const page = Number(params.get('page')) || 1;
    const filters = { modelName: params.get('model') ?? '', status: params.get('status') ?? '' };
    return { page, ...(await post('stat/listLane', { ...filters, page: { pageNum: page, pageSize: PAGE_SIZE } }, signal)) };
  },

  render({ list, total, takenAt, page }, { params, change }) {
    const link = (to) => {
      const query = new URLSearchParams(params);
      query.set('page', String(to));
      return `#/lanes?${query}`;
    };
    return [
      heading(t('nav.lanes')),
      el('p.lead', {}, t('lanes.lead')),
      card(
        '',
        { 'aria-label': t('nav.lanes') },
        el(
          'div.filters',
          { role: 'search' },
          field(t('task.model'), el('input', { id: 'lane-model', type: 'search', value: params.get('model') ?? '', oninput: (event) => change({ model: event.target.value, page: '' }) })),
          field(t('lane.status'), select('status', [['', t('any')], ...laneOptions()], params.get('status') ?? '', (event) => change({ status: event.target.value, page: '' }))),
        ),
        table({ caption: t('nav.lanes'), rows: list, key: (lane) => `${lane.tenantId}-${lane.modelId}`, columns: columns(), empty: nothing(params.size ? t('lanes.noneFound') : t('lanes.none'), el('p', {}, params.size ? t('tasks.loosen') : t('lanes.none.how'))) }),
      ),
      list.length ? pager({ page, size: PAGE_SIZE, total, shown: list.length }, link) : null,
      el('p.faint', {}, t('lanes.taken', { time: clock(takenAt) })),
    ];
  },
};

function columns() {
  const tasks = (lane, state) => `#/tasks?state=${state}&model=${encodeURIComponent(lane.modelName)}${who().admin ? `&tenant=${lane.tenantId}` : ''}`;
  return [
    { label: t('lane.lane'), kind: 'wide', cell: (lane) => [el('strong', {}, lane.modelName), el('span.sub', {}, t('who.of', { tenant: lane.tenantId }))] },
    { label: t('lane.status'), cell: (lane) => laneBadge(lane.status) },
    { label: t('overview.running'), cell: (lane) => [load(lane.running, lane.limit, t('model.load', { name: lane.modelName })), lane.uploading ? el('span.sub', {}, t('overview.uploading', { count: number(lane.uploading) })) : null] },
    { label: t('overview.queued'), kind: 'num', cell: (lane) => [el('a', { href: tasks(lane, 0), 'aria-label': `${t('overview.queued')}: ${number(lane.queued)}` }, number(lane.queued)), lane.queueLimit ? el('span.sub', {}, t('lane.ofLimit', { limit: number(lane.queueLimit) })) : null] },
    { label: t('lane.resting'), kind: 'num', cell: (lane) => number(lane.resting) },
    { label: t('lane.oldest'), kind: 'num', cell: (lane) => span(since(lane.oldestEnqueueAt)) },
    { label: t('lane.why'), kind: 'wide', cell: (lane) => [el('span', { title: lane.reason }, laneReason(lane)), lane.status === 'stalled' ? el('span.sub', { lang: 'en' }, lane.reason) : null] },
  ];
}
