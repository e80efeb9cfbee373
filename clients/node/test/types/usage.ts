/*
 * usage.ts: compiles if index.d.ts says what its users need
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 */
import express from 'express';
import { Pool } from 'pg';
import { RateLimiter, RateLimiterUnavailable, headers, body, type Verdict } from 'fliplet-ratelimit';

const limiter = new RateLimiter({
  pool: new Pool(),
  schema: 'limits',
  onError: (error) => console.error(error.status, error.cause),
});

const app = express();
app.use(
  limiter.middleware({
    api: 'data-sources',
    keys: (req) => ({ scope: 'user', key: req.get('x-user') ?? 'anonymous' }),
  }),
);
app.get(
  '/',
  limiter.middleware<express.Request, express.Response>({
    api: (req) => req.path,
    keys: async (req) => [
      { scope: 'user', key: 1n },
      { scope: 'app', key: req.ip ?? '' },
    ],
    failCallback: (req, res, next, date) => res.status(429).send(date?.toISOString()),
  }),
  (req, res) => {
    res.end();
  },
);

export async function use(): Promise<number | null> {
  const verdict: Verdict = await limiter.check('user', 42, 'ai', 2, 'pro');
  if (!verdict.allowed) {
    const date: Date | null = verdict.nextValidAt;
    console.log(headers(verdict)['Retry-After'], body(verdict)?.message, date);
  }
  // @ts-expect-error: an api is needed
  await limiter.check('user', 42);
  // @ts-expect-error: a missing key must not be overlooked
  limiter.middleware({ api: 'ai', keys: (req: express.Request) => ({ scope: 'user', key: req.get('x-user') }) });
  // @ts-expect-error: a verdict is not to be changed
  verdict.allowed = true;
  const error = new RateLimiterUnavailable();
  return error.status === 503 ? limiter.refund('user', 42, 'ai') : limiter.reset('user', 42, 'ai');
}
