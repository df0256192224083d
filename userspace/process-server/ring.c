// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ring: see ring.h. The double mapping is a memfd mapped twice; memory is taken by page as it is
 * touched and given back by ring_free().
 */
#include "ring.h"
#include "util.h"

#include <errno.h>
#include <sys/mman.h>

int ring_new(struct ring **out, uint64_t bytes)
{
	CLEANUP_FD int fd = -1;
	struct ring *ring;
	char *base;

	*out = NULL;
	fd = memfd_create("reprotect-ring", MFD_CLOEXEC);
	if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0)
		return -errno;
	ring = calloc(1, sizeof(*ring));
	if (!ring)
		return -ENOMEM;
	/* Reserve the place for both first, so that nothing else comes to lie there. */
	base = mmap(NULL, bytes * 2, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (base == MAP_FAILED) {
		free(ring);
		return -ENOMEM;
	}
	for (unsigned half = 0; half < 2; half++) {
		if (mmap(base + half * bytes, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) ==
		    MAP_FAILED) {
			munmap(base, bytes * 2);
			free(ring);
			return -ENOMEM;
		}
	}
	ring->base = base;
	ring->bytes = bytes;
	*out = ring;
	return 0;
}

void ring_free(struct ring *ring)
{
	if (!ring)
		return;
	munmap(ring->base, ring->bytes * 2);
	free(ring);
}

struct ring_pin *ring_pin(struct ring *ring, uint64_t pos)
{
	struct ring_pin *pin;

	if (ring->count == RING_PINS)
		return NULL;
	pin = &ring->pins[(ring->first + ring->count++) % RING_PINS];
	*pin = (struct ring_pin){ .ring = ring, .pos = pos };
	return pin;
}

void ring_unpin(void *arg)
{
	struct ring_pin *pin = arg;
	struct ring *ring = pin->ring;

	pin->done = true;
	while (ring->count && ring->pins[ring->first].done) {
		ring->first = (ring->first + 1) % RING_PINS;
		ring->count--;
	}
	if (ring->released)
		ring->released(ring->user);
}

uint64_t ring_low(const struct ring *ring)
{
	/* Ascending: a connection pins as it goes on, and closing it releases all that it pinned. */
	return ring->count ? ring->pins[ring->first].pos : UINT64_MAX;
}
