/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * points: the recovery points of a machine: the states of its undo log that are consistent and can be had, and the
 * one that its disks are in. Made anew from the log when somebody asks. Selection is pure.
 */
#ifndef MASTER_TARGET_POINTS_H
#define MASTER_TARGET_POINTS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fault.h"
#include "state.h"
#include "undo_log.h"

/**
 * struct point - a recovery point
 * @id: number of the state
 * @meta: what it is (borrowed, see undo_log.h)
 * @verified: what points verify found (borrowed), or NULL
 * @time_ms: of the cut (wall clock)
 * @bytes: that its layer takes: given back when it is discarded, at most; 0 for the present
 * @copy_of: after a rollback: the state that this one is a copy of; 0: none
 * @present: the disks are in this state
 * @complete: it has every disk that the machine has now, in its present size or smaller; @why: what is missing
 * @pinned: a mark. What is marked as discarded is not offered.
 * @before_rollback: the state before the last rollback; offered even if it is not consistent, so that it can be taken back
 */
struct point {
	uint64_t id, epoch, time_ms, bytes, copy_of;
	const json_t *meta, *verified;
	bool consistent, app, present, complete, pinned, before_rollback;
	char why[200];
};

struct points {
	struct point *points; /* oldest first */
	size_t count;
};

/**
 * points_collect - all points of @log that are offered; @state has the disks, and what the present is
 * @log: NULL: none is kept; then the present is the only point, and none while it is being overwritten
 * Return: 0 or -ENOMEM. What @points borrows lives as long as @log and @state do not change.
 */
int points_collect(struct points *points, const struct undo_log *log, const struct state *state);
void points_clear(struct points *points);

/**
 * points_select - find a point as people name it
 * @selector: "latest", "latest-app", "#<id>" or "<id>" (if no point has that name), a name, "undo" (before the last rollback), or a time:
 *	"2026-11-30 03:12", "2026-11-30T03:12:05.250Z", "03:12" (today, local), "@<seconds since 1970>": the newest point not later than it.
 *	Times without a zone are local, see wall_time.h. "latest" has the highest epoch: after a rollback it is what was there before, if that
 *	was consistent. Where a point and its copy after a rollback have the same name or time, the original counts.
 * @whole: only points that every disk has ("for a group"); else also others
 * @now_ms: wall clock
 * Return: the point, or NULL with @fault: unknown, ambiguous, no point that old, ... with what there is instead.
 */
const struct point *points_select(const struct points *points, const char *selector, bool whole, uint64_t now_ms,
				  struct fault *fault);
/** points_parse_time - *@ms since 1970; -EINVAL. A selector without seconds means the beginning of its minute. */
int points_parse_time(const char *text, uint64_t now_ms, uint64_t *ms);

/** points_find - the point with that id, or NULL */
const struct point *points_find(const struct points *points, uint64_t id);
/** points_origin - the state whose content @point has: a rollback makes a copy, and that may have been rolled back to again */
uint64_t points_origin(const struct points *points, const struct point *point);
/** points_named - whether a point has that name */
bool points_named(const struct points *points, const char *name);
/** point_text - `#57 "before-deploy" (2026-11-30 03:12:05)` */
const char *point_text(const struct point *point, char *out, size_t out_bytes);

/** point_json - for the control socket: see points_control.h. @now_ms: wall clock, for the age */
json_t *point_json(const struct point *point, uint64_t now_ms);

#endif
