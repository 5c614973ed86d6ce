/** Alerts as lines: what is wrong since when, where Overview and Health show it. */

import { el } from '../dom.js';
import { when } from '../format.js';
import { t, tOr } from '../i18n.js';
import { badge } from '../parts.js';

const TONES = { critical: 'bad', warning: 'warn', info: 'info' };

/** @param {any} alert as listAlert has it */
export function alertLine(alert) {
  return el(
    'li',
    { 'data-key': alert.id },
    el('div.actions', {}, badge(tOr(`severity.${alert.severity}`, alert.severity ?? t('alerts.title')), alert.endedAt ? 'neutral' : TONES[alert.severity] ?? 'warn'), el('strong', {}, alert.rule), el('span', {}, alert.subject ?? '')),
    el('div', {}, alert.message ?? ''),
    el('span.sub', {}, t('alerts.since'), ' ', when(alert.beganAt ?? alert.since), alert.endedAt ? [' · ', t('alerts.until'), ' ', when(alert.endedAt)] : null),
  );
}
