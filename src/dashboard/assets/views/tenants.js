/** Tenants, for admins: what each may use up, and how much of its past is kept. */

import { post } from '../api.js';
import { el, fill } from '../dom.js';
import { number, when } from '../format.js';
import { t } from '../i18n.js';
import { button, card, dialog, field, heading, nothing, pager, problem, table, toast } from '../parts.js';
import { chooseTenant } from '../session.js';

const PAGE_SIZE = 50;

/** The numbers that a tenant or its plan may set; empty leaves it to the plan, or to what holds for all. */
const TERMS = ['requestsPerSecond', 'maxConcurrency', 'keepResults', 'opLogDays'];

export default {
  title: 'nav.tenants',
  every: 15,

  async load({ params, signal }) {
    const page = Number(params.get('page')) || 1;
    return { page, ...(await post('tenant/listTenant', { page: { pageNum: page, pageSize: PAGE_SIZE } }, signal)) };
  },

  render({ list, total, page }, { reload }) {
    return [
      heading(t('nav.tenants'), button(t('tenant.set'), () => edit(null, reload), { class: 'primary' })),
      el('p.lead', {}, t('tenant.lead')),
      card(
        '',
        { 'aria-label': t('nav.tenants') },
        table({
          caption: t('nav.tenants'),
          rows: list,
          key: (tenant) => tenant.tenantId,
          columns: [
            { label: t('tenant.label'), cell: (tenant) => el('strong', {}, tenant.tenantId) },
            { label: t('tenant.plan'), cell: (tenant) => tenant.plan || el('span.faint', {}, '–') },
            ...TERMS.map((term) => ({ label: t(`tenant.${term}`), kind: 'num', cell: (tenant) => inForce(tenant, term) })),
            { label: t('model.updated'), cell: (tenant) => [when(tenant.updatedAt), el('span.sub', {}, tenant.updater)] },
            { label: t('do.actions'), kind: 'acts', cell: (tenant) => el('div.actions', {}, button(t('do.edit'), () => edit(tenant, reload), { class: 'small', 'aria-label': `${t('do.edit')}: ${tenant.tenantId}` }), button(t('tenant.look'), () => look(tenant), { class: 'small', 'aria-label': `${t('tenant.look')}: ${tenant.tenantId}` })) },
          ],
          empty: nothing(t('tenant.none'), el('p', {}, t('tenant.none.how'))),
        }),
      ),
      total > PAGE_SIZE ? pager({ page, size: PAGE_SIZE, total, shown: list.length }, (to) => `#/tenants?page=${to}`) : null,
    ];
  },
};

/** What counts for it; in bold where the tenant has it of its own. */
function inForce(tenant, term) {
  const value = tenant.inForce?.[term] ?? tenant[term];
  const text = value ? number(value) : t('tenant.unlimited');
  return tenant[term] === null || tenant[term] === undefined ? el('span', {}, text) : el('strong', {}, text);
}

/** Shows the service as that tenant's admin sees it. */
function look({ tenantId }) {
  chooseTenant(tenantId);
  document.getElementById('tenant').value = tenantId;
  location.hash = '#/overview';
}

function edit(tenant, reload) {
  const trouble = el('div', { 'aria-live': 'assertive' });
  const input = (name, attributes) => field(t(`tenant.${name}`), el('input', { id: `tenant-${name}`, name, ...attributes }), attributes.hint && t(attributes.hint));
  const submit = el('button.primary', { type: 'submit' }, t('do.save'));
  const onsubmit = async (event) => {
    event.preventDefault();
    submit.disabled = true;
    try {
      await post('tenant/updateTenant', read(event.target, tenant));
      node.close();
      toast(t('tenant.saved'));
      reload();
    } catch (error) {
      submit.disabled = false;
      fill(trouble, problem(error));
    }
  };
  const form = el(
    'form.form',
    { onsubmit },
    tenant ? null : input('tenantId', { required: true, pattern: '-?[0-9]+', inputmode: 'numeric', autofocus: true, hint: 'tenant.tenantId.hint' }),
    input('plan', { maxlength: 64, value: tenant?.plan ?? '', autofocus: Boolean(tenant), hint: 'tenant.plan.hint' }),
    el('div.form-grid', {}, TERMS.map((term) => input(term, { type: 'number', min: 0, step: 1, value: tenant?.[term] ?? '', placeholder: t('tenant.byPlan'), hint: `tenant.${term}.hint` }))),
    trouble,
    el('div.actions.end', {}, button(t('do.cancel'), () => node.close()), submit),
  );
  const node = dialog(tenant ? t('tenant.edit', { tenant: tenant.tenantId }) : t('tenant.set'), form);
}

/** Everything that can be set; what is empty is left to the plan. */
function read(form, tenant) {
  const value = (name) => form.elements.namedItem(name).value.trim();
  const terms = TERMS.map((term) => [term, value(term) === '' ? null : Number(value(term))]);
  return { tenantId: tenant?.tenantId ?? value('tenantId'), plan: value('plan') || null, ...Object.fromEntries(terms) };
}
