// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * pool: see pool.h. Single-threaded, from the event loop. A free list of each class is a
 * stack of pointers (the warmest buffer goes out first).
 */
#include <errno.h>
#include <string.h>

#include "log.h"
#include "pool.h"
#include "util.h"

struct region {
	char *memory;
	size_t slot_bytes;
	unsigned slots, unused;
	void **stack;
	bool registered;
};

struct pool {
	struct region regions[POOL_CLASSES];
	struct pool_client *clients;
	unsigned client_count;
	bool registered;
};

static int region_init(struct region *region, size_t slot_bytes, unsigned slots)
{
	region->slot_bytes = slot_bytes;
	region->slots = slots;
	region->memory = io_buffer_alloc(slot_bytes * slots);
	region->stack = calloc(slots, sizeof(*region->stack));
	if (!region->memory || !region->stack)
		return -ENOMEM;
	for (unsigned i = slots; i > 0; i--)
		region->stack[region->unused++] = region->memory + (i - 1) * slot_bytes;
	return 0;
}

int pool_new(struct pool **out, struct io_engine *io, uint64_t bytes)
{
	struct pool *pool = calloc(1, sizeof(*pool));
	uint64_t tiny = bytes / 8, small = bytes / 4, verify = POOL_VERIFY_BUFFERS * (uint64_t)POOL_LARGE_BYTES;
	uint64_t large = bytes > tiny + small + verify ? bytes - tiny - small - verify : 0;
	struct iovec iov[POOL_CLASSES];
	int r;

	if (!pool)
		return -ENOMEM;
	if (large < 4ull * POOL_LARGE_BYTES)
		large = 4ull * POOL_LARGE_BYTES;
	r = region_init(&pool->regions[POOL_TINY], POOL_TINY_BYTES, (unsigned)(tiny / POOL_TINY_BYTES));
	if (!r)
		r = region_init(&pool->regions[POOL_SMALL], POOL_SMALL_BYTES, (unsigned)(small / POOL_SMALL_BYTES));
	if (!r)
		r = region_init(&pool->regions[POOL_LARGE], POOL_LARGE_BYTES,
				(unsigned)(large / POOL_LARGE_BYTES));
	if (!r)
		r = region_init(&pool->regions[POOL_VERIFY], POOL_LARGE_BYTES, POOL_VERIFY_BUFFERS);
	if (r) {
		pool_free(pool);
		return r;
	}
	for (int i = 0; i < POOL_CLASSES; i++)
		iov[i] = (struct iovec){ pool->regions[i].memory,
					 pool->regions[i].slot_bytes * pool->regions[i].slots };
	pool->registered = io && io_engine_register(io, iov, POOL_CLASSES) == 0;
	*out = pool;
	return 0;
}

void pool_free(struct pool *pool)
{
	if (!pool)
		return;
	for (int i = 0; i < POOL_CLASSES; i++) {
		free(pool->regions[i].memory);
		free(pool->regions[i].stack);
	}
	free(pool);
}

void pool_join(struct pool *pool, struct pool_client *client)
{
	memset(client->held, 0, sizeof(client->held));
	memset(client->waiting, 0, sizeof(client->waiting));
	client->pool = pool;
	client->next = pool->clients;
	pool->clients = client;
	pool->client_count++;
}

static void wake_waiting(struct pool *pool, enum pool_class class);

void pool_leave(struct pool_client *client)
{
	struct pool *pool = client->pool;

	if (!pool)
		return;
	for (struct pool_client **at = &pool->clients; *at; at = &(*at)->next)
		if (*at == client) {
			*at = client->next;
			pool->client_count--;
			break;
		}
	client->pool = NULL;
	client->next = NULL;
	for (int i = 0; i < POOL_CLASSES; i++) /* shares have grown */
		wake_waiting(pool, (enum pool_class)i);
}

/* What one client may hold: an equal part, but never so little that it works one by one. */
static bool within_share(const struct pool *pool, const struct pool_client *client,
			 enum pool_class class)
{
	unsigned share = pool->regions[class].slots / (pool->client_count ? pool->client_count : 1);

	return client->held[class] < (share < 2 ? 2 : share);
}

void *pool_get(struct pool_client *client, enum pool_class class)
{
	struct pool *pool = client->pool;
	struct region *region = &pool->regions[class];

	if (!region->unused || !within_share(pool, client, class)) {
		client->waiting[class] = true;
		return NULL;
	}
	client->waiting[class] = false;
	client->held[class]++;
	return region->stack[--region->unused];
}

static int class_of(const struct pool *pool, const void *buffer)
{
	for (int i = 0; i < POOL_CLASSES; i++) {
		const struct region *region = &pool->regions[i];

		if ((const char *)buffer >= region->memory &&
		    (const char *)buffer < region->memory + region->slot_bytes * region->slots)
			return i;
	}
	return -1;
}

/* Wake one client, and move it to the end of the line. */
static void wake_waiting(struct pool *pool, enum pool_class class)
{
	struct pool_client **at = &pool->clients;

	if (!pool->regions[class].unused)
		return;
	for (; *at; at = &(*at)->next) {
		struct pool_client *client = *at;

		if (!client->waiting[class] || !within_share(pool, client, class))
			continue;
		client->waiting[class] = false;
		*at = client->next;
		while (*at)
			at = &(*at)->next;
		*at = client;
		client->next = NULL;
		client->wake(client->user);
		return;
	}
}

void pool_put(struct pool *pool, struct pool_client *client, void *buffer)
{
	int class = class_of(pool, buffer);

	if (class < 0) {
		log_error("buffer pool: a buffer was given back that is not the pool's (this is a bug)");
		abort();
	}
	pool->regions[class].stack[pool->regions[class].unused++] = buffer;
	if (client->held[class])
		client->held[class]--;
	wake_waiting(pool, (enum pool_class)class);
}

void pool_kick(struct pool *pool)
{
	for (int i = 0; i < POOL_CLASSES; i++)
		for (unsigned n = 0; n < pool->client_count; n++)
			wake_waiting(pool, (enum pool_class)i);
}

int pool_index(const struct pool *pool, const void *buffer)
{
	return pool->registered ? class_of(pool, buffer) : -1;
}

enum pool_class pool_class_for(size_t bytes)
{
	return bytes <= POOL_TINY_BYTES ? POOL_TINY : bytes <= POOL_SMALL_BYTES ? POOL_SMALL : POOL_LARGE;
}

unsigned pool_slots(const struct pool *pool, enum pool_class class)
{
	return pool->regions[class].slots;
}

unsigned pool_unused(const struct pool *pool, enum pool_class class)
{
	return pool->regions[class].unused;
}
