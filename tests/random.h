/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * random: numbers that look like chance and are the same in every run with one seed (xorshift64).
 */
#ifndef TESTS_RANDOM_H
#define TESTS_RANDOM_H

#include <stdint.h>
#include <stdlib.h>

#define RANDOM_SEED 88172645463325252ull

/** random_seed - of a test that can run with others: SEED of the environment, else 1 */
static inline unsigned random_seed(void)
{
	const char *seed = getenv("SEED");

	return seed ? (unsigned)strtoul(seed, NULL, 10) : 1;
}

/** next_random - 64 bits; @state: anything but 0 at first */
static inline uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

#endif
