/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cbt: user space's side of the kernel module: typed calls over its generic netlink
 * family (uapi/linux/blkcbt.h), synchronous, each with a deadline of a few seconds
 * (the kernel answers at once). Used by the agent and the command line.
 *
 * Errors are negative errno; the kernel's own text (extended acknowledgement) is in
 * cbt_error() until the next call.
 */
#ifndef REPROTECT_CBT_H
#define REPROTECT_CBT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "linux/blkcbt.h"

struct cbt;

struct cbt_info {
	char version[64];
	uint32_t gate_mode; /* enum blkcbt_gate_mode */
	uint32_t observers; /* BLKCBT_OBSERVER_* */
	char gate_reason[400];
	bool faults;
};

/* As BLKCBT_A_* say. */
struct cbt_disk {
	dev_t dev;
	char name[32];
	uint32_t index, granule_bytes, flags, epoch_state;
	uint64_t id, size_bytes, epoch, epoch_committed, cut_ns;
	uint64_t dirty_bytes, open_bytes, map_bytes;
	uint64_t map_fallbacks, escapes, late, passthrough, parked, inflight;
};

struct cbt_range {
	dev_t dev;
	uint64_t from_bytes, to_bytes; /* to 0: the whole disk */
};

/** cbt_load - load the module with libkmod (@path: a .ko file, or NULL to look it up). 0 also when it is there. */
int cbt_load(const char *path, char *error, size_t error_bytes);
/** cbt_open - -ENOENT: the module is not loaded */
int cbt_open(struct cbt **cbt);
void cbt_close(struct cbt *cbt);
const char *cbt_error(const struct cbt *cbt);

/** cbt_mode_name - a word for a mode of the module, also one that a later module has */
const char *cbt_mode_name(uint32_t gate_mode);
int cbt_get_info(struct cbt *cbt, struct cbt_info *info);
int cbt_attach(struct cbt *cbt, dev_t dev, uint32_t granule_bytes, struct cbt_disk *disk);
int cbt_detach(struct cbt *cbt, dev_t dev, bool force);
int cbt_get(struct cbt *cbt, dev_t dev, struct cbt_disk *disk);
/** cbt_list - all tracked disks; *disks is malloc'ed */
int cbt_list(struct cbt *cbt, struct cbt_disk **disks, size_t *count);
int cbt_cut(struct cbt *cbt, uint64_t epoch, const dev_t *devs, size_t count, uint64_t *cut_ns);
int cbt_commit(struct cbt *cbt, uint64_t epoch, const struct cbt_range *ranges, size_t count);
int cbt_abort(struct cbt *cbt, uint64_t epoch, const dev_t *devs, size_t count);
int cbt_mark(struct cbt *cbt, const struct cbt_range *range);

/* Events. */
int cbt_events_open(struct cbt **events); /* subscribes; cbt_events_fd to wait on */
int cbt_events_fd(const struct cbt *events);
int cbt_events_read(struct cbt *events, void (*event)(uint32_t what, const struct cbt_disk *disk, void *user), void *user);

/** cbt_extents_open - the character device of a disk; read() it as the uapi header says */
int cbt_extents_open(const struct cbt_disk *disk);

#endif
