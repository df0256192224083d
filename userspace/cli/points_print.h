/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * points_print: recovery points and rollbacks as people read them. Pure: what the master target answered
 * (userspace/master-target/points_control.h) in, text out. Called by points.c.
 */
#ifndef REPROTECT_CLI_POINTS_PRINT_H
#define REPROTECT_CLI_POINTS_PRINT_H

#include "cli.h"

/** points_title - `#57 "before-deploy" (2026-11-30 03:12:05, app)`, safe for a terminal */
const char *points_title(const json_t *point, char *out, size_t out_bytes);
/** points_print_machine - the table of a machine's points, and a line that sums them up */
void points_print_machine(const json_t *machine, FILE *out);
/** points_print_plan - what a rollback would do, before it is confirmed; @answer: to a dry one */
void points_print_plan(const json_t *answer, FILE *out);
/** points_print_discard - what goes and what stays; @answer: to point-discard; @done: or only what would */
void points_print_discard(const json_t *answer, bool done, FILE *out);
/** points_print_done - after a rollback to @point: what was done, and what now; @answer: to rollback-status */
void points_print_done(const json_t *answer, const json_t *point, FILE *out);
/** points_progress - one line about a rollback: what it does, a bar, rate and time left */
const char *points_progress(const json_t *answer, char *out, size_t out_bytes);

#endif
