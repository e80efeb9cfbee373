/*-------------------------------------------------------------------------
 *
 * fliplet_ratelimit.c
 *	  Loading of the library, and its settings.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "fmgr.h"
#include "utils/guc.h"

#include "keep.h"
#include "limits.h"
#include "router.h"
#include "settings.h"
#include "slots.h"
#include "refusal.h"
#include "worker.h"

PG_MODULE_MAGIC;

#define DEFAULT_MESSAGE \
	"You've made too many attempts in a short period of time, please try " \
	"again in a few seconds. Read more about rate limiting and how you may " \
	"be affected by reading our documentation."
#define DEFAULT_REFERENCE_URL \
	"https://developers.fliplet.com/Rate-limiting-for-API.html"

bool		flr_enabled = true;
bool		flr_shipped_limits = true;
int			flr_max_memory;
int			flr_when_full = FLR_ANSWER_ERROR;
int			flr_undefined_limit = FLR_ANSWER_ERROR;
int			flr_error_style = FLR_STYLE_PLAIN;
char	   *flr_message;
char	   *flr_reference_url;
bool		flr_log_refusals = false;
int			flr_max_waiters;
int			flr_store_keys = FLR_KEYS_TEXT;
int			flr_history_retention;
int			flr_save_min_period;

static const struct config_enum_entry answers[] = {
	{"error", FLR_ANSWER_ERROR, false},
	{"allow", FLR_ANSWER_ALLOW, false},
	{NULL, 0, false}
};

static const struct config_enum_entry error_styles[] = {
	{"plain", FLR_STYLE_PLAIN, false},
	{"pgrst", FLR_STYLE_PGRST, false},
	{NULL, 0, false}
};

static const struct config_enum_entry key_styles[] = {
	{"text", FLR_KEYS_TEXT, false},
	{"hash", FLR_KEYS_HASH, false},
	{NULL, 0, false}
};

void		_PG_init(void);

/* Assign hook of fliplet_ratelimit.shipped_limits. */
static void
assign_shipped_limits(bool value, void *extra)
{
	(void) value;
	(void) extra;
	flr_limits_forget_choices();
}

/* Assign hook of fliplet_ratelimit.max_memory. */
static void
assign_max_memory(int value, void *extra)
{
	(void) value;
	(void) extra;
	flr_store_try_again();
}

/* Assign hook of fliplet_ratelimit.undefined_limit. */
static void
assign_undefined_limit(int value, void *extra)
{
	(void) value;
	(void) extra;
	flr_limits_forget_choices();
}

/* Define the settings. */
static void
define_settings(void)
{
	DefineCustomBoolVariable("fliplet_ratelimit.enabled",
							 "Enforces rate limits.",
							 "Off allows every request and counts none.",
							 &flr_enabled, true, PGC_SUSET, 0,
							 NULL, NULL, NULL);
	DefineCustomBoolVariable("fliplet_ratelimit.shipped_limits",
							 "Applies the limits that come with the extension.",
							 "Off treats them as if they did not exist.",
							 &flr_shipped_limits, true, PGC_SUSET, 0,
							 NULL, assign_shipped_limits, NULL);
	DefineCustomIntVariable("fliplet_ratelimit.max_memory",
							"Sets the most shared memory that counters may take.",
							"Memory that has been taken is kept when this is lowered.",
							&flr_max_memory, 32 * 1024, 2 * 1024,
							MAX_KILOBYTES, PGC_SIGHUP, GUC_UNIT_KB,
							NULL, assign_max_memory, NULL);
	DefineCustomEnumVariable("fliplet_ratelimit.when_full",
							 "Answers a request for which there is no room for a counter.",
							 NULL,
							 &flr_when_full, FLR_ANSWER_ERROR, answers,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomEnumVariable("fliplet_ratelimit.undefined_limit",
							 "Answers a request for a scope or an API that no limit knows.",
							 NULL,
							 &flr_undefined_limit, FLR_ANSWER_ERROR, answers,
							 PGC_SUSET, 0, NULL, assign_undefined_limit, NULL);
	DefineCustomEnumVariable("fliplet_ratelimit.error_style",
							 "Chooses the form of the error that refuses a request.",
							 "\"plain\" raises SQLSTATE PT429, \"pgrst\" raises SQLSTATE PGRST with JSON in message and detail, as PostgREST reads it.",
							 &flr_error_style, FLR_STYLE_PLAIN, error_styles,
							 PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("fliplet_ratelimit.message",
							   "Sets the message of a refusal.",
							   NULL,
							   &flr_message, DEFAULT_MESSAGE,
							   PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("fliplet_ratelimit.reference_url",
							   "Sets the referenceUrl in the JSON body of a refusal.",
							   NULL,
							   &flr_reference_url, DEFAULT_REFERENCE_URL,
							   PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("fliplet_ratelimit.log_refusals",
							 "Writes refusals to the server log.",
							 NULL,
							 &flr_log_refusals, false, PGC_SUSET, 0,
							 NULL, NULL, NULL);
	DefineCustomIntVariable("fliplet_ratelimit.max_waiters",
							"Sets how many sessions may sleep in fl_rate_wait() at a time.",
							NULL,
							&flr_max_waiters, 16, 0, 262143,
							PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomEnumVariable("fliplet_ratelimit.store_keys",
							 "Chooses what views show of a key, and what is stored of it.",
							 NULL,
							 &flr_store_keys, FLR_KEYS_TEXT, key_styles,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("fliplet_ratelimit.history_retention",
							"Sets how long the history of statistics is kept.",
							NULL,
							&flr_history_retention, 7 * 24 * 60, 0, INT_MAX,
							PGC_SUSET, GUC_UNIT_MIN, NULL, NULL, NULL);
	DefineCustomIntVariable("fliplet_ratelimit.save_min_period",
							"Sets the shortest period of a limit whose counters are saved.",
							NULL,
							&flr_save_min_period, 60, 0, INT_MAX,
							PGC_SUSET, GUC_UNIT_S, NULL, NULL, NULL);
}

/* Called when the library is loaded. */
void
_PG_init(void)
{
	define_settings();
	flr_worker_init();
	flr_slots_init();
	flr_router_init();
	MarkGUCPrefixReserved("fliplet_ratelimit");
	flr_limits_init();
	flr_keep_init();
	flr_refusal_init();
}
