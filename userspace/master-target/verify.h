/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * verify: reads a range of a target back and compares its XXH3-128 with the one in a VERIFY frame.
 * One at a time for each machine; started by apply.c when no write is in flight.
 */
#ifndef MASTER_TARGET_VERIFY_H
#define MASTER_TARGET_VERIFY_H

#include <stdbool.h>
#include <stdint.h>

#include "io.h"
#include "pool.h"
#include "target.h"
#include "wire.h"

struct verify_piece {
	struct io_request io;
	struct verify *verify;
	char *buffer;
	uint64_t offset, bytes; /* what of the range it holds; the read is rounded outward */
	bool done;
};

/**
 * struct verify - a comparison, and what it needs
 * @finished: the range was read; @equal: it is as the source has it; @error: it could not be read
 */
struct verify {
	struct io_engine *io;
	struct pool *pool;
	void (*finished)(void *user, bool equal, int error);
	void *user;
	/* verify's own */
	struct pool_client client;
	struct wire_hasher *hasher;
	struct target *target;
	struct verify_piece pieces[POOL_VERIFY_BUFFERS];
	unsigned first, used; /* ring of pieces, hashed in order */
	uint64_t read_at, end;
	uint8_t expected[16];
	int error;
	bool active;
};

int verify_init(struct verify *verify);
/** verify_destroy - only when not active */
void verify_destroy(struct verify *verify);
/** verify_start - compare the range of @frame; @expected is copied. @finished comes from the loop */
void verify_start(struct verify *verify, struct target *target, const struct wire_frame *frame,
		  const void *expected);
/** verify_stop - read no more; @finished comes (-ECANCELED) when nothing is in flight, maybe at once */
void verify_stop(struct verify *verify);

#endif
