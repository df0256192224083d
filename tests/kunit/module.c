// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The module around the suites, and what the units find in kmod/main.c when
 * they are part of blkcbt. Nothing of it exists in user space.
 */
#include "harness.h"

#ifdef __KERNEL__

#include <linux/module.h>

/* Those of kmod/fault.h that the units know. */
unsigned int blkcbt_fault_page_every;
atomic_t blkcbt_fault_count = ATOMIC_INIT(0);

MODULE_DESCRIPTION("unit tests of blkcbt");
MODULE_LICENSE("GPL");

#endif
