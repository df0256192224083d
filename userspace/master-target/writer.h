/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * writer: puts DATA and ZERO frames of one machine onto its targets, many at a time, and flushes.
 *
 * With an undo log (undo.h) each write first has saved what it will overwrite.
 *
 * The caller (apply.c) starts a write only when writer_overlaps() says no, so two writes to
 * the same place are never in flight together and the later frame wins. Writes are counted
 * in two generations: a checkpoint turns to the other one and waits for the old to
 * run empty, while new writes go on.
 */
#ifndef MASTER_TARGET_WRITER_H
#define MASTER_TARGET_WRITER_H

#include <stdbool.h>
#include <stdint.h>

#include "io.h"
#include "pool.h"
#include "target.h"
#include "undo.h"
#include "wire.h"

#define WRITER_OPS_MAX 2560u /* more than the pool has buffers: only ZEROs meet it */
#define WRITER_PLACES 1024u  /* buckets of the ranges in flight, by the MiB that they lie in */
#define WRITER_ZERO_BYTES (64u * 1024u * 1024u) /* one step of a long ZERO */
#define WRITER_SAVE_BYTES (512u * 1024u)	/* one step of a ZERO whose old content has to be saved */

struct writer_op;
struct writer_place;

/**
 * struct writer - a machine's writes in flight
 * @undo: asked before each write, or NULL
 * @progress: a write is done, or a flush (then writer_flushing() is false again)
 * @failed: a write or flush failed; what else is in flight still ends with @progress
 */
struct writer {
	struct io_engine *io;
	struct pool *pool;
	struct pool_client *client;
	struct undo *undo;
	void (*progress)(void *user);
	void (*failed)(void *user, const struct target *target, const char *action, uint64_t offset,
		       uint64_t length, int error);
	void *user;
	/* the writer's */
	struct writer_place *places[WRITER_PLACES];
	struct writer_op *wide; /* those that lie in more than two MiB */
	unsigned count[2], generation, flushes;
	uint64_t bytes_done;
	uint64_t moved_ms; /* when something last completed, or began on an idle writer */
};

/** writer_overlaps - whether a write to that range has to wait for one in flight */
bool writer_overlaps(const struct writer *writer, const struct target *target, uint64_t offset,
		     uint64_t length);
/** writer_full - no more writes for now */
bool writer_full(const struct writer *writer);
unsigned writer_in_flight(const struct writer *writer);
/**
 * writer_start - write @frame (DATA with @payload, which goes back to the pool when done, or ZERO)
 * Return: 0 or -ENOMEM (then @payload is still the caller's).
 */
int writer_start(struct writer *writer, struct target *target, const struct wire_frame *frame,
		 void *payload);
/** writer_turn - writes from now on count in the other generation; only when that is empty */
void writer_turn(struct writer *writer);
/** writer_old_in_flight - writes begun before the last writer_turn() */
unsigned writer_old_in_flight(const struct writer *writer);
/** writer_flush - fdatasync every target that was written to; 0 or -ENOMEM */
int writer_flush(struct writer *writer, struct target *targets, size_t count);
bool writer_flushing(const struct writer *writer);

#endif
