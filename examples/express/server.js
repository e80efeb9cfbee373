/*
 * server.js: an API whose requests PostgreSQL counts
 *
 * Every route passes three gates, in this order: who asks (400, 401), whether
 * they may ask now (429, 503), what they ask for (400, 413). So a refused
 * request costs neither the reading of its body nor any work, a nameless one
 * not even a query, and no route is without a limit by accident, because
 * route() is the only way to add one.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 */
'use strict';

const express = require('express');
const { Pool } = require('pg');
const { RateLimiter } = require('fliplet-ratelimit');

/* What a limit may be about. A request has one key in each. */
const SCOPES = ['device', 'user', 'app', 'organisation'];

const ID = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

const MOST_ENTRIES = 10000;

/* An error that says what to answer. */
const problem = (status, message) => Object.assign(new Error(message), { status });

/*
 * Who asks: X-Device, X-User, X-App and X-Organisation.
 *
 * THESE HEADERS STAND IN FOR A VERIFIED TOKEN. Anybody can send any of them:
 * before this serves anybody but you, replace this function by one that
 * verifies a token or a session and takes the four ids from there.
 */
function identify(req, res, next) {
  const identity = Object.fromEntries(SCOPES.map((scope) => [scope, req.get(`x-${scope}`)]));
  const missing = SCOPES.find((scope) => !identity[scope]);
  if (missing) {
    res.set('WWW-Authenticate', 'Bearer');
    throw problem(401, `header X-${missing} is missing`);
  }
  // a header that came twice has a comma by now
  const malformed = SCOPES.find((scope) => !ID.test(identity[scope]));
  if (malformed) {
    throw problem(400, `header X-${malformed} is not an id`);
  }
  req.identity = identity;
  next();
}

/* The four keys of a request, judged and spent by one call, all or none. */
const keysOf = (req) => SCOPES.map((scope) => ({ scope, key: req.identity[scope] }));

/* The API, with its data in memory. */
function createApp(limiter) {
  const app = express();
  app.disable('x-powered-by');

  /*
   * One operation, as REST and as a method of the JS API, which sends all of
   * its arguments in the body. Both spend from the same counters.
   */
  function route(api, method, path, name, operation) {
    const gates = [
      identify,
      limiter.middleware({ api, keys: keysOf }),
      express.json({ limit: '1mb' }),
    ];
    const run = (req, res) => res.json(operation({ ...req.body, ...req.params }, req.identity));
    app[method](path, gates, run);
    app.post(`/js/${api}/${name}`, gates, run);
  }

  const sources = new Map();
  const messages = [];
  const log = [];

  /* The entries of one of the organisation's data sources. */
  function entriesOf(id, { organisation }) {
    if (typeof id !== 'string' || !ID.test(id)) {
      throw problem(400, 'id is not an id');
    }
    const name = `${organisation}/${id}`;
    if (!sources.has(name)) {
      sources.set(name, []);
    }
    return sources.get(name);
  }

  /* Append all entries or none. */
  function append(id, identity, added) {
    const isEntry = (entry) => typeof entry === 'object' && entry !== null && !Array.isArray(entry);
    const entries = entriesOf(id, identity);
    if (!Array.isArray(added) || !added.every(isEntry)) {
      throw problem(400, 'entries are objects');
    }
    if (entries.length + added.length > MOST_ENTRIES) {
      throw problem(400, `a data source has at most ${MOST_ENTRIES} entries`);
    }
    entries.push(...added);
    log.push({ at: new Date(), ...identity, appended: added.length });
    return { entries: entries.length };
  }

  route('data-sources', 'get', '/v1/data-sources/:id/data', 'find',
    ({ id }, identity) => ({ entries: entriesOf(id, identity) }));
  route('data-sources', 'post', '/v1/data-sources/:id/data', 'insert',
    ({ id, data }, identity) => append(id, identity, [data]));
  // changes are committed at once: however many entries, this is one request
  route('data-sources', 'post', '/v1/data-sources/:id/commit', 'commit',
    ({ id, append: added }, identity) => append(id, identity, added));

  route('communicate', 'post', '/v1/communicate/messages', 'send', ({ to, text }, { user }) => {
    if (typeof to !== 'string' || typeof text !== 'string') {
      throw problem(400, 'to and text are strings');
    }
    return { messages: messages.push({ from: user, to, text }) };
  });

  route('audit-logs', 'get', '/v1/audit-logs', 'list',
    (args, { organisation }) => ({ log: log.filter((entry) => entry.organisation === organisation) }));

  route('ai', 'post', '/v1/ai/completions', 'complete', ({ prompt }) => {
    if (typeof prompt !== 'string') {
      throw problem(400, 'prompt is a string');
    }
    return { completion: [...prompt].reverse().join('') };
  });

  route('app-actions', 'post', '/v1/app-actions/:action/run', 'run',
    ({ action }, { app: id }) => ({ ran: action, app: id }));

  app.use(() => {
    throw problem(404, 'not found');
  });

  // Express knows an error handler by its four arguments
  app.use((error, req, res, next) => {
    const status = error.status >= 400 && error.status < 600 ? error.status : 500;
    if (status === 500) {
      console.error(error);
    }
    res.status(status).json({ message: status === 500 ? 'internal error' : error.message });
  });

  return app;
}

/*
 * The limiter, and its own pool: when requests to the limiter queue up, the
 * rest of the application shall not queue behind them.
 *
 * A database that hangs may hold a request for 3 * timeout at most: waiting
 * for a connection, then for an answer. The server's timeout is the shorter
 * one, so that it gives up too, and not only we on it.
 */
function createLimiter({ failOpen, timeout, connections }) {
  const pool = new Pool({
    fallback_application_name: 'rate-limited-api',
    max: connections,
    connectionTimeoutMillis: timeout,
    statement_timeout: timeout,
    query_timeout: 2 * timeout,
  });
  // without a listener, a connection that breaks while idle ends the process
  pool.on('error', (error) => console.error('rate limiter: connection lost:', error.message));

  let silentUntil = 0;
  const limiter = new RateLimiter({
    pool,
    failOpen,
    onError({ cause }) {
      // an outage fails every request; one line in ten seconds tells of it
      if (Date.now() >= silentUntil) {
        silentUntil = Date.now() + 10000;
        console.error('rate limiter: the database is away:', cause.message);
      }
    },
  });
  return { limiter, pool };
}

/* The value of an environment variable, if it is one that makes sense. */
function setting(name, fallback, pattern) {
  const value = process.env[name] ?? fallback;
  if (!pattern.test(value)) {
    throw new RangeError(`${name} must match ${pattern}`);
  }
  return value;
}

function main() {
  const { limiter, pool } = createLimiter({
    failOpen: setting('RATE_LIMIT_OUTAGE', 'closed', /^(open|closed)$/) === 'open',
    timeout: Number(setting('RATE_LIMIT_TIMEOUT_MS', '1000', /^[1-9]\d{0,5}$/)),
    connections: Number(setting('RATE_LIMIT_CONNECTIONS', '8', /^[1-9]\d{0,2}$/)),
  });
  const port = Number(setting('PORT', '3000', /^\d{1,5}$/));
  // this machine alone, as long as anybody may claim to be anybody
  const host = setting('HOST', '127.0.0.1', /./);

  const server = createApp(limiter).listen(port, host, (error) => {
    if (error) {
      throw error;
    }
    console.log(`listening on http://${host}:${server.address().port}`);
  });
  process.once('SIGTERM', () => server.close(() => pool.end()));
}

if (require.main === module) {
  main();
}

module.exports = { createApp, createLimiter };
