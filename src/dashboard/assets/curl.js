/**
 * Calls as commands for a shell.
 */

import { address } from './api.js';
import { signedIn, tenant } from './session.js';

/** A word that a shell takes as it is. @param {string} text */
const quoted = (text) => `'${text.replaceAll("'", String.raw`'\''`)}'`;

/** The token itself stays out of what is copied. */
const authorization = () => (signedIn() ? [`-H "Authorization: Bearer $TOKEN"`] : []);

/** A POST. @param {string} path @param {string} json the body, to the letter */
export function curlPost(path, json) {
  return lines(`curl -sS ${quoted(address(path).href)}`, ...authorization(), `-H 'Content-Type: application/json'`, `-d ${quoted(json)}`);
}

/** A GET. @param {string} path @param {Object<string, string>} query */
export function curlGet(path, query) {
  const url = address(path);
  Object.entries(query).forEach(([name, value]) => url.searchParams.set(name, value));
  if (tenant()) url.searchParams.set('tenantId', tenant());
  return lines(`curl -sS ${quoted(url.href)}`, ...authorization());
}

/**
 * The body of createTask, with the payload to the letter.
 *
 * @param {{modelName: string, bizName?: string, inputRef?: string}} task @param {string|null} payload JSON
 */
export function createTaskBody({ modelName, bizName, inputRef }, payload) {
  const fields = { modelName, bizName, inputRef, tenantId: tenant() };
  const plain = Object.fromEntries(Object.entries(fields).filter(([, value]) => value));
  const json = JSON.stringify(plain);
  return payload === null ? json : `${json.slice(0, -1)},"requestPayload":${payload}}`;
}

const lines = (...parts) => parts.join(' \\\n  ');
