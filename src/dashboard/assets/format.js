/**
 * Numbers, times and sizes as people read them, in the chosen language.
 */

import { el } from './dom.js';
import { language, locale, t } from './i18n.js';

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
const SPANS = [
  ['day', 86_400],
  ['hour', 3_600],
  ['minute', 60],
  ['second', 1],
];

/** A whole number with its thousands divided. @param {number} value */
export const number = (value) => new Intl.NumberFormat(language()).format(value ?? 0);

/** A number with at most three digits that count. @param {number} value */
export const rough = (value) =>
  new Intl.NumberFormat(language(), { maximumSignificantDigits: value >= 1000 ? 4 : 3 }).format(value ?? 0);

/** A large number in little room: 12,345 stays, 1,234,567 becomes 1.23M. @param {number} value */
export const compact = (value) =>
  value < 100_000
    ? number(value)
    : new Intl.NumberFormat(language(), { notation: 'compact', maximumSignificantDigits: 3 }).format(value);

/** A share of one. @param {number} value from 0 to 1 */
export const percent = (value) =>
  new Intl.NumberFormat(language(), { style: 'percent', maximumFractionDigits: value < 0.1 ? 1 : 0 }).format(value);

/** Bytes. @param {number} bytes */
export function size(bytes) {
  let unit = 0;
  let value = bytes ?? 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? number(value) : rough(value)} ${UNITS[unit]}`;
}

/** A time span from milliseconds: `340 ms`, `2.4 s`, `3 min 20 s`. @param {number|null|undefined} ms */
export function span(ms) {
  if (ms === null || ms === undefined || Number.isNaN(ms)) return '–';
  if (ms < 1000) return `${number(Math.round(ms))} ms`;
  const seconds = ms / 1000;
  if (seconds < 60) return `${rough(seconds)} s`;
  if (seconds < 3600) return two(seconds, 60, 'min', 1, 's');
  if (seconds < 86_400) return two(seconds, 3600, 'h', 60, 'min');
  return two(seconds, 86_400, 'd', 3600, 'h');
}

/** The same in one unit, where there is little room. @param {number} ms */
export function brief(ms) {
  const [length, unit] = [[86_400_000, 'd'], [3_600_000, 'h'], [60_000, 'min'], [1000, 's']].find(([least]) => ms >= least) ?? [1, 'ms'];
  return ms ? `${rough(ms / length)} ${unit}` : '0';
}

function two(seconds, large, largeUnit, small, smallUnit) {
  const first = Math.floor(seconds / large);
  const second = Math.floor((seconds % large) / small);
  return `${number(first)} ${largeUnit}${second ? ` ${second} ${smallUnit}` : ''}`;
}

/** How long ago that was. @param {string|number|Date} at */
export function ago(at) {
  const seconds = (Date.now() - new Date(at).getTime()) / 1000;
  if (Math.abs(seconds) < 5) return t('time.now');
  const [unit, length] = SPANS.find(([, span]) => Math.abs(seconds) >= span) ?? SPANS[3];
  const format = new Intl.RelativeTimeFormat(locale(), { numeric: 'always', style: 'narrow' });
  return format.format(-Math.round(seconds / length), unit);
}

/** Milliseconds since then. @param {string|null} at */
export const since = (at) => (at ? Math.max(0, Date.now() - new Date(at).getTime()) : null);

/** Milliseconds from one time to another; null where either is missing. */
export const between = (from, to) => (from && to ? new Date(to).getTime() - new Date(from).getTime() : null);

/** Date and time of day, where the reader is. @param {string|number|Date} at */
export const moment = (at) =>
  new Intl.DateTimeFormat(locale(), { dateStyle: 'medium', timeStyle: 'medium' }).format(new Date(at));

/** Time of day alone. @param {string|number|Date} at */
export const clock = (at) => new Intl.DateTimeFormat(locale(), { timeStyle: 'medium' }).format(new Date(at));

/** A `time` element that says how long ago, and exactly when on hovering. @param {string|null} at */
export function when(at) {
  if (!at) return el('span.faint', {}, '–');
  return el('time', { datetime: at, title: `${moment(at)} · ${at}` }, ago(at));
}

/** A `time` element that says exactly when. @param {string|null} at */
export function exactly(at) {
  if (!at) return el('span.faint', {}, '–');
  return el('time', { datetime: at, title: `${at} · ${ago(at)}` }, moment(at));
}

/** A `YYYY-MM-DD` so many days before today, in UTC. @param {number} days */
export const dayBefore = (days) => new Date(Date.now() - days * 86_400_000).toISOString().slice(0, 10);

/** The end of a task's id, which is enough to tell it apart. @param {string} id */
export const shortId = (id) => `…${id.slice(-12)}`;
