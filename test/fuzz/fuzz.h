/*-------------------------------------------------------------------------
 *
 * fuzz.h
 *	  What libFuzzer calls.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef FUZZ_H
#define FUZZ_H

/* One run.  What is wrong ends the program. */
extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif							/* FUZZ_H */
