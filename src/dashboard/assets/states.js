/**
 * The states of tasks, attempts and lanes, with the words and colours that stand for them.
 */

import { t, tOr } from './i18n.js';
import { badge } from './parts.js';

/** Numbers of the states as the API has them. */
export const STATE = { queued: 0, running: 1, succeeded: 2, failed: 3, pickedUp: 4, cancelled: 5 };

const TONES = ['neutral', 'info', 'good', 'bad', 'good', 'neutral'];
const OUTCOMES = { running: 'info', succeeded: 'good', failed: 'bad', lost: 'bad', handedBack: 'warn', uploadFailed: 'warn' };
const LANES = { idle: 'neutral', moving: 'good', full: 'warn', modelFull: 'warn', disabled: 'neutral', queueFull: 'bad', stalled: 'bad' };

/** Every state with its name, for a choice. */
export const stateOptions = () => Object.values(STATE).map((number) => [String(number), t(`state.${number}`)]);

/** Statuses of lanes with their names, for a choice. */
export const laneOptions = () => Object.keys(LANES).map((status) => [status, t(`lane.${status}`)]);

/** The state of a task, more exactly than its number says. @param {any} task */
export function stateBadge(task) {
  if (task.state === STATE.queued && task.retryCount > 0) return badge(t('state.retry'), 'warn');
  if (task.state === STATE.running && task.phase === 1) return badge(t('state.uploading'), 'info');
  return badge(t(`state.${task.state}`), TONES[task.state]);
}

/** True where nothing more will happen to it. @param {any} task */
export const isOver = (task) => task.state > STATE.running;

/** True where its result can be fetched. @param {any} task */
export const hasResult = (task) => (task.state === STATE.succeeded || task.state === STATE.pickedUp) && Boolean(task.ossFile);

/** How an attempt ended. @param {string} outcome */
export const outcomeBadge = (outcome) => badge(tOr(`outcome.${outcome}`, outcome), OUTCOMES[outcome]);

/** The colour of that. @param {string} outcome */
export const outcomeTone = (outcome) => OUTCOMES[outcome] ?? 'neutral';

/** Where a lane stands. @param {string} status */
export const laneBadge = (status) => badge(tOr(`lane.${status}`, status), LANES[status]);

/** Why, in the language of the page. @param {any} lane */
export const laneReason = (lane) => (lane.status in LANES ? t(`lane.${lane.status}.why`, lane) : lane.reason);
