/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * stores: the crash-safe stores of the group's disks; see stores.c.
 */
#ifndef REPROTECT_AGENT_STORES_H
#define REPROTECT_AGENT_STORES_H

#include <limits.h>

#include "agent.h"

/** stores_wanted - the configuration gives this disk a store */
bool stores_wanted(const struct agent_disk *disk);
/** stores_path - of the disk's store; it is wanted */
void stores_path(const struct agent *agent, const struct agent_disk *disk, char out[PATH_MAX]);
/** stores_attach - attach the disk with its store, or give one that is tracked the store that it awaits; into disk->info */
int stores_attach(struct agent *agent, struct agent_disk *disk, dev_t dev);
/** stores_forget - detached by command: what its store says is not to be believed when it is attached again */
void stores_forget(struct agent_disk *disk);
/** stores_let_go - save and close all: nothing of ours is to write to the disks any more */
void stores_let_go(struct agent *agent);
/** stores_tick - notice what failed, and give a store to a disk that lost its */
void stores_tick(struct agent *agent, uint64_t now_ms);
/** stores_json - for the status */
json_t *stores_json(const struct agent *agent, const struct agent_disk *disk);

#endif
