/*
 * middleware.test.js: what a client of an Express application sees
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 */
'use strict';

const assert = require('node:assert/strict');
const http = require('node:http');
const { before, test } = require('node:test');
const express = require('express');
const { RateLimiter } = require('fliplet-ratelimit');
const { newPool, poolOfNobody, serve, until, newKey } = require('./helpers.js');

const pool = newPool();
const limiter = new RateLimiter({ pool });
const keys = (req) => ({ scope: 'user', key: req.get('x-user') });

/* An application with one limited route, GET /. */
function appWith(options, rateLimiter = limiter) {
  const app = express();
  app.served = 0;
  app.use(rateLimiter.middleware({ api: 'web', keys, ...options }));
  app.get('/', (req, res) => {
    app.served++;
    res.json({ ok: true, reason: req.rateLimit.reason });
  });
  app.use((error, req, res, next) => {
    res.status(error.status ?? 500).json({ error: error.message });
  });
  return app;
}

const get = (url, user, path = '/') => fetch(url + path, { headers: { 'x-user': user } });

before(async () => {
  await pool.query(`
    SELECT fl_rate_define('web', 'user', 'web', 3, '1 s'),
           fl_rate_define('web/all', 'app', 'web', 5, '1 h'),
           fl_rate_define('patient', 'user', 'patient', 1, '500 ms', on_limit => 'delay', max_delay => '60 s'),
           fl_rate_define('never', 'user', 'never', 0, NULL)`);
});

