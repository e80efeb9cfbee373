/*-------------------------------------------------------------------------
 *
 * settings.h
 *	  The settings fliplet_ratelimit.*, and what all parts share.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLR_SETTINGS_H
#define FLR_SETTINGS_H

/* for this library only */
#pragma GCC visibility push(hidden)

/* SQLSTATEs of our own: PostgREST turns PTxyz into HTTP status xyz. */
#define FLR_ERRCODE_REFUSED		MAKE_SQLSTATE('P', 'T', '4', '2', '9')
#define FLR_ERRCODE_STORE_FULL	MAKE_SQLSTATE('P', 'T', '5', '0', '3')
#define FLR_ERRCODE_PGRST		MAKE_SQLSTATE('P', 'G', 'R', 'S', 'T')

/* Pairs of a request, and limits that apply to a request. */
#define FLR_MAX_PAIRS	16
#define FLR_MAX_LIMITS	16

typedef enum FlrAnswer
{
	FLR_ANSWER_ERROR,
	FLR_ANSWER_ALLOW
} FlrAnswer;

typedef enum FlrErrorStyle
{
	FLR_STYLE_PLAIN,
	FLR_STYLE_PGRST
} FlrErrorStyle;

typedef enum FlrStoreKeys
{
	FLR_KEYS_TEXT,
	FLR_KEYS_HASH
} FlrStoreKeys;

extern bool flr_enabled;
extern bool flr_shipped_limits;
extern int	flr_max_memory;		/* kB */
extern int	flr_when_full;		/* FlrAnswer */
extern int	flr_undefined_limit;	/* FlrAnswer */
extern int	flr_error_style;	/* FlrErrorStyle */
extern char *flr_message;
extern char *flr_reference_url;
extern bool flr_log_refusals;
extern int	flr_max_waiters;
extern int	flr_store_keys;		/* FlrStoreKeys */
extern int	flr_history_retention;	/* minutes */
extern int	flr_save_min_period;	/* seconds */

#pragma GCC visibility pop

#endif							/* FLR_SETTINGS_H */
