/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * undo: writes the layer of the undo log that is open: what the targets have now, before it is overwritten.
 * writer.c asks for it before every write; apply.c and restore.c open the layer and seal it.
 *
 * A block is saved at most once in a layer: what was there first is what counts. Old content is read straight into the batch that
 * it goes out with; batches are written one behind the other, and one flush makes all durable that were written when it began. Only
 * when a batch and all before it are durable (and published, undo_tail.h) does a write go on that wanted something in it.
 *
 *	batch	 | next
 *	---------+-----------------------------------------------------------------------
 *	FILLING  | full, or nothing else comes and not much is under way: READING
 *	READING  | its reads are done, and all before it are written or being written: WRITING
 *	WRITING  | written: WRITTEN
 *	WRITTEN  | the flush that began when it and all before it were WRITTEN is done: FREE
 *
 * Memory: up to UNDO_BATCHES buffers of UNDO_BATCH_BYTES, made when they are first needed; while a layer is open 32 bytes a record for the index; and
 * 24 to 48 bytes for each 256 KiB of the disks that the layer touches.
 */
#ifndef MASTER_TARGET_UNDO_H
#define MASTER_TARGET_UNDO_H

#include <stdbool.h>
#include <stdint.h>

#include "io.h"
#include "target.h"
#include "undo_log.h"

#define UNDO_BATCHES 16u

struct undo_batch_buffer;
struct undo_chunk;

/** enum undo_full - what to do when the retention volume is full */
enum undo_full {
	UNDO_FULL_AGAIN,   /* there is room now */
	UNDO_FULL_GIVE_UP, /* go on without: the owner has recorded that the layer does not count */
	UNDO_FULL_FAIL,
};

/**
 * struct undo_wait - a range that has to be saved before its owner may overwrite it
 * @done: it is durable (or nothing had to be): go on. @error: the layer has failed (the owner of undo hears of it, too)
 */
struct undo_wait {
	void (*done)(struct undo_wait *wait, int error);
	/* undo's */
	struct undo_wait *next;
	struct target *target;
	uint64_t cursor, end;
	uint64_t batch; /* the last one that has something of it, +1; 0: none */
};

/**
 * struct undo - the layer that is open
 * @failed: it cannot be gone on with; called once, before the waits are told. @target: NULL, or the disk that could not be read
 * @full: no space
 * @sealed: undo_seal() has ended
 */
struct undo {
	struct io_engine *io;
	sd_event *event;
	struct undo_log *log;
	void (*failed)(void *user, const struct target *target, const char *action, uint64_t offset, uint64_t length, int error);
	enum undo_full (*full)(void *user);
	void (*sealed)(void *user, int error);
	void *user;
	/* undo's */
	sd_event_source *idle;
	int fd, error;
	uint64_t base, last;
	uint64_t at, allocated;			      /* in the file */
	struct undo_batch_buffer *batches;	      /* ring of UNDO_BATCHES */
	uint64_t filling, finished, written, durable; /* numbers of batches: being filled; handed to be written; all written below; all durable below */
	bool fill_open;				      /* batch @filling has something in it */
	bool syncing;
	uint64_t sync_to;
	unsigned in_flight;
	struct undo_wait *durable_head, **durable_tail; /* for a batch */
	struct undo_wait *room_head, **room_tail;	/* for a place in one */
	struct undo_chunk *chunks;
	size_t chunk_slots, chunk_count;
	struct undo_record *records;
	size_t record_count, record_slots;
	uint64_t content_bytes, range_bytes;
	uint64_t total_bytes; /* written to all layers since undo_init() */
	struct undo_foot foot; /* once it is sealed */
	struct io_request io_sync;
	struct undo_sealing *sealing;
};

/** undo_init - 0 or -ENOMEM */
int undo_init(struct undo *undo);
/** undo_destroy - only when quiet */
void undo_destroy(struct undo *undo);
/**
 * undo_open - begin the layer from state @base to @last; @meta: what @base is. The file is there, durably, when it returns 0;
 * else negative errno (-ENOSPC only after @full has been asked). The owner then records it, before anything is saved in it
 */
int undo_open(struct undo *undo, uint64_t base, uint64_t last, const json_t *meta);
/** undo_is_open - a layer is being written: every write has to ask */
bool undo_is_open(const struct undo *undo);
/**
 * undo_save - have [offset, offset + length) of @target saved
 * Return: true: it is (or nothing is open), go on; false: @wait's done will be called.
 */
bool undo_save(struct undo *undo, struct target *target, uint64_t offset, uint64_t length, struct undo_wait *wait);
/** undo_seal - write the index, make everything durable, close the file; @sealed says when. Only when no save waits */
void undo_seal(struct undo *undo);
/** undo_entry - of the layer that was just sealed, for undo_log_sealed(); its meta is missing */
void undo_entry(const struct undo *undo, struct undo_entry *entry);
/** undo_close - forget the layer; the file stays as it is. Only when quiet */
void undo_close(struct undo *undo);
/** undo_abandon - the same, and remove the file: nothing was saved in it */
void undo_abandon(struct undo *undo);
/** undo_quiet - nothing is in flight */
bool undo_quiet(const struct undo *undo);
/** undo_failed - the layer cannot be gone on with: it has to be undone */
bool undo_failed(const struct undo *undo);

#endif
