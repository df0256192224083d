/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * thin: keeps the undo logs of all machines to the policy (retention.h): removes layers that lead to no point that is
 * kept, merges those in between in a child process, one at a time, and makes room when the volume is full. Also knows whether the volume is
 * fit at all, and how much changes in an hour.
 */
#ifndef MASTER_TARGET_THIN_H
#define MASTER_TARGET_THIN_H

#include <jansson.h>
#include <stdbool.h>

#include "undo.h"

struct machine;
struct server;
struct thin;

/** thin_new - 0 or negative errno */
int thin_new(struct thin **thin, struct server *server);
/** thin_free - the child is ended */
void thin_free(struct thin *thin);
/** thin_forget - @machine is about to go */
void thin_forget(struct thin *thin, const struct machine *machine);
/** thin_tick - about twice a second */
void thin_tick(struct thin *thin);
/**
 * thin_volume_fit - whether the retention volume may be used: checked at start, and again as long as it is not
 * @why, @remedy: 640 bytes each
 */
bool thin_volume_fit(struct thin *thin, char *why, char *remedy);
/** thin_make_room - no space: remove the oldest layer of the machine that has the oldest one (all machines share the volume) */
enum undo_full thin_make_room(struct thin *thin, struct machine *machine);
/** thin_json - for the status: {"path","fit","why","remedy","bytes_total","bytes_free","bytes_used","churn_bytes_per_hour","keep_all_ms",...,"merging","alert"} */
json_t *thin_json(struct thin *thin);
/** thin_child - what the child process does (reprotect-master-target --merge): its exit status */
int thin_child(int argc, char **argv);

#endif
