/**
 * Tables as files that a spreadsheet opens.
 */

import { el } from './dom.js';

/** What a spreadsheet would take for a formula; whoever names a model must not run code in it. */
const FORMULA = /^[=+\-@\t\r]/;

/** @param {string[]} head @param {(string|number)[][]} rows @returns {string} */
export function csv(head, rows) {
  // The mark at the beginning tells spreadsheets that this is UTF-8.
  return `\ufeff${[head, ...rows].map((row) => row.map(cell).join(',')).join('\r\n')}\r\n`;
}

function cell(value) {
  if (typeof value === 'number') return String(value);
  const text = String(value ?? '');
  const safe = FORMULA.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

/** Hands a text to the browser as a file. @param {string} name @param {string} text @param {string} type */
export function save(name, text, type = 'text/csv') {
  const href = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
  el('a', { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), 10_000);
}
