/** The models: register, change, pause, test, delete. */

import { get, post, put } from '../api.js';
import { curlPost } from '../curl.js';
import { el } from '../dom.js';
import { number, when } from '../format.js';
import { t } from '../i18n.js';
import { badge, button, card, code, confirm, heading, load, nothing, pager, table, toast } from '../parts.js';
import { may, tenant, who } from '../session.js';
import { createModel, editModel } from './model-form.js';
import { testCall } from './test-call.js';

const PAGE_SIZE = 50;

export default {
  title: 'nav.models',
  every: 5,

  async load({ params, signal }) {
    const page = Number(params.get('page')) || 1;
    const [models, overview] = await Promise.all([
      post('model/listModel', { modelName: params.get('model') ?? '', page: { pageNum: page, pageSize: PAGE_SIZE } }, signal),
      may('stat:read') ? post('stat/getOverview', { tenantId: tenant() || who().tenantId }, signal).catch(() => null) : null,
    ]);
    return { ...models, page, loads: new Map(overview?.models.map((model) => [model.modelId, model])) };
  },

  render(data, context) {
    const create = button(t('model.create'), () => createModel(context.reload), { class: 'primary' });
    const filtered = context.params.get('model');
    return [
      heading(t('nav.models'), search(context), create),
      who().admin && !tenant() ? el('p.note', {}, t('tenant.own', { tenant: who().tenantId })) : null,
      card('', { 'aria-label': t('nav.models') }, list(data, context, filtered)),
      data.total > PAGE_SIZE ? pager({ page: data.page, size: PAGE_SIZE, total: data.total, shown: data.list.length }, (page) => `#/models?page=${page}${filtered ? `&model=${encodeURIComponent(filtered)}` : ''}`) : null,
    ];
  },
};

function search({ params, change }) {
  return el('input', { type: 'search', name: 'model', 'aria-label': t('model.search'), placeholder: t('model.search'), value: params.get('model') ?? '', oninput: (event) => change({ model: event.target.value, page: '' }) });
}

function list(data, context, filtered) {
  return table({
    caption: t('nav.models'),
    rows: data.list,
    key: (model) => model.id,
    columns: [
      { label: t('model.modelName'), kind: 'wide', cell: (model) => [el('strong', {}, model.modelName), el('span.sub', {}, `${model.httpMethod} ${joined(model)}`), model.remark && el('span.sub', {}, model.remark)] },
      { label: t('model.state'), cell: (model) => [model.enabled ? badge(t('model.enabled'), 'good') : badge(t('model.paused'), 'warn'), model.shared ? el('span.sub', {}, t('model.sharedNow')) : null] },
      { label: t('overview.running'), cell: (model) => load(data.loads.get(model.id)?.running ?? 0, model.maxConcurrency, t('model.load', { name: model.modelName })) },
      { label: t('overview.queued'), kind: 'num', cell: (model) => queued(data.loads.get(model.id), model) },
      { label: t('model.timeoutSeconds'), kind: 'num', cell: (model) => `${number(model.timeoutSeconds)} s` },
      { label: t('model.retryTimes'), kind: 'num', cell: (model) => number(model.retryTimes) },
      { label: t('model.updated'), cell: (model) => [when(model.updatedAt), el('span.sub', {}, model.updater)] },
      { label: t('do.actions'), kind: 'acts', cell: (model) => actions(model, context) },
    ],
    empty: filtered ? nothing(t('model.noneFound'), el('p', {}, t('tasks.loosen'))) : first(),
  });
}

function first() {
  const body = '{"modelName":"tts","baseUrl":"http://127.0.0.1:5000","route":"/synthesize","maxConcurrency":2}';
  return nothing(t('model.none'), el('p', {}, t('model.none.how')), code(curlPost('model/createModel', body), t('welcome.curl')));
}

const joined = (model) => (model.route ? `${model.baseUrl.replace(/\/$/, '')}/${model.route.replace(/^\//, '')}` : model.baseUrl);

function queued(numbers, model) {
  if (!numbers) return '–';
  const waiting = number(numbers.queued + numbers.resting);
  return el('a', { href: `#/tasks?state=0&model=${encodeURIComponent(model.modelName)}`, 'aria-label': `${t('overview.queued')}: ${waiting}` }, waiting);
}

function actions(model, { reload }) {
  const label = (text) => ({ class: 'small', 'aria-label': `${text}: ${model.modelName}` });
  const act = (key, onclick) => button(t(key), onclick, label(t(key)));
  return el(
    'div.actions',
    {},
    act('do.test', () => testCall(model)),
    act('do.edit', () => edit(model, reload)),
    model.enabled ? act('do.pause', () => toggle(model, 0, reload)) : act('do.resume', () => toggle(model, 1, reload)),
    act('do.delete', () => remove(model, reload)),
  );
}

/** The form shows the model as it is now, not as the list had it. */
async function edit(model, reload) {
  try {
    editModel(await get('model/getModel', { id: model.id, tenantId: model.tenantId }), reload);
  } catch (error) {
    toast(error.message, 'bad');
  }
}

async function toggle(model, enabled, reload) {
  try {
    await put('model/updateModel', { id: model.id, tenantId: model.tenantId, enabled });
    toast(t(enabled ? 'model.resumedNow' : 'model.pausedNow', { name: model.modelName }));
  } catch (error) {
    toast(error.message, 'bad');
  }
  reload();
}

function remove(model, reload) {
  confirm({ title: t('model.delete', { name: model.modelName }), text: t('model.delete.text'), yes: t('do.delete') }, async () => {
    await post('model/deleteModel', { id: model.id, tenantId: model.tenantId });
    toast(t('model.deleted', { name: model.modelName }));
    reload();
  });
}
