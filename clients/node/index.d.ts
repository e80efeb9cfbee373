/*
 * index.d.ts: the types of fliplet-ratelimit
 *
 * Needs no other package's types: the pool is described by what is used of
 * it, and requests take the type that the place of use asks for.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 */

/** What is used of a pool of the package pg. */
export interface QueryablePool {
  query(config: any): Promise<{ rows: any[] }>;
}

/** An id; a number has to be a safe integer. */
export type Key = string | number | bigint;

export interface Pair {
  scope: string;
  key: Key;
}

export type Reason =
  | 'ok'
  | 'delayed'
  | 'no_limit'
  | 'unlimited'
  | 'refused'
  | 'too_large'
  | 'blocked'
  | 'store_full'
  | 'off'
  /** failOpen, and the database is away: the one that is not the database's */
  | 'unavailable';

/** The answer to a request, with the names of the SQL function fl_rate_json. */
export interface Verdict {
  /** serve the request */
  readonly allowed: boolean;
  readonly reason: Reason;
  /** cost that is left under the limit that decided; above 2^53 the nearest number; null: no limit applies */
  readonly remaining: number | null;
  /** serve the request after so many milliseconds */
  readonly delayMs: number;
  /** milliseconds until nextValidAt by the server's clock, 0 when allowed, null: never, or not known (store_full) */
  readonly retryAfterMs: number | null;
  /** when allowed, now; when refused, the first instant at which the request is granted if nothing else is spent, rounded up; null: never, not known (store_full), or no limit applies */
  readonly nextValidAt: Date | null;
  /** the first instant at which remaining grows, rounded up; null: nothing is spent */
  readonly resetAt: Date | null;
  /** as requested; of several pairs the one that decided */
  readonly scope: string;
  readonly key: string;
  readonly api: string;
  /** the limit that decided */
  readonly name: string | null;
  readonly limitId: number | null;
  readonly maxRequests: number | null;
  readonly periodMs: number | null;
}

export interface RateLimiterOptions {
  pool: QueryablePool;
  /** the extension's schema, as it is spelt in the catalog; default 'public' */
  schema?: string;
  /** most checks in one query; default 1000 */
  maxBatch?: number;
  /** most queries of checks under way at one time; default 4 */
  maxInFlight?: number;
  /** let requests in while the database is away; default false */
  failOpen?: boolean;
  /** called once for every query that found the database away */
  onError?: (error: RateLimiterUnavailable) => void;
  /** use prepared statements; default true */
  prepare?: boolean;
  /** message of a 429; default: the documented one */
  message?: string;
  /** referenceUrl of a 429; default: the documented one */
  referenceUrl?: string;
}

export type NextFunction = (error?: any) => void;

type Awaitable<T> = T | Promise<T>;

export interface MiddlewareOptions<Req = any, Res = any> {
  /** the API that is limited */
  api: string | ((req: Req) => Awaitable<string>);
  /** who asks: one pair, or several that are spent all or none */
  keys: Pair | Pair[] | ((req: Req) => Awaitable<Pair | Pair[]>);
  plan?: string | null | ((req: Req) => Awaitable<string | null | undefined>);
  /** default 1 */
  cost?: number | ((req: Req) => Awaitable<number>);
  /** answers refused requests instead of the documented 429; the date is null when the request can never be granted */
  failCallback?: (req: Req, res: Res, next: NextFunction, nextValidRequestDate: Date | null) => unknown;
  /** hold throttled requests back for delayMs; default true */
  delay?: boolean;
  /** default: the limiter's */
  failOpen?: boolean;
  /** default: the limiter's */
  message?: string;
  /** default: the limiter's */
  referenceUrl?: string;
}

export class RateLimiter {
  constructor(options: RateLimiterOptions);

  /** Spend one request if it is granted. */
  check(scope: string, key: Key, api: string, cost?: number, plan?: string | null): Promise<Verdict>;

  /** Spend one request over several keys, in all of them or in none. */
  checkAll(pairs: Pair[], api: string, cost?: number, plan?: string | null): Promise<Verdict>;

  /** What check would answer; spends nothing. */
  peek(scope: string, key: Key, api: string, cost?: number, plan?: string | null): Promise<Verdict>;

  /** Give back what was spent; resolves to what remains, null: no limit applies. */
  refund(scope: string, key: Key, api: string, cost?: number, plan?: string | null): Promise<number | null>;

  /** Clear what such a request would spend from; resolves to the number of counters. */
  reset(scope: string, key: Key, api: string): Promise<number>;

  /** An Express middleware; sets req.rateLimit to the verdict. */
  middleware<Req = any, Res = any>(
    options: MiddlewareOptions<Req, Res>,
  ): (req: Req, res: Res, next: NextFunction) => void;
}

/** The database is away, or has no room for another counter. */
export class RateLimiterUnavailable extends Error {
  readonly code: 'RATE_LIMITER_UNAVAILABLE';
  readonly status: 503;
  readonly statusCode: 503;
  readonly cause?: unknown;
}

/** The response's header fields RateLimit-Policy, RateLimit and Retry-After; {} when no limit applies. */
export function headers(verdict: Verdict): Record<string, string>;

/** The body of a 429, null when allowed. */
export function body(
  verdict: Verdict,
  texts?: { message?: string; referenceUrl?: string },
): { message: string; referenceUrl: string; nextValidRequestDate: Date | null } | null;
