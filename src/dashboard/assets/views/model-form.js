/** The form of a model: to register one, or to change one. */

import { post, put } from '../api.js';
import { el, fill } from '../dom.js';
import { t } from '../i18n.js';
import { button, dialog, field, problem, select, toast } from '../parts.js';
import { who, tenant } from '../session.js';

/** Numbers: name, default, least. What each is for stands in `model.<name>` and `model.<name>.hint`. */
const NUMBERS = [
  ['maxConcurrency', 10, 1],
  ['timeoutSeconds', 60, 1],
  ['retryTimes', 0, 0],
  ['queueLimit', 1000, 0],
];
const MORE_NUMBERS = [
  ['retryQueueMaxSeconds', 0, 0],
  ['autoCleanSeconds', 86_400, 0],
  ['totalConcurrency', 0, 0],
];

/** Opens the form of a new model. @param {(id: string) => void} done */
export function createModel(done) {
  open(t('model.create'), {}, async (fields) => {
    const { id } = await post('model/createModel', fields);
    toast(t('model.created', { name: fields.modelName }));
    done(id);
  });
}

/** Opens the form of a model that is there. @param {any} model @param {() => void} done */
export function editModel(model, done) {
  open(t('model.edit', { name: model.modelName }), model, async (fields) => {
    await put('model/updateModel', { id: model.id, tenantId: model.tenantId, ...fields });
    toast(t('model.changed', { name: fields.modelName }));
    done();
  });
}

function open(title, model, save) {
  const trouble = el('div', { 'aria-live': 'assertive' });
  const submit = el('button.primary', { type: 'submit' }, t('do.save'));
  const form = el(
    'form.form',
    {
      novalidate: true,
      onsubmit: async (event) => {
        event.preventDefault();
        clear(form, trouble);
        if (!complete(form)) return;
        submit.disabled = true;
        try {
          await save(read(form));
          node.close();
        } catch (error) {
          submit.disabled = false;
          refuse(form, trouble, error);
        }
      },
    },
    text('modelName', model, { required: true, maxlength: 128, autofocus: true }),
    el('div.form-grid', {}, text('baseUrl', model, { required: true, type: 'url', maxlength: 256, placeholder: 'http://127.0.0.1:5000' }), text('route', model, { maxlength: 256, placeholder: '/v1/speak' })),
    el('div.form-grid', {}, NUMBERS.map((one) => numeric(one, model))),
    text('apiKey', model, { maxlength: 1024, autocomplete: 'off', spellcheck: 'false', placeholder: 'Authorization:Bearer …' }),
    el(
      'details',
      { open: model.id ? true : null },
      el('summary', {}, t('model.more')),
      el(
        'div.form',
        {},
        el('div.form-grid', {}, field(t('model.httpMethod'), select('httpMethod', [['POST', 'POST'], ['GET', 'GET']], model.httpMethod ?? 'POST')), MORE_NUMBERS.map((one) => numeric(one, model))),
        text('remark', model, {}),
        mayShare(model) ? check('shared', model) : null,
      ),
    ),
    trouble,
    el('div.actions.end', {}, button(t('do.cancel'), () => node.close()), submit),
  );
  const node = dialog(title, form);
}

/** Only models of tenant 0 can be shared. */
const mayShare = (model) => (model.tenantId ?? (tenant() || who().tenantId)) === '0';

const text = (name, model, attributes) => field(t(`model.${name}`), el('input', { id: `model-${name}`, name, value: model[name] ?? '', ...attributes }), t(`model.${name}.hint`));

const numeric = ([name, byDefault, min], model) =>
  field(t(`model.${name}`), el('input', { id: `model-${name}`, name, type: 'number', min, step: 1, inputmode: 'numeric', required: true, value: model[name] ?? byDefault }), t(`model.${name}.hint`));

function check(name, model) {
  const control = field(t(`model.${name}`), el('input', { id: `model-${name}`, name, type: 'checkbox', checked: Boolean(model[name]) }), t(`model.${name}.hint`));
  control.classList.add('check');
  control.prepend(control.querySelector('input'));
  return control;
}

/** What the form says, as the API takes it. */
function read(form) {
  return Object.fromEntries(
    [...form.elements].filter((control) => control.name).map((control) => {
      if (control.type === 'checkbox') return [control.name, control.checked];
      return [control.name, control.type === 'number' ? Number(control.value) : control.value.trim()];
    }),
  );
}

/** Marks the first field that the browser finds wanting; the rest is up to the service. */
function complete(form) {
  const wanting = [...form.elements].find((control) => control.name && !control.checkValidity());
  if (wanting) mark(wanting, wanting.validationMessage);
  return !wanting;
}

function mark(control, message) {
  control.closest('details')?.setAttribute('open', '');
  control.setAttribute('aria-invalid', 'true');
  const id = `${control.id}-error`;
  control.setAttribute('aria-errormessage', id);
  control.after(el('span.field-error', { id, role: 'alert' }, message));
  control.focus();
}

function clear(form, trouble) {
  form.querySelectorAll('.field-error').forEach((error) => error.remove());
  form.querySelectorAll('[aria-invalid]').forEach((control) => control.removeAttribute('aria-invalid'));
  fill(trouble);
}

/** Shows a refusal at the field that it is about. */
function refuse(form, trouble, error) {
  const control = error.field && form.elements.namedItem(error.field);
  if (control) mark(control, error.message);
  else fill(trouble, problem(error));
}
