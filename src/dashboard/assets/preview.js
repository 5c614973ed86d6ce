/**
 * A look at a task's result: image, sound, film, text or JSON; a link for everything else.
 */

import { address } from './api.js';
import { el, fill } from './dom.js';
import { size } from './format.js';
import { t } from './i18n.js';
import { code } from './parts.js';

/** Most bytes of a text that are fetched to be shown. */
const MOST_TEXT = 64 * 1024;

const KINDS = {
  image: ['png', 'jpg', 'jpeg', 'gif', 'webp', 'bmp', 'avif', 'ico'],
  audio: ['wav', 'mp3', 'ogg', 'opus', 'flac', 'm4a', 'aac', 'oga'],
  video: ['mp4', 'webm', 'mov', 'm4v', 'ogv'],
  text: ['txt', 'json', 'csv', 'md', 'xml', 'html', 'srt', 'vtt', 'log', 'jsonl', 'yaml', 'yml'],
};

/** A file that the service itself serves: `/file/<tenant>/<day>/<task>…`. */
const OWN = /\/(file\/-?\d+\/[\w-]+\/[0-9a-f-]{36}-[^/]*)$/;

/** @param {string} fileType the short extension */
const kindOf = (fileType) => Object.keys(KINDS).find((kind) => KINDS[kind].includes(fileType)) ?? 'other';

/**
 * Where the result is. What this service keeps is fetched the way the page itself was: the name that
 * callers use for the service need not be one that this browser knows.
 *
 * @param {string} ossFile
 */
function source(ossFile) {
  try {
    const url = new URL(ossFile);
    const own = OWN.exec(url.pathname);
    return own ? address(own[1]).href + url.search : url.href;
  } catch {
    return ossFile;
  }
}

/** Shows the result of a task; looks after itself once it is in the page. @param {any} task */
export function preview(task) {
  const href = source(task.ossFile);
  const kind = kindOf(task.fileType);
  const label = t('result.of', { id: task.taskId });
  const link = el('a.button.small', { href, target: '_blank', rel: 'noopener noreferrer', download: kind === 'other' ? `${task.taskId}.${task.fileType}` : null }, kind === 'other' ? t('do.download') : t('do.open'));
  const about = el('div.actions', {}, el('span.num', {}, `${task.fileType || '?'} · ${size(task.fileSize)}`), link);
  const shown = el('div', {});
  const unreadable = () => fill(shown, el('p.faint', {}, t('result.unreadable')));
  const media = { class: 'preview', src: href };
  if (kind === 'image') shown.append(listening(el('img', { ...media, alt: label })));
  else if (kind === 'audio') shown.append(listening(el('audio', { ...media, controls: true, preload: 'metadata', 'aria-label': label })));
  else if (kind === 'video') shown.append(listening(el('video', { ...media, controls: true, preload: 'metadata', 'aria-label': label })));
  else if (kind === 'text') text(href, task).then((read) => fill(shown, code(read, label)), unreadable);
  return el('div.form', { 'data-keep': `result-${task.taskId}` }, about, shown);

  function listening(node) {
    node.addEventListener('error', unreadable);
    return node;
  }
}

/** The beginning of a text; JSON that is there as a whole is set out in lines. */
async function text(href, task) {
  const response = await fetch(href, { headers: { Range: `bytes=0-${MOST_TEXT - 1}` }, credentials: 'omit' });
  if (!response.ok) throw new Error(`${response.status}`);
  const read = await response.text();
  if (task.fileSize > MOST_TEXT) return `${read}\n… ${t('result.more', { size: size(task.fileSize - MOST_TEXT) })}`;
  return task.fileType === 'json' ? pretty(read) : read;
}

/**
 * JSON in lines, with every number as it was written. What is no JSON stays as it is.
 *
 * @param {string} json
 */
export function pretty(json) {
  try {
    return JSON.stringify(exact(json), null, 2);
  } catch {
    return json;
  }
}

/** Reads JSON without rounding: 1.0 stays 1.0, and large numbers keep their digits. @param {string} json */
export function exact(json) {
  return JSON.parse(json, (_, value, context) => (typeof value === 'number' && context?.source !== undefined && JSON.rawJSON && String(value) !== context.source ? JSON.rawJSON(context.source) : value));
}
