/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * points: which epochs are consistent, and if not, why: decided before the cut, given up after it when it has to be,
 * claimed at the end. Called by epoch.c; status.c shows what is kept here.
 */
#ifndef REPROTECT_AGENT_POINTS_H
#define REPROTECT_AGENT_POINTS_H

#include "agent.h"

/** points_choose - mode for the next cut: BLKCBT_MODE_CONSISTENT, or FUZZY with the reason in agent->epoch */
uint32_t points_choose(struct agent *agent);
/** points_cannot - the tracker refused a consistent cut with @rc: the epoch is fuzzy for that reason */
void points_cannot(struct agent *agent, int rc, const char *text);
/** points_open - the epoch is planned: open the images to read it from, or give up what it was to be */
void points_open(struct agent *agent);
/** points_read - extents of disk number @index were read */
void points_read(struct agent *agent, size_t index, const struct blkcbt_extent *extents, size_t count);
/** points_lost - a read through an image failed: whether the epoch is not consistent any more */
bool points_lost(struct agent *agent);
/** points_exact - all has been read: whether it is exact. Asks the tracker. */
bool points_exact(struct agent *agent);
/** points_note - the epoch is sent: keep what it was, log when that changed */
void points_note(struct agent *agent);
/** points_close - no read is under way: close the images */
void points_close(struct agent *agent);
json_t *points_json(const struct agent *agent);

#endif
