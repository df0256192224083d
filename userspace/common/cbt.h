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
	struct blkcbt_holds holds;
};

/* As BLKCBT_A_* say. */
struct cbt_disk {
	dev_t dev;
	char name[32];
	uint32_t index, granule_bytes, flags, epoch_state;
	uint64_t id, size_bytes, epoch, epoch_committed, cut_ns;
	uint64_t dirty_bytes, open_bytes, map_bytes;
	uint64_t map_fallbacks, escapes, late, passthrough, parked, inflight;
	uint32_t epoch_mode; /* enum blkcbt_epoch_mode, of the open epoch */
	uint64_t budget_bytes, preserved_bytes, preserves, downgrades, held, held_max_ns;
	char downgrade_reason[160];
	uint32_t store_state; /* enum blkcbt_store_state_id */
	bool store_trusted;
	char store_reason[256];
	uint64_t store_generation, store_hot, store_writes, store_parked;
	uint64_t store_risk_bytes, store_memory_bytes;
};

/**
 * struct cbt_store - the crash-safe store of a disk, for the kernel to take
 * @fd: the file or block device, open; -1: it is awaited, to be added later
 * @identity: name of the disk that must stand in it
 * @generation_min: the least that is trusted
 */
struct cbt_store {
	int fd;
	char identity[BLKCBT_IDENTITY_BYTES + 1];
	uint64_t generation_min;
};

/**
 * struct cbt_cut - one cut
 * @epoch, @mode (enum blkcbt_epoch_mode), @budget_bytes (0: the module's default), @hold_id (0:
 *	none): what is asked for
 * @cut_ns, @hold_ns: the answer
 */
struct cbt_cut {
	uint64_t epoch;
	uint32_t mode;
	uint64_t budget_bytes, hold_id;
	uint64_t cut_ns, hold_ns;
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
/** cbt_attach - @store: NULL: none, everything starts dirty */
int cbt_attach(struct cbt *cbt, dev_t dev, uint32_t granule_bytes, const struct cbt_store *store,
	       struct cbt_disk *disk);
int cbt_detach(struct cbt *cbt, dev_t dev, bool force);
int cbt_get(struct cbt *cbt, dev_t dev, struct cbt_disk *disk);
/** cbt_list - all tracked disks; *disks is malloc'ed */
int cbt_list(struct cbt *cbt, struct cbt_disk **disks, size_t *count);
int cbt_cut(struct cbt *cbt, struct cbt_cut *cut, const dev_t *devs, size_t count);
int cbt_commit(struct cbt *cbt, uint64_t epoch, const struct cbt_range *ranges, size_t count);
int cbt_abort(struct cbt *cbt, uint64_t epoch, const dev_t *devs, size_t count);
int cbt_mark(struct cbt *cbt, const struct cbt_range *range);

/* The store: reading a large one takes its time, STORE_SECONDS at most. */
int cbt_store_format(struct cbt *cbt, dev_t dev, const struct cbt_store *store, uint32_t granule_bytes);
int cbt_store_add(struct cbt *cbt, dev_t dev, const struct cbt_store *store, struct cbt_disk *disk);
int cbt_store_drop(struct cbt *cbt, dev_t dev);
/** cbt_store_state_name - none, awaited, active, failed */
const char *cbt_store_state_name(uint32_t state);

/** cbt_hold - make writers to @devs wait, @deadline_ms at most (0: the module's default) */
int cbt_hold(struct cbt *cbt, const dev_t *devs, size_t count, uint32_t deadline_ms, uint64_t *hold_id);
/** cbt_release_hold - -ETIMEDOUT: the hold was over before */
int cbt_release_hold(struct cbt *cbt, uint64_t hold_id);
/** cbt_holds_quantile_ns - upper bound of the @per_mille shortest holds, from the histogram; 0: none yet. Pure. */
uint64_t cbt_holds_quantile_ns(const struct blkcbt_holds *holds, unsigned per_mille);

/* Events. */
int cbt_events_open(struct cbt **events); /* subscribes; cbt_events_fd to wait on */
int cbt_events_fd(const struct cbt *events);
int cbt_events_read(struct cbt *events, void (*event)(uint32_t what, const struct cbt_disk *disk, void *user), void *user);

/** cbt_extents_open - the character device of a disk; read() and write() it as the uapi header says */
int cbt_extents_open(const struct cbt_disk *disk);
/** cbt_extents_release - tell it that @extents were read through the image */
int cbt_extents_release(int fd, const struct blkcbt_extent *extents, size_t count);
/** cbt_image_path - of the image of a disk, into @out */
void cbt_image_path(const struct cbt_disk *disk, char *out, size_t out_bytes);
/** cbt_image_open - the image, read-only, O_DIRECT; a descriptor or negative errno */
int cbt_image_open(const struct cbt_disk *disk);

#endif
