/*
 * peers.js: limiters as a Node application uses them
 *
 *   node peers.js PEER CONCURRENCY SECONDS KEYS
 *
 * Prints the requests per second of so many loops, each of which awaits one
 * request for a random key, then makes the next. Every peer has the same
 * limit, which grants every request: 1 000 000 000 per 10 s. PostgreSQL is
 * named by PGHOST and so on, Redis by REDIS_SOCKET, the client under test by
 * FLIPLET_RATELIMIT.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 */
'use strict';

const LIMIT = 1000000000;
const SECONDS = 10;

/* Not measured: until then Node's compiler is still busy with either side. */
const WARM_UP_MS = 1500;

const [, , peer, concurrency, seconds, keys] = process.argv;
const loops = Number(concurrency);

function pool(max = loops) {
  const { Pool } = require('pg');
  return new Pool({ max });
}

function redis() {
  // exported in different ways over time
  const ioredis = require('ioredis');
  const Redis = ioredis.Redis ?? ioredis.default ?? ioredis;
  return new Redis({ path: process.env.REDIS_SOCKET });
}

/* One query a request, of this SQL function. */
function caller(name) {
  const db = pool();
  const query = { name, text: `SELECT ${name}('user', $1::text, 'bench')` };
  return (key) => db.query({ ...query, values: [key] });
}

/* Each makes a function of a key that spends one request. */
const PEERS = {
  async check() {
    return caller('fl_rate_check');
  },

  /* none: it spends nothing */
  async empty() {
    return caller('bench_empty');
  },

  /* the package of this repository */
  async client() {
    const { RateLimiter } = require(process.env.FLIPLET_RATELIMIT);
    const limiter = new RateLimiter({ pool: pool(8) });
    return async (key) => {
      if (!(await limiter.check('user', key, 'bench')).allowed) throw new Error('refused');
    };
  },

  'flexible-postgres': () => {
    const { RateLimiterPostgres } = require('rate-limiter-flexible');
    return new Promise((resolve, reject) => {
      const limiter = new RateLimiterPostgres(
        { storeClient: pool(), tableName: 'flexible', points: LIMIT, duration: SECONDS },
        (error) => (error ? reject(error) : resolve((key) => limiter.consume(key))),
      );
    });
  },

  async 'flexible-redis'() {
    const { RateLimiterRedis } = require('rate-limiter-flexible');
    const limiter = new RateLimiterRedis({ storeClient: redis(), points: LIMIT, duration: SECONDS });
    return (key) => limiter.consume(key);
  },

  /* the store of express-rate-limit, as the middleware calls it */
  async 'express-postgres'() {
    const { PostgresStore } = require('@acpr/rate-limit-postgresql');
    const store = new PostgresStore(
      {
        host: process.env.PGHOST,
        port: Number(process.env.PGPORT),
        user: process.env.PGUSER,
        database: process.env.PGDATABASE,
        max: loops,
      },
      'bench',
    );
    store.init({ windowMs: SECONDS * 1000 });
    // it makes its tables meanwhile
    for (let tries = 0; ; tries++) {
      try {
        await store.increment('0');
        break;
      } catch (error) {
        if (tries === 50) throw error;
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
    }
    return (key) => store.increment(key);
  },
};

async function main() {
  const spend = await PEERS[peer]();
  let done = 0;
  let stop = false;
  const running = Array.from({ length: loops }, async () => {
    while (!stop) {
      await spend(String(1 + Math.floor(Math.random() * Number(keys))));
      done++;
    }
  });
  const failed = Promise.all(running);
  await Promise.race([failed, new Promise((resolve) => setTimeout(resolve, WARM_UP_MS))]);
  const before = done;
  const began = performance.now();
  await Promise.race([failed, new Promise((resolve) => setTimeout(resolve, seconds * 1000))]);
  const rate = (done - before) / ((performance.now() - began) / 1000);
  stop = true;
  await failed;
  console.log(rate.toFixed(1));
  process.exit(0);
}

main().catch((error) => {
  console.error(`error: ${String(error?.message ?? error).split('\n')[0]}`);
  process.exit(1);
});
