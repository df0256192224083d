/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * snapshot: one disk as it was at an instant, for people to look at or back up. A cut of that disk
 * in snapshot mode, which nobody sends and which is put back into the dirty map at its end: nothing is
 * lost, but replication waits as long as it is open. Called by commands.c, epoch.c, status.c.
 *
 *	state   event                                      next
 *	WAIT    nothing is on its way (asked before a cut)  OPEN, or FAILED
 *	OPEN    snapshot_release                           (gone)
 *	FAILED  the next snapshot_start or release         (gone)
 */
#ifndef REPROTECT_AGENT_SNAPSHOT_H
#define REPROTECT_AGENT_SNAPSHOT_H

#include "agent.h"

int snapshot_start(struct agent *agent, const char *which, struct agent_problem *problem);
int snapshot_release(struct agent *agent, const char *which, struct agent_problem *problem);
/** snapshot_step - asked before a cut, with nothing on its way: true: no cut now */
bool snapshot_step(struct agent *agent);
json_t *snapshot_json(struct agent *agent);
void snapshot_free(struct agent *agent);

#endif
