/*-------------------------------------------------------------------------
 *
 * hash.h
 *	  SipHash-1-3 with a 128-bit result.
 *
 * A keyed hash: who does not know the key cannot make two inputs collide,
 * which is why a counter can be found by the hash of its subject alone.  One
 * round a word and three at the end, as hash tables of other systems have
 * them: no output is ever shown to whoever chooses the input.
 *
 * Source: J.-P. Aumasson and D. J. Bernstein, "SipHash: a fast short-input
 * PRF", 2012, and the authors' variant for 128 bits of output.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLR_HASH_H
#define FLR_HASH_H

typedef struct FlrHash
{
	uint64		lo;
	uint64		hi;
} FlrHash;

#define FLR_ROTL(x, b)	(((x) << (b)) | ((x) >> (64 - (b))))

/* One round of SipHash on the state v0 to v3. */
#define FLR_SIPROUND \
	do { \
		v0 += v1; v1 = FLR_ROTL(v1, 13); v1 ^= v0; v0 = FLR_ROTL(v0, 32); \
		v2 += v3; v3 = FLR_ROTL(v3, 16); v3 ^= v2; \
		v0 += v3; v3 = FLR_ROTL(v3, 21); v3 ^= v0; \
		v2 += v1; v1 = FLR_ROTL(v1, 17); v1 ^= v2; v2 = FLR_ROTL(v2, 32); \
	} while (0)

/* Read eight bytes, least significant first, on any machine. */
static inline uint64
flr_read_le64(const unsigned char *p)
{
#ifdef WORDS_BIGENDIAN
	uint64		word = 0;

	for (int i = 7; i >= 0; i--)
		word = (word << 8) | p[i];
	return word;
#else
	uint64		word;

	memcpy(&word, p, sizeof(word));
	return word;
#endif
}

/* The 128-bit hash of size bytes under a 128-bit key. */
static inline FlrHash
flr_siphash(FlrHash key, const void *data, size_t size)
{
	const unsigned char *p = data;
	const unsigned char *end = p + (size & ~(size_t) 7);
	uint64		v0 = UINT64CONST(0x736f6d6570736575) ^ key.lo;
	uint64		v1 = UINT64CONST(0x646f72616e646f6d) ^ key.hi ^ 0xee;
	uint64		v2 = UINT64CONST(0x6c7967656e657261) ^ key.lo;
	uint64		v3 = UINT64CONST(0x7465646279746573) ^ key.hi;
	uint64		word = (uint64) size << 56;
	FlrHash		result;

	for (; p < end; p += 8)
	{
		uint64		m = flr_read_le64(p);

		v3 ^= m;
		FLR_SIPROUND;
		v0 ^= m;
	}
	for (int i = (int) (size & 7) - 1; i >= 0; i--)
		word |= (uint64) p[i] << (8 * i);
	v3 ^= word;
	FLR_SIPROUND;
	v0 ^= word;

	v2 ^= 0xee;
	FLR_SIPROUND;
	FLR_SIPROUND;
	FLR_SIPROUND;
	result.lo = v0 ^ v1 ^ v2 ^ v3;
	v1 ^= 0xdd;
	FLR_SIPROUND;
	FLR_SIPROUND;
	FLR_SIPROUND;
	result.hi = v0 ^ v1 ^ v2 ^ v3;
	return result;
}

/* A hash as text: 32 hexadecimal digits, without a final zero. */
#define FLR_DIGEST_SIZE	32

/* Write a hash as text; returns FLR_DIGEST_SIZE. */
static inline int
flr_hash_digest(FlrHash hash, char *text)
{
	static const char hex[] = "0123456789abcdef";

	for (int i = 0; i < 16; i++)
	{
		text[i] = hex[(hash.lo >> (60 - 4 * i)) & 15];
		text[16 + i] = hex[(hash.hi >> (60 - 4 * i)) & 15];
	}
	return FLR_DIGEST_SIZE;
}

#endif							/* FLR_HASH_H */
