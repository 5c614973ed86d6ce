/** The way in: asks for a token where one would help, and says what would where it would not. */

import { el, fill } from '../dom.js';
import { t } from '../i18n.js';
import { field, problem } from '../parts.js';
import * as session from '../session.js';

/**
 * @param {import('../api.js').Failure} refused why the caller is not known
 * @param {() => void} done shows the page
 */
export function signIn(refused, done) {
  if (!refused.bearer) {
    return el('main.narrow', {}, el('h1', { tabindex: -1 }, 'model-asynch'), el('p', {}, t('sign.gateway')), problem(refused, () => done()));
  }
  const input = el('input', { id: 'token', name: 'token', type: 'password', autocomplete: 'current-password', required: true, spellcheck: 'false' });
  const trouble = el('div', { 'aria-live': 'assertive' });
  const submit = el('button.primary', { type: 'submit' }, t('sign.in'));
  if (session.signedIn()) fill(trouble, el('p.field-error', {}, t('sign.ended')));
  const onsubmit = async (event) => {
    event.preventDefault();
    submit.disabled = true;
    try {
      await session.signIn(input.value.trim());
      done();
    } catch (error) {
      submit.disabled = false;
      fill(trouble, error.status === 401 ? el('p.field-error', {}, `${t('sign.refused')} ${error.message}`) : problem(error));
      input.focus();
    }
  };
  return el(
    'main.narrow.card',
    {},
    el('h1', {}, 'model-asynch'),
    el('p', {}, t('sign.token')),
    el('form.form', { onsubmit }, field(t('sign.label'), input, t('sign.hint')), trouble, submit),
  );
}
