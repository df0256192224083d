/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a suite is written against. In the kernel that is KUnit itself; in user
 * space, where tests/unit compiles the same suites, it is as much of KUnit as
 * the suites use, on top of cmocka. Nothing is new: whoever knows KUnit knows
 * it all, but for harness_page_fail() and harness_rnd().
 */
#ifndef BLKCBT_KUNIT_HARNESS_H
#define BLKCBT_KUNIT_HARNESS_H

#ifdef __KERNEL__

#include <kunit/test.h>
#include "../../kmod/fault.h"

/**
 * harness_page_fail() - let every page of a map fail to be allocated
 * @fail: from now on, or no more
 *
 * The suite's exit switches it off.
 */
static inline void harness_page_fail(bool fail)
{
	WRITE_ONCE(blkcbt_fault_page_every, fail);
}

#else /* user space */

#include "../unit/kunit.h"

#endif

/* A fixed sequence of numbers, the same in both worlds and on every run. */
struct harness_rnd {
	unsigned long long seed;
};

static inline unsigned long long harness_rnd(struct harness_rnd *rnd, unsigned int below)
{
	rnd->seed = rnd->seed * 6364136223846793005ULL + 1442695040888963407ULL;
	return (unsigned int)(rnd->seed >> 32) % below;
}

#endif /* BLKCBT_KUNIT_HARNESS_H */
