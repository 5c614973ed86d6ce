/** The tasks: found by state, model, id, who made them and when. */

import { post } from '../api.js';
import { el } from '../dom.js';
import { between, number, shortId, size, span, when } from '../format.js';
import { t } from '../i18n.js';
import { button, card, field, heading, nothing, pager, select, table } from '../parts.js';
import { tenant, who } from '../session.js';
import { STATE, hasResult, stateBadge, stateOptions } from '../states.js';

const PAGE_SIZE = 25;

/** Filters as the address has them, and as the API calls them. */
const FILTERS = { state: 'state', model: 'modelName', id: 'taskId', biz: 'bizName', creator: 'creator', from: 'createdFrom', to: 'createdTo' };

/** A whole id of a task. */
const WHOLE_ID = /^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$/i;

/** Milliseconds without a key before a filter is asked for. */
const TYPING = 300;
let typing = 0;

export default {
  title: 'nav.tasks',
  every: 4,

  async load({ params, signal }) {
    const page = Number(params.get('page')) || 1;
    const body = { page: { pageNum: page, pageSize: PAGE_SIZE } };
    for (const [key, name] of Object.entries(FILTERS)) {
      const value = params.get(key)?.trim();
      if (value) body[name] = asked(key, value);
    }
    return { page, ...(await post('task/listTask', body, signal)) };
  },

  render(data, { params, change }) {
    const filtered = Object.keys(FILTERS).some((key) => params.get(key));
    const link = (to) => {
      const query = new URLSearchParams(params);
      query.set('page', String(to));
      return `#/tasks?${query}`;
    };
    return [
      heading(t('nav.tasks'), filtered ? button(t('tasks.clear'), () => clear(change)) : null),
      who().admin && !tenant() ? el('p.note', {}, t('tenant.own', { tenant: who().tenantId })) : null,
      card('', { 'aria-label': t('nav.tasks') }, filters(params, change), list(data.list, filtered)),
      data.list.length ? pager({ page: data.page, size: PAGE_SIZE, total: data.total, atLeast: data.totalIsAtLeast, shown: data.list.length }, link) : null,
    ];
  },
};

/** Shows all; the focus goes on at the first filter, since the button that had it goes. */
function clear(change) {
  change(Object.fromEntries([...Object.keys(FILTERS), 'page'].map((key) => [key, ''])));
  document.getElementById('field-state').focus();
}

/** A filter as the API takes it: numbers as such, local times in UTC. */
function asked(key, value) {
  if (key === 'state') return Number(value);
  if (key === 'from' || key === 'to') return new Date(value).toISOString();
  return value;
}

function filters(params, change) {
  const later = (values) => {
    clearTimeout(typing);
    typing = setTimeout(() => change({ ...values, page: '' }), TYPING);
  };
  const text = (key, label, attributes = {}) => field(label, el('input', { id: `filter-${key}`, type: 'search', autocomplete: 'off', spellcheck: 'false', value: params.get(key) ?? '', oninput: (event) => later({ [key]: event.target.value }), ...attributes }));
  const time = (key, label) => {
    const control = field(label, el('input', { id: `filter-${key}`, type: 'datetime-local', value: params.get(key) ?? '', onchange: (event) => change({ [key]: event.target.value, page: '' }) }));
    control.classList.add('wide');
    return control;
  };
  return el(
    'div.filters',
    { role: 'search' },
    field(t('task.state'), select('state', [['', t('any')], ...stateOptions()], params.get('state') ?? '', (event) => change({ state: event.target.value, page: '' }))),
    text('model', t('task.model')),
    text('id', t('task.id'), { oninput: (event) => {
      const id = event.target.value.trim();
      if (WHOLE_ID.test(id)) location.hash = `#/task/${id}`;
      else later({ id });
    } }),
    text('creator', t('task.creator')),
    text('biz', t('task.biz')),
    time('from', t('task.from')),
    time('to', t('task.to')),
  );
}

function list(tasks, filtered) {
  return table({
    caption: t('nav.tasks'),
    rows: tasks,
    key: (task) => task.taskId,
    columns: [
      { label: t('task.state'), kind: 'short', cell: stateBadge },
      { label: t('task.task'), kind: 'short', cell: (task) => [el('a.mono', { href: `#/task/${task.taskId}`, title: task.taskId }, shortId(task.taskId)), task.bizName && el('span.sub', {}, task.bizName)] },
      { label: t('task.model'), cell: (task) => task.modelName },
      { label: t('task.creator'), cell: (task) => task.creator },
      { label: t('task.created'), kind: 'short', cell: (task) => when(task.createdAt) },
      { label: t('task.took'), kind: 'num', cell: (task) => span(between(task.startedAt, task.finishedAt)) },
      { label: t('task.retries'), kind: 'num', cell: (task) => number(task.retryCount) },
      { label: t('task.outcome'), kind: 'wide', cell: outcome },
    ],
    empty: filtered ? nothing(t('tasks.noneFound'), el('p', {}, t('tasks.loosen'))) : nothing(t('tasks.none'), el('p', {}, t('tasks.none.how')), el('a.button.primary', { href: '#/models' }, t('nav.models'))),
  });
}

function outcome(task) {
  if (task.errorMsg && task.state !== STATE.pickedUp && task.state !== STATE.succeeded) return el('span.clip', { title: task.errorMsg, class: task.state === STATE.failed ? 'clip bad-text' : 'clip' }, task.errorMsg);
  return hasResult(task) ? el('span.num', {}, `${task.fileType} · ${size(task.fileSize)}`) : el('span.faint', {}, '–');
}
