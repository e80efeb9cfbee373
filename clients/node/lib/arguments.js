/*
 * arguments.js: what a request may consist of
 *
 * The same rules as in SQL. They are repeated here because SQL judges a batch
 * as a whole: one bad argument would cost all of its requests another trip.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 */
'use strict';

/* Printable ASCII without " and \: names end up in HTTP headers. */
const NAME = /^[ !#-[\]-~]{1,63}$/;

const MAX_PAIRS = 16;

function checkName(value, what) {
  if (typeof value !== 'string') {
    throw new TypeError(`${what} must be a string`);
  }
  if (!NAME.test(value)) {
    throw new RangeError(`${what} must be 1 to 63 printable ASCII characters without " and \\`);
  }
}

/*
 * A key as text. Whole numbers are taken too, because ids are; a number that
 * is no safe integer has already lost digits and could be someone else's.
 */
function toKey(key) {
  if (typeof key === 'number' || typeof key === 'bigint') {
    if (typeof key === 'number' && !Number.isSafeInteger(key)) {
      throw new RangeError('key must be a string or a safe integer');
    }
    return String(key);
  }
  if (typeof key !== 'string') {
    throw new TypeError('key must be a string or an integer');
  }
  if (key === '' || key === '*' || key.includes('\0')) {
    throw new RangeError('key must not be empty, "*" or contain a null character');
  }
  return key;
}

function checkApi(api) {
  checkName(api, 'api');
  if (api === '*') {
    throw new RangeError('the api of a request must not be "*"');
  }
}

function checkCost(cost) {
  if (typeof cost !== 'number') {
    throw new TypeError('cost must be a number');
  }
  if (!Number.isSafeInteger(cost) || cost < 1) {
    throw new RangeError('cost must be a safe integer, at least 1');
  }
}

/* A plan, or null for none. */
function toPlan(plan) {
  if (plan === undefined || plan === null) {
    return null;
  }
  checkName(plan, 'plan');
  return plan;
}

/* One request over one key. */
function toRequest(scope, key, api, cost, plan) {
  checkName(scope, 'scope');
  key = toKey(key);
  checkApi(api);
  checkCost(cost);
  return { scope, key, api, cost, plan: toPlan(plan) };
}

/* One request over several keys. */
function toRequestOfPairs(pairs, api, cost, plan) {
  if (!Array.isArray(pairs) || pairs.length === 0 || pairs.length > MAX_PAIRS) {
    throw new RangeError(`there must be 1 to ${MAX_PAIRS} pairs of scope and key`);
  }
  const scopes = [];
  const keys = [];
  for (const pair of pairs) {
    checkName(pair?.scope, 'scope');
    scopes.push(pair.scope);
    keys.push(toKey(pair.key));
  }
  checkApi(api);
  checkCost(cost);
  return { scopes, keys, api, cost, plan: toPlan(plan) };
}

/* An identifier as SQL. */
function quoteIdentifier(name) {
  if (typeof name !== 'string' || name === '' || name.includes('\0')) {
    throw new TypeError('schema must be a non-empty string');
  }
  return `"${name.replaceAll('"', '""')}"`;
}

/*
 * A text[] literal of at least one text. The driver's own way looks at every
 * character of every element; few keys have one that needs it.
 */
function arrayOfTexts(texts) {
  if (/["\\]/.test(texts.join(''))) {
    texts = texts.map((text) => text.replace(/["\\]/g, '\\$&'));
  }
  return `{"${texts.join('","')}"}`;
}

module.exports = { toRequest, toRequestOfPairs, quoteIdentifier, arrayOfTexts };
