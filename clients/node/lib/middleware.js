/*
 * middleware.js: the limiter in front of an Express route
 *
 * Uses only what Node's own request and response have, so that it also serves
 * Connect, Polka and the like.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 */
'use strict';

const { RateLimiterUnavailable } = require('./errors.js');
const { headers, body } = require('./verdict.js');

/* setTimeout() takes a longer delay than this for none at all. */
const LONGEST_TIMEOUT = 2 ** 31 - 1;

/* An option that is a value, or a function of the request. */
const valueOf = (option, req) => (typeof option === 'function' ? option(req) : option);

/* The response is over: answered by others, or the client went away. */
const isOver = (res) => res.headersSent || res.writableEnded || res.destroyed;

/* Set the header fields; a limit further up the route may have set its own. */
function setHeaders(res, verdict) {
  for (const [name, value] of Object.entries(headers(verdict))) {
    const earlier = name === 'Retry-After' ? undefined : res.getHeader(name);
    res.setHeader(name, earlier === undefined ? value : `${earlier}, ${value}`);
  }
}

/* Call back after ms, unless the client goes away first. */
function afterDelay(res, ms, callback) {
  let timer;
  const cancel = () => clearTimeout(timer);
  const arm = (left) => {
    const step = Math.min(left, LONGEST_TIMEOUT);
    timer = setTimeout(() => {
      if (left > step) {
        arm(left - step);
        return;
      }
      res.removeListener('close', cancel);
      callback();
    }, step);
  };
  res.once('close', cancel);
  arm(ms);
}

/* The documented answer. */
function refuse(res, verdict, options) {
  const json = JSON.stringify(body(verdict, options));
  res.statusCode = 429;
  res.setHeader('Content-Type', 'application/json; charset=utf-8');
  res.setHeader('Content-Length', Buffer.byteLength(json));
  res.end(json);
}

function middleware(options) {
  const { api, keys, plan, cost = 1, failCallback, delay = true, failOpen, check, checkAll } = options;

  if (typeof api !== 'string' && typeof api !== 'function') {
    throw new TypeError('api must be a string or a function of the request');
  }
  if (typeof keys !== 'function' && (typeof keys !== 'object' || keys === null)) {
    throw new TypeError('keys must be {scope, key}, an array of them, or a function of the request');
  }
  if (failCallback !== undefined && typeof failCallback !== 'function') {
    throw new TypeError('failCallback must be a function');
  }

  async function judge(req) {
    const request = await Promise.all([
      valueOf(keys, req),
      valueOf(api, req),
      valueOf(cost, req),
      valueOf(plan, req),
    ]);
    let pairs = request.shift();
    if (Array.isArray(pairs) && pairs.length === 1) {
      [pairs] = pairs;
    }
    // a single key can share its round trip; no key at all is an error there
    return pairs && !Array.isArray(pairs)
      ? check(pairs.scope, pairs.key, ...request)
      : checkAll(pairs, ...request);
  }

  /* Answer the request, or let it through. */
  function answer(req, res, next, verdict) {
    req.rateLimit = verdict;
    if (verdict.reason === 'store_full') {
      next(failOpen ? undefined : new RateLimiterUnavailable());
      return;
    }
    setHeaders(res, verdict);
    if (verdict.allowed) {
      if (delay && verdict.delayMs > 0) {
        afterDelay(res, verdict.delayMs, next);
      } else {
        next();
      }
    } else if (failCallback) {
      Promise.resolve(failCallback(req, res, next, verdict.nextValidAt)).catch(next);
    } else {
      refuse(res, verdict, options);
    }
  }

  return function rateLimit(req, res, next) {
    judge(req).then(
      (verdict) => {
        if (!isOver(res)) answer(req, res, next, verdict);
      },
      (error) => {
        if (!isOver(res)) next(error);
      },
    ).catch(next);
  };
}

module.exports = { middleware };
