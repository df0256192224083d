// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * spool_read: the reading half of spool.h, for downstream.c. A frame comes from the window
 * while it is still there with some distance to what is being overwritten, else from the segment
 * files through a read ring with read-ahead. Frames that come from the disk are checked again.
 */
#include "spool.h"
#include "log.h"

#include <errno.h>
#include <inttypes.h>

static bool in_window(const struct spool *spool, uint64_t pos)
{
	uint64_t low, size;

	if (!spool->window || pos < spool->window_start)
		return false;
	size = spool->window->bytes;
	low = spool->reserved > size ? spool->reserved - size : 0;
	if (pos < low)
		return false;
	/* A reader that is far behind must not pin what the agent's data need. */
	return pos >= low + size / 4 || low < spool->window_start || pos + WIRE_HEADER_BYTES + WIRE_PAYLOAD_MAX > spool->written;
}

static void readable(struct spool *spool)
{
	if (spool->read_waiting && !spool->closing) {
		spool->read_waiting = false;
		spool->ops->readable(spool->user);
	}
}

static void ring_released(void *user)
{
	struct spool *spool = user;

	spool->read_waiting = false;
	if (!spool->closing)
		spool->ops->readable(spool->user);
}

static void read_done(struct io_request *io, int result)
{
	struct spool_read *r = io->user;
	struct spool *spool = r->segment->spool;

	r->segment->busy--;
	r->done = true;
	r->result = result;
	while (spool->read_count && spool->reads[spool->read_first].done) {
		struct spool_read *first = &spool->reads[spool->read_first];

		if (first->result && !spool->read_error)
			spool->read_error = first->result;
		if (!spool->read_error)
			spool->read_filled = first->end;
		spool->read_first = (spool->read_first + 1) % SPOOL_READS;
		spool->read_count--;
	}
	spool_reclaim(spool, false);
	readable(spool);
}

/* Read ahead, as far as the ring has room and the log goes. */
static void read_kick(struct spool *spool)
{
	while (spool->read_count < SPOOL_READS && !spool->read_error) {
		uint64_t start = spool_round_down(spool->read_next), end, low = ring_low(spool->read_ring);
		struct spool_segment *s = spool_segment_at(spool, spool->read_next);
		struct spool_read *r;

		if (!s)
			return;
		end = s->closed && s->end < spool->written ? s->end : spool->written;
		if (low > spool->read_wanted)
			low = spool->read_wanted;
		low = spool_round_down(low);
		if (end > start + SPOOL_READ_BYTES)
			end = start + SPOOL_READ_BYTES;
		if (end <= spool->read_next || start + SPOOL_READ_BYTES > low + spool->read_ring->bytes)
			return;
		r = &spool->reads[(spool->read_first + spool->read_count++) % SPOOL_READS];
		r->segment = s;
		r->done = false;
		/* A closed segment's last block is all there is of it: the next begins with the next block. */
		r->end = s->closed && end == s->end ? spool_round_up(end) : end;
		r->io = (struct io_request){ .op = IO_READ, .fd = s->fd, .buffer = -1, .data = ring_at(spool->read_ring, start),
					     .bytes = spool_round_up(end) - start,
					     .offset = SEGMENT_HEADER_BYTES + start - s->base, .done = read_done, .user = r };
		spool->read_next = r->end;
		s->busy++;
		io_submit(spool->store->io, &r->io);
	}
}

/* Make the read ring hold @pos, or say how far it is. */
static int read_at(struct spool *spool, uint64_t pos, uint64_t bytes)
{
	if (!spool->read_ring) {
		int r = ring_new(&spool->read_ring, SPOOL_READ_RING_BYTES);

		if (r)
			return r;
		spool->read_ring->released = ring_released;
		spool->read_ring->user = spool;
		spool->read_wanted = spool->read_filled = spool->read_next = pos;
	}
	/* What lies below the last position wanted may be overwritten by reads ahead. */
	if (pos < spool->read_wanted || pos > spool->read_filled || spool->read_error) { /* go elsewhere */
		int error = spool->read_error;

		if (spool->read_count || spool->read_ring->count) {
			spool->read_waiting = true;
			return -EAGAIN;
		}
		spool->read_wanted = spool->read_filled = spool->read_next = pos;
		spool->read_error = 0;
		if (error)
			return error;
	}
	spool->read_wanted = pos;
	read_kick(spool);
	if (pos + bytes <= spool->read_filled)
		return 0;
	spool->read_waiting = true;
	return -EAGAIN;
}

int spool_frame(struct spool *spool, uint64_t *pos, struct wire_frame *frame, const void **payload,
		struct ring **ring)
{
	struct spool_segment *s = spool_segment_at(spool, *pos);
	const char *at;
	int r;

	if (!s || *pos < s->base) { /* at the end of a segment: the next begins with the next block */
		*pos = spool_round_up(*pos);
		s = spool_segment_at(spool, *pos);
	}
	if (!s || *pos >= spool->head)
		return -ENODATA;
	if (in_window(spool, *pos)) {
		*ring = spool->window;
		at = ring_at(spool->window, *pos);
		*payload = at + WIRE_HEADER_BYTES;
		r = segment_frame(at, s->number, frame);
		return r ? -EBADMSG : 0;
	}
	r = read_at(spool, *pos, WIRE_HEADER_BYTES);
	if (r)
		return r;
	*ring = spool->read_ring;
	at = ring_at(spool->read_ring, *pos);
	*payload = at + WIRE_HEADER_BYTES;
	if (segment_frame(at, s->number, frame))
		return -EBADMSG;
	if (!frame->payload_bytes)
		return 0;
	r = read_at(spool, *pos, WIRE_HEADER_BYTES + frame->payload_bytes);
	if (r)
		return r;
	return wire_crc(*payload, frame->payload_bytes) == frame->payload_crc ? 0 : -EBADMSG;
}

void spool_read_stop(struct spool *spool)
{
	spool->read_waiting = false;
	if (spool->read_count || (spool->read_ring && spool->read_ring->count))
		return; /* reads are under way: the ring stays for the next reader */
	ring_free(spool->read_ring);
	spool->read_ring = NULL;
	spool->read_error = 0;
}
