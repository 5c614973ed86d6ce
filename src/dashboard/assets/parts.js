/**
 * What views are built from: tables, tiles, badges, notices, dialogs, toasts.
 */

import { el, fill } from './dom.js';
import { number } from './format.js';
import { t } from './i18n.js';

/** @typedef {'neutral'|'info'|'good'|'warn'|'bad'} Tone */

/** A word with a dot whose colour repeats it. @param {string} text @param {Tone} tone */
export const badge = (text, tone = 'neutral') => el(`span.badge.${tone}`, {}, text);

/** The heading of a page with what can be done there. @param {string} title @param {...import('./dom.js').Child} actions */
export function heading(title, ...actions) {
  return el('div.heading', {}, el('h1', { id: 'title', tabindex: -1 }, title), el('div.actions', {}, actions));
}

/** A framed part with a heading of its own. @param {string} title @param {any} attributes @param {...import('./dom.js').Child} children */
export function card(title, attributes = {}, ...children) {
  const { actions, ...rest } = attributes;
  const head = title && el('div.card-head', {}, el('h2', {}, title), actions && el('div.actions', {}, actions));
  return el('section.card', rest, head, children);
}

/** A number worth a look, with what it is and what else to know. */
export function tile({ label, value, note, tone = 'neutral', href }) {
  const inside = [el('span.tile-label', {}, label), el('span.tile-value', {}, value), el('span.tile-note', {}, note ?? '\u00a0')];
  return el(`li.tile.${tone}`, {}, href ? el('a', { href }, inside) : el('div', {}, inside));
}

/** How much of a limit is used. @param {number} used @param {number} limit @param {string} label */
export function load(used, limit, label) {
  const share = limit > 0 ? Math.min(1, used / limit) : 0;
  const tone = share >= 1 ? 'full' : 'free';
  return el(
    'span.load',
    {},
    el('span.num', {}, `${number(used)} / ${number(limit)}`),
    el('meter', { class: tone, min: 0, max: 1, value: share.toFixed(3), 'aria-label': label }),
  );
}

/**
 * A table; on a narrow screen each row becomes a card of its own.
 *
 * @param {{caption: string, columns: {label: string, cell: (row: any) => import('./dom.js').Child, kind?: string}[],
 *   rows: any[], key?: (row: any) => string, empty?: import('./dom.js').Child}} table `kind`: `num`, `wide` or `acts`
 */
export function table({ caption, columns, rows, key, empty }) {
  if (!rows.length && empty) return el('div', {}, empty);
  // The roles say what the elements say already, until a narrow screen shows them as blocks.
  const head = columns.map(({ label, kind = '' }) => el('th', { scope: 'col', role: 'columnheader', class: kind }, kind === 'acts' ? el('span.unseen', {}, label) : label));
  const row = (one) =>
    el('tr', { role: 'row', 'data-key': key?.(one) }, columns.map(({ label, cell, kind = '' }) => el('td', { role: 'cell', class: kind, 'data-label': label }, el('div', {}, cell(one)))));
  return el(
    'div.scroll',
    {},
    el(
      'table',
      { role: 'table' },
      el('caption.unseen', {}, caption),
      el('thead', { role: 'rowgroup' }, el('tr', { role: 'row' }, head)),
      el('tbody', { role: 'rowgroup' }, rows.map(row)),
    ),
  );
}

/** Names and values. @param {[string, import('./dom.js').Child][]} pairs */
export function facts(pairs) {
  const there = pairs.filter(([, value]) => value !== null && value !== undefined && value !== '');
  return el('dl.facts', {}, there.map(([name, value]) => el('div', {}, el('dt', {}, name), el('dd', {}, value))));
}

/** Nothing to show, and what to do about it. @param {string} title @param {...import('./dom.js').Child} next */
export const nothing = (title, ...next) => el('div.nothing', {}, el('p.nothing-title', {}, title), next);

/**
 * What went wrong, what to do, and the id under which the service's log has it.
 *
 * @param {import('./api.js').Failure|Error} error @param {() => void} [again] tries once more
 */
export function problem(error, again) {
  const title =
    { 403: t('problem.forbidden'), 404: t('problem.missing'), 429: t('problem.tooMany') }[error.status] ??
    (error.status ? t('problem.failed') : t('problem.unreachable'));
  const advice = { 403: t('problem.forbidden.advice'), 0: t('problem.unreachable.advice') }[error.status ?? 0];
  return el(
    'div.problem',
    { role: 'alert' },
    el('p.problem-title', {}, title),
    error.status ? el('p', {}, error.message) : null,
    advice && el('p', {}, advice),
    error.requestId && el('p.faint', {}, t('problem.requestId'), ' ', el('code', {}, error.requestId)),
    again && el('button', { type: 'button', onclick: again }, t('do.again')),
  );
}

