/*-------------------------------------------------------------------------
 *
 * limits.h
 *	  Which definitions apply to a request: this backend's copy of them.
 *
 * Everyone's and the plans' rows of fl_rate_limit are copied whole, rows for
 * one key as far as they are few, else one key at a time.  The copy is made
 * anew when a committed change has been announced through the relation cache.
 * The table is read with a fresh snapshot, without SPI and without regard to
 * the caller's privileges.
 *
 * Use: flr_limits_begin() once a call, then flr_limits_find() for each pair.
 * What they return stays valid until the next flr_limits_begin().  All of
 * them may raise and allocate, so none is called under a lock of ours.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLR_LIMITS_H
#define FLR_LIMITS_H

#include "datatype/timestamp.h"
#include "pgtime.h"

#include "algorithm.h"
#include "hash.h"
#include "settings.h"
#include "text.h"

/* for this library only */
#pragma GCC visibility push(hidden)

typedef enum FlrOnLimit
{
	FLR_ON_LIMIT_REFUSE,
	FLR_ON_LIMIT_DELAY,
	FLR_ON_LIMIT_COUNT
} FlrOnLimit;

/* How the windows of a fixed_window limit follow the calendar. */
typedef struct FlrCalendarArg
{
	int32		months;			/* length of a window: either months */
	int32		days;			/* or days */
	pg_tz	   *zone;
	Timestamp	anchor;			/* local time in that zone */
} FlrCalendarArg;

/* One row of fl_rate_limit. */
typedef struct FlrLimit
{
	int32		limit_id;		/* negative: shipped */
	Oid			relation;		/* the table that it is in */
	const char *name;
	Datum		name_datum;		/* the same as text */
	const char *scope;
	const char *api;			/* "*": every api */
	const char *key;			/* or NULL */
	const char *plan;			/* or NULL */
	bool		unlimited;		/* max_requests is NULL */
	bool		has_period;
	bool		enabled;
	const char *invalid;		/* a column that makes no sense here, or NULL */
	FlrOnLimit	on_limit;
	int64		max_delay;		/* microseconds */
	TimestampTz valid_from;
	TimestampTz valid_until;
	Interval	period;			/* as defined */
	FlrRule		rule;
	FlrCalendarArg calendar;
	uint64		identity;		/* hash of name, scope, api, algorithm */
	uint64		name_hash;
	uint32		stats;			/* block of statistics, 0: not known yet */
	struct FlrLimit *next;		/* in the same scope, or for the same key */
} FlrLimit;

/* A scope and a key of a request. */
typedef struct FlrPair
{
	FlrText		scope;
	FlrText		key;
	FlrHash		subject;
} FlrPair;

/* The limits that apply to a request, pair by pair. */
typedef struct FlrLimitSet
{
	int			n;
	FlrLimit   *limits[FLR_MAX_LIMITS];
	uint8		pairs[FLR_MAX_LIMITS];	/* the pair that brought it in */
	const FlrLimit *unlimited;	/* an exemption among them, or NULL */
} FlrLimitSet;

/* Why a definition does not apply to a request. */
typedef enum FlrWhy
{
	FLR_WHY_APPLIES,
	FLR_WHY_UNLIMITED,
	FLR_WHY_SHADOW,
	FLR_WHY_DISABLED,
	FLR_WHY_NOT_YET,
	FLR_WHY_OVER,
	FLR_WHY_SHIPPED_OFF,
	FLR_WHY_OTHER_PLAN,
	FLR_WHY_REPLACED
} FlrWhy;

typedef struct FlrCandidate
{
	FlrLimit   *limit;
	FlrWhy		why;
	FlrLimit   *by;				/* REPLACED: by this one */
} FlrCandidate;

extern void flr_limits_init(void);
extern void flr_limits_changing(void);
extern void flr_limits_begin(Oid function);
extern void flr_limits_forget_choices(void);
extern Oid	flr_limits_relation(void);
extern FlrHash flr_limits_subject(FlrText scope, FlrText key);
extern void flr_check_name(FlrText text, const char *what);
extern void flr_limits_find(FlrPair *pair, const FlrText *api,
							const FlrText *plan, int number,
							FlrLimitSet *set);
extern const FlrLimit *flr_limits_foresee(const FlrText *key,
										  FlrHash *subject);
extern int	flr_limits_candidates(FlrText scope, FlrText key, FlrText api,
								  FlrText plan, FlrCandidate **candidates);
extern FlrLimit *flr_limits_identified(uint64 identity);
extern FlrLimit *flr_limits_fetch(int32 limit_id);
extern uint64 flr_limits_name_hash(FlrText name);
extern uint64 flr_limits_identity(const FlrLimit *limit,
								  FlrAlgorithm algorithm);

/* calendar.c */
extern void flr_calendar(const FlrRule *rule, int64 t,
						 int64 *start, int64 *end);
extern bool flr_calendar_setup(FlrRule *rule, FlrCalendarArg *arg,
							   const Interval *period, pg_tz *zone,
							   bool has_anchor, TimestampTz anchor);
extern int64 flr_interval_usecs(const Interval *interval);

#pragma GCC visibility pop

#endif							/* FLR_LIMITS_H */