test('200 while there is quota, then the documented 429, and 200 again at its date', async () => {
  const url = await serve(appWith());
  const user = newKey();
  for (let r = 2; r >= 0; r--) {
    const response = await get(url, user);
    assert.equal(response.status, 200);
    assert.equal(response.headers.get('ratelimit-policy'), '"web";q=3;w=1');
    assert.equal(response.headers.get('ratelimit'), `"web";r=${r};t=1`);
    assert.equal(response.headers.get('retry-after'), null);
  }
  const response = await get(url, user);
  assert.equal(response.status, 429);
  assert.match(response.headers.get('content-type'), /^application\/json\b/);
  assert.equal(response.headers.get('ratelimit-policy'), '"web";q=3;w=1');
  assert.equal(response.headers.get('ratelimit'), '"web";r=0;t=1');
  assert.equal(response.headers.get('retry-after'), '1');
  const json = await response.json();
  assert.deepEqual(Object.keys(json), ['message', 'referenceUrl', 'nextValidRequestDate']);
  assert.match(json.message, /^You've made too many attempts in a short period of time, please try again in a few seconds\./);
  assert.equal(json.referenceUrl, 'https://developers.fliplet.com/Rate-limiting-for-API.html');
  assert.match(json.nextValidRequestDate, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
  await until(new Date(json.nextValidRequestDate));
  assert.equal((await get(url, user)).status, 200);
});

test('200 of 240 concurrent requests get through, in few queries', async () => {
  const url = await serve(appWith({ api: 'data-sources' }));
  const user = newKey();
  const agent = new http.Agent({ keepAlive: true, maxSockets: 8 });
  const statuses = await Promise.all(
    Array.from(
      { length: 240 },
      () =>
        new Promise((resolve, reject) => {
          const options = { agent, headers: { 'x-user': user } };
          http.get(url, options, (res) => res.resume().on('end', () => resolve(res.statusCode))).on('error', reject);
        }),
    ),
  );
  agent.destroy();
  assert.equal(statuses.filter((status) => status === 200).length, 200);
  assert.equal(statuses.filter((status) => status === 429).length, 40);
});

test('a message and a reference of one\'s own', async () => {
  const own = new RateLimiter({ pool, message: 'Slow down.', referenceUrl: 'https://example.com/limits' });
  const url = await serve(appWith({ api: 'never' }, own));
  const response = await get(url, newKey());
  assert.equal(response.status, 429);
  assert.equal(response.headers.get('retry-after'), null);
  assert.deepEqual(await response.json(), {
    message: 'Slow down.',
    referenceUrl: 'https://example.com/limits',
    nextValidRequestDate: null,
  });
});

test('failCallback answers instead, as with express-brute', async () => {
  const app = appWith({
    failCallback(req, res, next, nextValidRequestDate) {
      res.status(420).json({ next: nextValidRequestDate, wasDate: nextValidRequestDate instanceof Date });
    },
  });
  const url = await serve(app);
  const user = newKey();
  for (let i = 0; i < 3; i++) assert.equal((await get(url, user)).status, 200);
  const response = await get(url, user);
  assert.equal(response.status, 420);
  assert.equal(response.headers.get('retry-after'), '1');
  const { next, wasDate } = await response.json();
  assert.ok(wasDate);
  assert.ok(new Date(next) - Date.now() <= 1000);
  assert.equal(app.served, 3);
});

test('failCallback may let through, and its errors go to next', async () => {
  const user = newKey();
  const url = await serve(appWith({ api: 'never', failCallback: (req, res, next) => next() }));
  assert.equal((await get(url, user)).status, 200);
  for (const failCallback of [
    () => {
      throw new Error('broken');
    },
    async () => {
      throw new Error('broken');
    },
  ]) {
    const broken = await serve(appWith({ api: 'never', failCallback }));
    const response = await get(broken, user);
    assert.equal(response.status, 500);
    assert.deepEqual(await response.json(), { error: 'broken' });
  }
});

test('several keys of one request', async () => {
  const app = newKey();
  const url = await serve(
    appWith({ keys: async (req) => [keys(req), { scope: 'app', key: app }] }),
  );
  const [a, b] = [newKey(), newKey()];
  for (const user of [a, a, a, b, b]) assert.equal((await get(url, user)).status, 200);
  const response = await get(url, b);
  assert.equal(response.status, 429);
  assert.match(response.headers.get('ratelimit'), /^"web\/all";r=0;t=3\d{3}$/);
});

test('api, cost and plan may depend on the request', async () => {
  const url = await serve(
    appWith({ api: (req) => req.query.api, cost: (req) => Number(req.query.cost), plan: () => undefined }),
  );
  const user = newKey();
  const response = await get(url, user, '/?api=data-sources&cost=150');
  assert.equal(response.headers.get('ratelimit'), '"fliplet/data-sources";r=50;t=10');
  assert.equal((await get(url, user, '/?api=data-sources&cost=0')).status, 500);
  assert.equal((await get(url, user, '/?api=unheard-of&cost=1')).status, 500);
});

test('a request without a key is an error, not a pass', async () => {
  for (const none of [() => null, () => [], () => undefined, () => ({ scope: 'user' })]) {
    const app = appWith({ keys: none });
    assert.equal((await get(await serve(app), 'x')).status, 500);
    assert.equal(app.served, 0);
  }
});

test('two limits on one route both show', async () => {
  const app = express();
  const user = newKey();
  app.use(limiter.middleware({ api: 'data-sources', keys }));
  app.get('/', limiter.middleware({ api: 'web', keys }), (req, res) => res.end());
  const response = await get(await serve(app), user);
  assert.equal(response.headers.get('ratelimit'), '"fliplet/data-sources";r=199;t=10, "web";r=2;t=1');
  assert.equal(response.headers.get('ratelimit-policy'), '"fliplet/data-sources";q=200;w=10, "web";q=3;w=1');
});

test('a throttled request is served late', async () => {
  const url = await serve(appWith({ api: 'patient' }));
  const user = newKey();
  const began = performance.now();
  const responses = await Promise.all([get(url, user), get(url, user), get(url, user)]);
  assert.ok(performance.now() - began > 950);
  assert.deepEqual(
    (await Promise.all(responses.map((response) => response.json()))).map(({ reason }) => reason).sort(),
    ['delayed', 'delayed', 'ok'],
  );
});

test('with delay: false the application gets the verdict and decides itself', async () => {
  const url = await serve(appWith({ api: 'patient', delay: false }));
  const user = newKey();
  const began = performance.now();
  const responses = await Promise.all(Array.from({ length: 10 }, () => get(url, user)));
  assert.ok(responses.every((response) => response.status === 200));
  assert.ok(performance.now() - began < 4000);
});

test('a throttled client that goes away is not served, and leaves no timer', async () => {
  const app = appWith({ api: 'patient' });
  const url = await serve(app);
  const user = newKey();
  await get(url, user);
  await assert.rejects(
    fetch(url, { headers: { 'x-user': user }, signal: AbortSignal.timeout(150) }),
    { name: 'TimeoutError' },
  );
  await new Promise((resolve) => setTimeout(resolve, 600));
  assert.equal(app.served, 1);
});

test('database away: 503, or open, for all routes or for one', async () => {
  const nobody = poolOfNobody();
  const closed = new RateLimiter({ pool: nobody });
  const open = new RateLimiter({ pool: nobody, failOpen: true });
  const cases = [
    [closed, {}, 503],
    [closed, { failOpen: true }, 200],
    [open, {}, 200],
    [open, { failOpen: false }, 503],
    [closed, { keys: () => [{ scope: 'user', key: 1 }, { scope: 'app', key: 1 }] }, 503],
    [open, { keys: () => [{ scope: 'user', key: 1 }, { scope: 'app', key: 1 }] }, 200],
  ];
  for (const [rateLimiter, options, status] of cases) {
    const response = await get(await serve(appWith(options, rateLimiter)), 'x');
    assert.equal(response.status, status);
    assert.equal(response.headers.get('ratelimit'), null);
    assert.deepEqual(
      await response.json(),
      status === 200
        ? { ok: true, reason: 'unavailable' }
        : { error: 'the rate limiter is unavailable' },
    );
  }
});

test('no room for another counter counts as away', async () => {
  const full = {
    query: async () => ({ rows: [['[[false,"store_full",0,0,null,null,"web",1,3,1000000,1]]']] }),
  };
  const closed = new RateLimiter({ pool: full });
  assert.equal((await get(await serve(appWith({}, closed)), 'x')).status, 503);
  assert.equal((await get(await serve(appWith({ failOpen: true }, closed)), 'x')).status, 200);
});

test('bad options are errors at once', () => {
  assert.throws(() => limiter.middleware(), TypeError);
  assert.throws(() => limiter.middleware({ api: 'web' }), TypeError);
  assert.throws(() => limiter.middleware({ keys }), TypeError);
  assert.throws(() => limiter.middleware({ api: 'web', keys, failCallback: 1 }), TypeError);
});
