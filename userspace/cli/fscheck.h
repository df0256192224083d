/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fscheck: whether a file system, or a partition table, is whole, by the programs that know them (e2fsck, xfs_repair, btrfs,
 * fsck.fat, sfdisk), which repair nothing. A journal is replayed first, for a machine would do that too: so the device must be writable, and
 * nobody else's (an export with an overlay). Called by points verify.
 */
#ifndef REPROTECT_CLI_FSCHECK_H
#define REPROTECT_CLI_FSCHECK_H

#include <stddef.h>
#include <stdint.h>

/** enum fscheck_result - SKIPPED: it was not looked into; the detail says why */
enum fscheck_result { FSCHECK_GOOD, FSCHECK_SKIPPED, FSCHECK_WARNING, FSCHECK_BAD };

#define FSCHECK_DETAIL_BYTES 256u

/** fscheck - check the file system of @type on @device; each program has @timeout_ms */
enum fscheck_result fscheck(const char *device, const char *type, uint64_t timeout_ms, char detail[FSCHECK_DETAIL_BYTES]);
/** fscheck_table - check the partition table of @device */
enum fscheck_result fscheck_table(const char *device, uint64_t timeout_ms, char detail[FSCHECK_DETAIL_BYTES]);
/**
 * fscheck_judge - what the exit status and the output of the program that checks a @type mean. Pure.
 *
 * A file system without a journal (vfat, ext2) may be inconsistent as of any instant at which it was in use: that is a warning.
 */
enum fscheck_result fscheck_judge(const char *type, int exit, const char *output, char detail[FSCHECK_DETAIL_BYTES]);
/** fscheck_judge_table - the same of sfdisk --verify, whose exit status says nothing. Pure. */
enum fscheck_result fscheck_judge_table(int exit, const char *output, char detail[FSCHECK_DETAIL_BYTES]);

#endif
