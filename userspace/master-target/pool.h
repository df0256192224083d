/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pool: the memory for data on its way to the targets. One allocation at start,
 * registered with the I/O engine, never grown: a third machine makes the first two
 * slower, not the daemon larger.
 *
 * Four classes: large buffers for whole frames, small ones for short frames, tiny ones so that many
 * 4 KiB frames can wait together until the undo log has what they overwrite, and a few set apart for
 * VERIFY. The reserve is what keeps verification free of deadlock: data that waits behind a VERIFY holds large and small buffers, never these.
 *
 * A client that finds nothing, or has its share already, is woken when a buffer of that
 * class comes back; clients are woken in turn.
 */
#ifndef MASTER_TARGET_POOL_H
#define MASTER_TARGET_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "io.h"

#define POOL_LARGE_BYTES (1024u * 1024u)
#define POOL_SMALL_BYTES (64u * 1024u)
#define POOL_TINY_BYTES 4096u
#define POOL_VERIFY_BUFFERS 8u

enum pool_class { POOL_TINY, POOL_SMALL, POOL_LARGE, POOL_VERIFY, POOL_CLASSES };

struct pool;

/**
 * struct pool_client - a user of the pool, usually one connection
 * @wake: a buffer may be had again; called from pool_put of whoever gave one back
 */
struct pool_client {
	void (*wake)(void *user);
	void *user;
	/* the pool's */
	struct pool *pool;
	struct pool_client *next;
	unsigned held[POOL_CLASSES];
	bool waiting[POOL_CLASSES];
};

/** pool_new - about @bytes of buffers, registered with @io (NULL: not). -ENOMEM */
int pool_new(struct pool **pool, struct io_engine *io, uint64_t bytes);
void pool_free(struct pool *pool);
void pool_join(struct pool *pool, struct pool_client *client);
/** pool_leave - give up the client's share; buffers it holds may be put back later */
void pool_leave(struct pool_client *client);
/** pool_get - a buffer of @class, or NULL: @wake will be called */
void *pool_get(struct pool_client *client, enum pool_class class);
/** pool_put - @buffer may come from any client that has joined or left */
void pool_put(struct pool *pool, struct pool_client *client, void *buffer);
/** pool_kick - wake everybody who could go on (once a second: a client that was woken need not have come) */
void pool_kick(struct pool *pool);
/** pool_index - index with which @buffer's memory is registered, for io_request.buffer */
int pool_index(const struct pool *pool, const void *buffer);
/** pool_class_for - the class for a frame with @bytes of payload */
enum pool_class pool_class_for(size_t bytes);
unsigned pool_slots(const struct pool *pool, enum pool_class class);
unsigned pool_unused(const struct pool *pool, enum pool_class class);

#endif