/** A button. @param {string} label @param {() => void} onclick @param {any} [attributes] */
export const button = (label, onclick, attributes = {}) => el('button', { type: 'button', onclick, ...attributes }, label);

/** Says something in passing, aloud too. @param {string} text @param {Tone} [tone] */
export function toast(text, tone = 'good') {
  const node = el(`div.toast.${tone}`, {}, text);
  document.getElementById('toasts').append(node);
  setTimeout(() => node.remove(), tone === 'bad' ? 10_000 : 4_000);
}

/** Copies, and says so; where the browser forbids it, shows the text to be copied by hand. @param {string} text */
export async function copy(text) {
  try {
    // There is no clipboard on a page that came over plain HTTP from another machine.
    if (navigator.clipboard) await navigator.clipboard.writeText(text);
    else if (!copiedFromField(text)) throw new Error('refused');
    toast(t('copied'));
  } catch {
    dialog(t('do.copy'), el('p', {}, t('copy.byHand')), el('pre.code', { tabindex: 0 }, text));
  }
}

/** The old way, which needs a field with the text selected. @param {string} text @returns {boolean} */
function copiedFromField(text) {
  const focused = document.activeElement;
  const field = el('textarea.unseen', { readonly: true });
  field.value = text;
  (focused?.closest('dialog') ?? document.body).append(field);
  field.select();
  const copied = document.execCommand('copy');
  field.remove();
  focused?.focus();
  return copied;
}

/** Text to be read or copied as it is. @param {string} text @param {string} label */
export function code(text, label) {
  return el('div.code-frame', {}, el('pre.code', { tabindex: 0, 'aria-label': label, role: 'region' }, text), button(t('do.copy'), () => copy(text), { class: 'small', 'aria-label': `${t('do.copy')}: ${label}` }));
}

/**
 * Opens a dialog; focus moves in, Escape closes it, and focus returns to where it was.
 *
 * @param {string} title @param {...import('./dom.js').Child} children
 * @returns {HTMLDialogElement}
 */
export function dialog(title, ...children) {
  const close = button('×', () => node.close(), { class: 'close', 'aria-label': t('do.close') });
  const node = el('dialog', { 'aria-labelledby': 'dialog-title' }, el('div.dialog-head', {}, el('h2', { id: 'dialog-title' }, title), close), el('div.dialog-body', {}, children));
  node.addEventListener('close', () => node.remove());
  document.body.append(node);
  node.showModal();
  return node;
}

/**
 * Asks before something that cannot be taken back.
 *
 * @param {{title: string, text: string, yes: string}} question @param {() => Promise<void>} act
 */
export function confirm({ title, text, yes }, act) {
  const trouble = el('div', {});
  const go = button(yes, async () => {
    go.disabled = true;
    try {
      await act();
      node.close();
    } catch (error) {
      go.disabled = false;
      fill(trouble, problem(error));
    }
  }, { class: 'danger' });
  const node = dialog(title, el('p', {}, text), trouble, el('div.actions.end', {}, button(t('do.cancel'), () => node.close(), { autofocus: true }), go));
}

/** A labelled control. @param {string} label @param {HTMLElement} control @param {string} [hint] */
export function field(label, control, hint) {
  const id = control.id || `field-${control.getAttribute('name')}`;
  control.id = id;
  if (hint) control.setAttribute('aria-describedby', `${id}-hint`);
  return el('div.field', {}, el('label', { for: id }, label), control, hint && el('small.hint', { id: `${id}-hint` }, hint));
}

/** A choice of one among several. @param {string} name @param {[string, string][]} options value and label @param {string} value */
export function select(name, options, value, onchange) {
  return el('select', { name, onchange, value }, options.map(([key, label]) => el('option', { value: key, selected: key === value }, label)));
}

/**
 * Where one is among the pages of a listing.
 *
 * @param {{page: number, size: number, total: number, atLeast?: boolean, shown: number}} where
 * @param {(page: number) => string} link
 */
export function pager({ page, size, total, atLeast = false, shown }, link) {
  const from = shown ? (page - 1) * size + 1 : 0;
  const text = t('pager.range', { from: number(from), to: number(from + Math.max(0, shown - 1)), total: `${number(total)}${atLeast ? '+' : ''}` });
  const more = page * size < total || (atLeast && shown === size);
  const step = (to, label, there) => (there ? el('a.button', { href: link(to), rel: to < page ? 'prev' : 'next' }, label) : el('span.button.off', { 'aria-disabled': 'true' }, label));
  return el('nav.pager', { 'aria-label': t('pager.label') }, el('span.num', { role: 'status' }, text), step(page - 1, t('pager.back'), page > 1), step(page + 1, t('pager.on'), more));
}
