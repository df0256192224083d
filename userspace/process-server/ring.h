/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ring: a buffer whose memory is mapped twice in a row, so that any piece of it, also one across
 * its end, is contiguous. Indexed by log positions (64 bit, ever growing): a frame is received
 * into it, written to the spool from it and sent from it, and never copied. Used by spool.c and
 * spool_read.c; one thread.
 *
 * Who hands out a pointer that outlives the call (to a connection's queue) pins its position;
 * the owner overwrites nothing at or above ring_low().
 */
#ifndef PROCESS_SERVER_RING_H
#define PROCESS_SERVER_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RING_PINS 4096u

struct ring;

struct ring_pin {
	struct ring *ring;
	uint64_t pos;
	bool done;
};

/**
 * struct ring - the buffer
 * @base: first of the two mappings
 * @bytes: size, a power of two
 * @pins: FIFO of what is pinned, @first the oldest, @count of them
 * @released: told when a pin is gone, with @user; may be NULL
 */
struct ring {
	char *base;
	uint64_t bytes;
	unsigned first, count;
	void (*released)(void *user);
	void *user;
	struct ring_pin pins[RING_PINS];
};

/** ring_new - @bytes: a power of two, a multiple of the page. Return: 0, -ENOMEM, -EMFILE ... */
int ring_new(struct ring **ring, uint64_t bytes);
/** ring_free - nothing may be pinned; NULL is fine */
void ring_free(struct ring *ring);

static inline char *ring_at(const struct ring *ring, uint64_t pos)
{
	return ring->base + (pos & (ring->bytes - 1));
}

/** ring_pin - NULL when too much is pinned (wait for a release) */
struct ring_pin *ring_pin(struct ring *ring, uint64_t pos);
/** ring_unpin - @pin: a struct ring_pin, as conn_send()'s release wants it */
void ring_unpin(void *pin);
/** ring_low - the lowest position that is pinned, UINT64_MAX when none is */
uint64_t ring_low(const struct ring *ring);

#endif
