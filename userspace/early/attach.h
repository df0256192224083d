/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * attach: the work of reprotect-early: attaches what early.conf names, and reports. Later in the boot, once
 * the root file system is mounted, gives the disks their stores.
 */
#ifndef REPROTECT_EARLY_ATTACH_H
#define REPROTECT_EARLY_ATTACH_H

#include <stdbool.h>

/**
 * struct early_options - one run
 * @config, @report: paths
 * @when: where in the boot this is, for the report
 * @wait: for disks that are not there yet, as long as the configuration says
 * @last: nothing may be left for later: a disk whose store cannot be found is attached without
 * @stores: NULL, or where the root file system is mounted: add the stores that are found there
 */
struct early_options {
	const char *config, *report, *when, *stores;
	bool wait, last;
};

/** early_run - 0: all disks of the list are attached (or it is empty); 1: not all, the report says which and why */
int early_run(const struct early_options *options);

#endif
