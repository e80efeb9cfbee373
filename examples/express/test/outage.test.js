/*
 * outage.test.js: what the clients see while the database is away
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 */
'use strict';

const assert = require('node:assert/strict');
const { spawnSync } = require('node:child_process');
const { readFileSync } = require('node:fs');
const path = require('node:path');
const { before, test } = require('node:test');
const { Client } = require('pg');
const {
  define, eventually, newIdentity, newRole, pgCtl, pool, send, sleep, startApi,
} = require('./helpers.js');

const skip = !process.env.PGDATA && 'PGDATA is not set: there is no server to stop';

const get = (api, identity = newIdentity()) => send(api, 'GET', '/v1/audit-logs', identity);

const isCounting = async (api) => {
  const response = await get(api);
  return response.status === 200 && response.headers.ratelimit !== undefined;
};

/* The answer of a closed API, and of an open one */
function assertClosed(response) {
  assert.equal(response.status, 503);
  assert.deepEqual(response.json, { message: 'the rate limiter is unavailable' });
  assert.equal(response.headers.ratelimit, undefined);
}

function assertOpen(response) {
  assert.equal(response.status, 200);
  assert.deepEqual(response.json, { log: [] });
  assert.equal(response.headers.ratelimit, undefined);
}

before(() => pool.query('CREATE EXTENSION IF NOT EXISTS fliplet_ratelimit'));

for (const mode of ['fast', 'immediate']) {
  test(`the database is stopped (${mode}), and started again`, { skip }, async () => {
    const closed = await startApi({ RATE_LIMIT_OUTAGE: 'closed' });
    const open = await startApi({ RATE_LIMIT_OUTAGE: 'open' });
    // more connections than the clients below can keep busy: some break while idle
    for (const api of [closed, open]) {
      const counting = await Promise.all(Array.from({ length: 20 }, () => isCounting(api)));
      assert.ok(counting.every(Boolean));
    }

    // clients who go on asking all the while
    const busy = newIdentity();
    await define('fliplet/audit-logs', 'user', 'audit-logs', null, null, busy['x-user']);
    const seen = new Map([[closed, new Set()], [open, new Set()]]);
    let over = false;
    const asking = Promise.all([closed, open, closed, open].map(async (api) => {
      while (!over) {
        seen.get(api).add((await get(api, busy)).status);
        await sleep(5);
      }
    }));
    asking.catch(() => {});

    let late;
    try {
      await pgCtl('stop', '-m', mode);
      (await Promise.all(Array.from({ length: 20 }, () => get(closed)))).forEach(assertClosed);
      (await Promise.all(Array.from({ length: 20 }, () => get(open)))).forEach(assertOpen);
      // open is for those who have a name
      assert.equal((await get(open, {})).status, 401);
      assert.equal((await send(open, 'GET', '/v1/unknown', newIdentity())).status, 404);
      // an API that is started now
      late = await startApi();
      assertClosed(await get(late));
      await pgCtl('start');
      for (const api of [closed, open, late]) {
        await eventually(() => isCounting(api));
      }
    } finally {
      over = true;
    }
    await asking;
    assert.deepEqual([...seen.get(closed)].sort(), [200, 503]);
    assert.deepEqual([...seen.get(open)], [200]);
    // told, but not once a request
    for (const api of [closed, open, late]) {
      assert.match(api.output, /the database is away/);
      assert.ok(api.output.split('the database is away').length < 20, api.output);
    }
  });
}

test('a statement that hangs is ended, in the server too', async () => {
  const api = await startApi({ PGAPPNAME: 'hung', RATE_LIMIT_TIMEOUT_MS: '500' });
  const admin = new Client();
  await admin.connect();
  try {
    // a session's first check has to read the definitions
    await admin.query('BEGIN; LOCK TABLE fl_rate_limit');
    (await Promise.all(Array.from({ length: 4 }, () => get(api)))).forEach(assertClosed);
    const { rows } = await admin.query(
      "SELECT pid FROM pg_stat_activity WHERE application_name = 'hung' AND wait_event_type = 'Lock'",
    );
    assert.deepEqual(rows, []);
  } finally {
    await admin.end();
  }
  await eventually(() => isCounting(api));
});

test('a server that says nothing at all hangs nobody', { skip }, async () => {
  const settings = { PGAPPNAME: 'frozen', RATE_LIMIT_TIMEOUT_MS: '500' };
  const closed = await startApi(settings);
  const open = await startApi({ ...settings, RATE_LIMIT_OUTAGE: 'open' });
  assert.ok(await isCounting(closed));
  assert.ok(await isCounting(open));

  const { rows } = await pool.query("SELECT pid FROM pg_stat_activity WHERE application_name = 'frozen'");
  const [postmaster] = readFileSync(path.join(process.env.PGDATA, 'postmaster.pid'), 'utf8').split('\n');
  const frozen = [Number(postmaster), ...rows.map(({ pid }) => pid)];
  try {
    frozen.forEach((pid) => process.kill(pid, 'SIGSTOP'));
    // more than there are connections, so that some wait for one
    (await Promise.all(Array.from({ length: 20 }, () => get(closed)))).forEach(assertClosed);
    (await Promise.all(Array.from({ length: 20 }, () => get(open)))).forEach(assertOpen);
  } finally {
    frozen.forEach((pid) => process.kill(pid, 'SIGCONT'));
  }
  await eventually(() => isCounting(closed));
  await eventually(() => isCounting(open));
});

test('a limiter that is set up wrongly is no outage: never open, 500', async () => {
  await newRole('stranger');
  const api = await startApi({ PGUSER: 'stranger', RATE_LIMIT_OUTAGE: 'open' });
  const response = await get(api);
  assert.deepEqual([response.status, response.json], [500, { message: 'internal error' }]);
  assert.match(api.output, /permission denied for function fl_rate_try_all/);
});

test('a choice that is none is an error at the start', () => {
  const { status, stderr } = spawnSync(process.execPath, ['server.js'], {
    cwd: path.join(__dirname, '..'),
    env: { ...process.env, PORT: '0', RATE_LIMIT_OUTAGE: 'Open' },
    encoding: 'utf8',
    timeout: 30000,
  });
  assert.equal(status, 1);
  assert.match(stderr, /RATE_LIMIT_OUTAGE must match/);
});
