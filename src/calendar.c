/*-------------------------------------------------------------------------
 *
 * calendar.c
 *	  Fixed windows that follow the calendar of a time zone.
 *
 * Windows of months or days begin at local times, so a day of a change of
 * clocks has 23 or 25 hours.  Windows of hours and less, and of mixed
 * intervals, have one length and need no calendar.
 *
 * The functions that run under a lock (flr_calendar() and what it calls)
 * neither raise nor allocate.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "utils/datetime.h"
#include "utils/timestamp.h"

#include "limits.h"

/* The Monday that windows of weeks are aligned to. */
#define MONDAY_YEAR		1970
#define MONDAY_MONTH	1
#define MONDAY_DAY		5

/* A first guess of a window is never further off than this. */
#define MAX_MENDS		4

/* 365.25 days */
#define HOURS_PER_YEAR	8766

/* Division that rounds towards minus infinity. */
static inline int64
floor_div(int128 a, int64 b)
{
	return (int64) (a / b - (a % b != 0 && (a < 0) != (b < 0)));
}

/* The local time of an instant. */
static Timestamp
to_local(TimestampTz instant, pg_tz *zone)
{
	struct pg_tm tm;
	fsec_t		fsec;
	int			tz;
	Timestamp	local;

	if (timestamp2tm(instant, &tz, &tm, &fsec, NULL, zone) != 0 ||
		tm2timestamp(&tm, fsec, NULL, &local) != 0)
		return instant;
	return local;
}

/*
 * The instant of a local time; where there are two or none, PostgreSQL's.
 * False when it is out of range.
 */
static bool
to_instant(Timestamp local, pg_tz *zone, TimestampTz *instant)
{
	struct pg_tm tm;
	fsec_t		fsec;
	int			tz;

	if (!IS_VALID_TIMESTAMP(local) ||
		timestamp2tm(local, NULL, &tm, &fsec, NULL, NULL) != 0)
		return false;
	tz = DetermineTimeZoneOffset(&tm, zone);
	return tm2timestamp(&tm, fsec, &tz, instant) == 0;
}

/*
 * A local time so many months later; the day is clipped to the month's.
 * False when it is out of range.
 */
static bool
add_months(Timestamp local, int64 months, Timestamp *result)
{
	struct pg_tm tm;
	fsec_t		fsec;
	int64		month;

	if (timestamp2tm(local, NULL, &tm, &fsec, NULL, NULL) != 0)
		return false;
	month = (int64) tm.tm_year * 12 + tm.tm_mon - 1 + months;
	tm.tm_year = (int) floor_div(month, 12);
	tm.tm_mon = (int) (month - (int64) tm.tm_year * 12) + 1;
	tm.tm_mday = Min(tm.tm_mday,
					 day_tab[isleap(tm.tm_year)][tm.tm_mon - 1]);
	return IS_VALID_JULIAN(tm.tm_year, tm.tm_mon, tm.tm_mday) &&
		tm2timestamp(&tm, fsec, NULL, result) == 0;
}

/*
 * The instant at which window number n begins; beyond the calendar's ends,
 * FLR_NEVER and its opposite.
 */
static TimestampTz
window_start(const FlrCalendarArg *arg, int64 n)
{
	Timestamp	local;
	TimestampTz instant;

	if (arg->months > 0)
	{
		if (!add_months(arg->anchor, n * arg->months, &local))
			return n > 0 ? FLR_NEVER : PG_INT64_MIN;
	}
	else
	{
		int128		usecs = (int128) n * arg->days * USECS_PER_DAY +
		arg->anchor;

		if (usecs != (Timestamp) usecs)
			return n > 0 ? FLR_NEVER : PG_INT64_MIN;
		local = (Timestamp) usecs;
	}
	if (!to_instant(local, arg->zone, &instant))
		return n > 0 ? FLR_NEVER : PG_INT64_MIN;
	return instant;
}

/* An FlrCalendar: the window that holds t, a TimestampTz. */
void
flr_calendar(const FlrRule *rule, int64 t, int64 *start, int64 *end)
{
	const FlrCalendarArg *arg = rule->calendar_arg;
	Timestamp	local = to_local(t, arg->zone);
	int64		n;

	/* a first guess, off by one at most, and mended below */
	if (arg->months > 0)
	{
		struct pg_tm a;
		struct pg_tm b;
		fsec_t		fsec;

		if (timestamp2tm(arg->anchor, NULL, &a, &fsec, NULL, NULL) != 0 ||
			timestamp2tm(local, NULL, &b, &fsec, NULL, NULL) != 0)
			n = 0;
		else
			n = floor_div(((int64) b.tm_year - a.tm_year) * 12 +
						  b.tm_mon - a.tm_mon, arg->months);
	}
	else
		n = floor_div((int128) local - arg->anchor,
					  arg->days * USECS_PER_DAY);

	*start = window_start(arg, n);
	for (int i = 0; *start > t && i < MAX_MENDS; i++)
		*start = window_start(arg, --n);
	*end = window_start(arg, n + 1);
	for (int i = 0; *end <= t && i < MAX_MENDS; i++)
	{
		*start = *end;
		*end = window_start(arg, ++n + 1);
	}
}

/*
 * Microseconds of an interval as extract(epoch) counts them: days of 24 hours,
 * months of 30 days, years of 365.25 days.
 */
int64
flr_interval_usecs(const Interval *interval)
{
	int128		usecs = (int128) (interval->month / MONTHS_PER_YEAR) *
	HOURS_PER_YEAR;

	usecs = (usecs * USECS_PER_HOUR) +
		(int128) (interval->month % MONTHS_PER_YEAR) * DAYS_PER_MONTH *
		USECS_PER_DAY + (int128) interval->day * USECS_PER_DAY +
		interval->time;
	if (usecs > PG_INT64_MAX)
		return PG_INT64_MAX;
	if (usecs < PG_INT64_MIN)
		return PG_INT64_MIN;
	return (int64) usecs;
}

/*
 * Set the fixed windows of a rule up.  False when the period mixes months
 * with anything else, which nobody could align.
 */
bool
flr_calendar_setup(FlrRule *rule, FlrCalendarArg *arg, const Interval *period,
				   pg_tz *zone, bool has_anchor, TimestampTz anchor)
{
	struct pg_tm epoch = {0};
	Timestamp	local;
	int			tz;

	if (period->month != 0 && (period->day != 0 || period->time != 0))
		return false;

	epoch.tm_year = MONDAY_YEAR;
	epoch.tm_mon = MONDAY_MONTH;
	epoch.tm_mday = (period->month == 0 && period->time == 0 &&
					 period->day % 7 == 0) ? MONDAY_DAY : 1;
	if (!has_anchor)
	{
		tz = DetermineTimeZoneOffset(&epoch, zone);
		if (tm2timestamp(&epoch, 0, &tz, &anchor) != 0)
			return false;
	}

	if (period->month == 0 && (period->day == 0 || period->time != 0))
	{
		rule->anchor = anchor;
		rule->calendar = NULL;
		return true;
	}
	local = to_local(anchor, zone);
	arg->months = period->month;
	arg->days = period->day;
	arg->zone = zone;
	arg->anchor = local;
	rule->calendar = flr_calendar;
	rule->calendar_arg = arg;

	/* no window may look shorter than it is to whoever keeps the record */
	if (period->month != 0)
		rule->retention = rule->period =
			(int64) period->month * 31 * USECS_PER_DAY;
	else
		rule->retention = rule->period + USECS_PER_DAY;
	return true;
}
