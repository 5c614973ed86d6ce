/**
 * Who is looking at the page, and for which tenant: the token (kept for this tab only), the caller
 * that the service sees behind it, the tenant that an admin chose.
 */

import * as api from './api.js';

const TOKEN = 'token';
const TENANT = 'tenant';

/** @type {{tenantId: string, userName: string, admin: boolean, scopes: string[], authMode: string, version: string}|null} */
let caller = null;

/** What this tab remembers; nothing where storage is switched off. */
function kept(key) {
  try {
    return sessionStorage.getItem(key) ?? '';
  } catch {
    return '';
  }
}

function keep(key, value) {
  try {
    if (value) sessionStorage.setItem(key, value);
    else sessionStorage.removeItem(key);
  } catch {
    // The page works without, until it is reloaded.
  }
}

/** Asks the service who is calling. Throws what the API says where that is unknown. */
export async function open() {
  api.useToken(kept(TOKEN));
  api.useTenant('');
  caller = await api.get('caller/getCaller');
  api.useTenant(tenant());
  return caller;
}

/** Tries a token, and keeps it if the service knows it. @param {string} token */
export async function signIn(token) {
  const before = kept(TOKEN);
  keep(TOKEN, token);
  try {
    return await open();
  } catch (error) {
    keep(TOKEN, before);
    api.useToken(before);
    throw error;
  }
}

/** Forgets the token and who it was. */
export function signOut() {
  keep(TOKEN, '');
  keep(TENANT, '');
  api.useToken('');
  api.useTenant('');
  caller = null;
}

/** The caller; null before `open` has succeeded. */
export const who = () => caller;

/** True where the caller signed in with a token, and can sign out. */
export const signedIn = () => kept(TOKEN) !== '';

/** The tenant that an admin chose, as digits; empty for none. */
export const tenant = () => (caller?.admin ? kept(TENANT) : '');

/** Chooses a tenant. @param {string} digits empty for none */
export function chooseTenant(digits) {
  keep(TENANT, digits);
  api.useTenant(tenant());
}

/** True where the caller was given that scope. @param {string} scope such as `task:read` */
export const may = (scope) => Boolean(caller?.admin || caller?.scopes.includes(scope));
