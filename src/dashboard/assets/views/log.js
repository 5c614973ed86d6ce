/** The operation log: who changed what, with the request and the answer. */

import { post } from '../api.js';
import { el } from '../dom.js';
import { number, when } from '../format.js';
import { t } from '../i18n.js';
import { badge, card, code, field, heading, nothing, pager, select, table } from '../parts.js';
import { tenant, who } from '../session.js';

const PAGE_SIZE = 25;
const TYPES = ['createTask', 'createModel', 'updateModel', 'deleteModel', 'updateTenant', 'runJob', 'updateLogLevel'];

export default {
  title: 'nav.log',
  every: 8,

  async load({ params, signal }) {
    const page = Number(params.get('page')) || 1;
    const success = params.get('success');
    const body = { opType: params.get('type') ?? '', modelName: params.get('model') ?? '', taskId: params.get('id') ?? '', success: success ? Number(success) : undefined, page: { pageNum: page, pageSize: PAGE_SIZE } };
    return { page, ...(await post('opLog/listOpLog', body, signal)) };
  },

  render({ list, total, page }, { params, change }) {
    const link = (to) => {
      const query = new URLSearchParams(params);
      query.set('page', String(to));
      return `#/log?${query}`;
    };
    const choice = (key, options, label) => field(label, select(key, [['', t('any')], ...options], params.get(key) ?? '', (event) => change({ [key]: event.target.value, page: '' })));
    const text = (key, label) => field(label, el('input', { id: `log-${key}`, type: 'search', value: params.get(key) ?? '', onchange: (event) => change({ [key]: event.target.value, page: '' }) }));
    return [
      heading(t('nav.log')),
      who().admin && !tenant() ? el('p.note', {}, t('tenant.own', { tenant: who().tenantId })) : null,
      card(
        '',
        { 'aria-label': t('nav.log') },
        el('div.filters', { role: 'search' }, choice('type', TYPES.map((type) => [type, type]), t('log.type')), choice('success', [['1', t('log.good')], ['0', t('log.bad')]], t('log.success')), text('model', t('log.model')), text('id', t('task.id'))),
        table({ caption: t('nav.log'), rows: list, key: (row) => row.id, columns: columns(), empty: nothing(params.size ? t('log.noneFound') : t('log.none'), el('p', {}, params.size ? t('tasks.loosen') : t('log.none.how'))) }),
      ),
      list.length ? pager({ page, size: PAGE_SIZE, total, shown: list.length }, link) : null,
    ];
  },
};

const columns = () => [
  { label: t('log.at'), kind: 'short', cell: (row) => when(row.createdAt) },
  { label: t('log.type'), kind: 'short', cell: (row) => [el('strong', {}, row.opType), el('span.sub', {}, row.creator)] },
  { label: t('log.success'), cell: (row) => (row.success ? badge(t('log.good'), 'good') : badge(t('log.bad'), 'bad')) },
  { label: t('log.about'), kind: 'wide', cell: (row) => [row.taskId ? el('a', { href: `#/task/${row.taskId}` }, row.modelName || row.taskId) : row.modelName, row.errorMsg && el('span.sub.bad-text', {}, row.errorMsg)] },
  { label: t('log.from'), cell: (row) => [row.ip, el('span.sub.clip', { title: row.userAgent }, row.userAgent)] },
  { label: t('log.cost'), kind: 'num', cell: (row) => `${number(row.costMs)} ms` },
  { label: t('log.details'), kind: 'wide', cell: details },
];

function details(row) {
  const json = (value, label) => (value === null ? null : [el('strong', {}, label), code(JSON.stringify(value, null, 2), label)]);
  return el('details', {}, el('summary', { 'aria-label': `${t('log.show')}: ${row.opType}, ${row.id}` }, t('log.show')), json(row.requestPayload, t('log.request')), json(row.responsePayload, t('log.response')));
}
