/*
 * helpers.js: what the tests share
 *
 * The server is the one that PGHOST and so on name. Tests that stop and start
 * it also need PGDATA, its data directory, and PGLOG, the file of its log.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 */
'use strict';

const assert = require('node:assert/strict');
const { execFile, spawn } = require('node:child_process');
const { once } = require('node:events');
const { statSync } = require('node:fs');
const http = require('node:http');
const path = require('node:path');
const { after } = require('node:test');
const { promisify } = require('node:util');
const { Pool } = require('pg');

/* What takes so long hangs. No test expects anything to take any time. */
const DEADLINE = 30000;

/* The administrator's connections */
const pool = new Pool({ max: 2 });
pool.on('error', () => {});
after(() => pool.end());

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/* Sleep until a date has come. */
async function until(date) {
  let left;
  while ((left = date - Date.now()) > 0) {
    await sleep(left);
  }
}

/* Wait for something to come true. */
async function eventually(isTrue) {
  const deadline = Date.now() + DEADLINE;
  while (!(await isTrue())) {
    assert.ok(Date.now() < deadline, `never came true: ${isTrue}`);
    await sleep(20);
  }
}

/* Define a limit for one key, as a variant of the limit of this name. */
const define = (name, scope, api, maxRequests, period, key, onLimit = null, maxDelay = null) =>
  pool.query(
    `SELECT fl_rate_define($1, $2, $3, $4, $5, key => $6, on_limit => $7, max_delay => $8)`,
    [name, scope, api, maxRequests, period, key, onLimit, maxDelay],
  );

/* Make a role that may do no more than SQL grants it. */
async function newRole(name, grants = []) {
  await pool.query(`CREATE ROLE ${name} LOGIN`);
  for (const grant of grants) {
    await pool.query(`GRANT ${grant} TO ${name}`);
  }
}

/* What a key has spent under the limits that apply. */
async function used(scope, key, api) {
  const { rows } = await pool.query(
    'SELECT sum(used)::integer AS used FROM fl_rate_explain($1, $2, $3) WHERE applies',
    [scope, key, api],
  );
  return rows[0].used;
}

/* An identity that no other test uses, as headers; ids may be given. */
let identities = 0;
function newIdentity(ids = {}) {
  const n = `${process.pid}-${++identities}`;
  return {
    'x-device': ids.device ?? `device-${n}`,
    'x-user': ids.user ?? `user-${n}`,
    'x-app': ids.app ?? `app-${n}`,
    'x-organisation': ids.organisation ?? `organisation-${n}`,
  };
}

/*
 * Those that were started are ended when the tests of the file are over, and
 * have to end well: one that has crashed, or has met a rejection that nobody
 * handles, has another exit status.
 */
const apis = [];
after(async () => {
  for (const api of apis) {
    api.child.kill('SIGTERM');
    const impatience = setTimeout(() => api.child.kill('SIGKILL'), DEADLINE);
    assert.deepEqual(await api.exit, [0, null], api.output);
    clearTimeout(impatience);
  }
});

/* Start the API as its operator does, on a port that the system chooses. */
async function startApi(settings = {}) {
  const child = spawn(process.execPath, ['server.js'], {
    cwd: path.join(__dirname, '..'),
    env: { ...process.env, PORT: '0', RATE_LIMIT_TIMEOUT_MS: String(DEADLINE), ...settings },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const api = { child, exit: once(child, 'exit'), output: '' };
  apis.push(api);
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text) => {
      api.output += text;
    });
  }
  await eventually(() => {
    assert.equal(child.exitCode, null, api.output);
    return /^listening on /m.test(api.output);
  });
  api.url = /^listening on (\S+)$/m.exec(api.output)[1];
  return api;
}

/* Send a request by fetch(). */
async function send(api, method, target, headers, body) {
  const response = await fetch(api.url + target, {
    method,
    headers: body === undefined ? headers : { ...headers, 'content-type': 'application/json' },
    body: body === undefined ? undefined : JSON.stringify(body),
    signal: AbortSignal.timeout(DEADLINE),
  });
  const text = await response.text();
  return {
    status: response.status,
    headers: Object.fromEntries(response.headers),
    text,
    json: JSON.parse(text),
  };
}

/* The status that headers get which fetch() would not send. */
function statusOf(api, method, target, headers) {
  return new Promise((resolve, reject) => {
    http
      .request(api.url + target, { method, headers, timeout: DEADLINE }, (res) => {
        res.resume().on('end', () => resolve(res.statusCode));
      })
      .on('error', reject)
      .end();
  });
}

/* Send requests by one curl(1), one after the other on one connection. */
async function curl(api, method, targets, headers) {
  const END = '\n--- end of the response ---\n';
  const { stdout } = await promisify(execFile)('curl', [
    '-sS', '-i', '-X', method, '--max-time', String(DEADLINE / 1000), '-w', END,
    ...Object.entries(headers).flatMap(([name, value]) => ['-H', `${name}: ${value}`]),
    ...targets.map((target) => api.url + target),
  ]);
  return stdout.split(END).slice(0, -1).map((response) => {
    const [head, text] = response.split('\r\n\r\n');
    const [statusLine, ...fields] = head.split('\r\n');
    return {
      statusLine,
      status: Number(statusLine.split(' ')[1]),
      headers: Object.fromEntries(
        fields.map((field) => [
          field.slice(0, field.indexOf(':')).toLowerCase(),
          field.slice(field.indexOf(':') + 2),
        ]),
      ),
      text,
      json: JSON.parse(text),
    };
  });
}

/*
 * The exact answer to a request that comes too early, from the limit of this
 * name; returns its date.
 */
function assertRefused(response, name, maxRequests, seconds) {
  const { nextValidRequestDate: date } = response.json;
  assert.equal(response.status, 429);
  assert.equal(
    response.text,
    '{"message":"You\'ve made too many attempts in a short period of time, please try again in a few seconds. ' +
      'Read more about rate limiting and how you may be affected by reading our documentation.",' +
      '"referenceUrl":"https://developers.fliplet.com/Rate-limiting-for-API.html",' +
      `"nextValidRequestDate":"${date}"}`,
  );
  assert.match(date, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
  assert.match(response.headers['content-type'], /^application\/json\b/);
  assert.equal(response.headers['ratelimit-policy'], `"${name}";q=${maxRequests};w=${seconds}`);
  assert.match(response.headers.ratelimit, new RegExp(`^"${name}";r=0;t=[1-9]\\d*$`));
  assert.match(response.headers['retry-after'], /^[1-9]\d*$/);
  // who waits that long does not come too early
  assert.ok(Date.now() + response.headers['retry-after'] * 1000 >= new Date(date));
  return new Date(date);
}

/* Run pg_ctl on the server, as the user who owns it. */
async function pgCtl(...args) {
  const { uid, gid } = statSync(process.env.PGDATA);
  const child = spawn(
    'pg_ctl',
    ['-D', process.env.PGDATA, '-l', process.env.PGLOG, '-w', ...args],
    { uid, gid, cwd: '/', stdio: 'ignore' },
  );
  assert.deepEqual(await once(child, 'exit'), [0, null], `pg_ctl ${args.join(' ')}`);
}

module.exports = {
  assertRefused, curl, define, eventually, newIdentity, newRole, pgCtl, pool, send, sleep, startApi,
  statusOf, until, used,
};
