// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ship: see ship.h. The work is cut into windows by a generator (fill), windows are sent
 * strictly in the order in which they were filled (emit). Both run from one deferred event
 * (pump), so that no completion or release ever re-enters them.
 */
#include "ship.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "util.h"

#define ZERO_FRAME_MAX (64ull * MIB)

enum ship_state { SHIP_IDLE, SHIP_SENDING, SHIP_SENT, SHIP_FAILED, SHIP_DRAINING };

struct window;

/*
 * struct ship_read - one read into a window
 * @at: position in the window
 * @probing: the whole read failed: granule by granule, to name the one that is bad
 */
struct ship_read {
	struct io_request request;
	struct window *window;
	uint32_t disk;
	uint64_t offset;
	uint32_t bytes, at;
	bool probing;
};

/*
 * struct window - a buffer and the reads in it
 * @pending: reads not back yet
 * @frames: frames of it that the connection has not written yet
 * @read, @done: emitting: which read, bytes of it that are queued
 * @emitting: not all of it is queued yet
 */
struct window {
	struct ship *ship;
	uint8_t *data;
	int buffer;
	unsigned count, pending, frames;
	unsigned read;
	uint32_t done;
	bool emitting;
	struct window *next;
	struct ship_read reads[SHIP_WINDOW_READS];
};

struct ship {
	sd_event_source *pump;
	struct io_engine *io;
	const struct ship_hooks *hooks;
	void *user;
	enum ship_state state;
	struct conn *conn;
	struct window windows[SHIP_WINDOWS];
	struct window *free;
	unsigned free_count;
	struct window *head, **tail; /* filled, in order */
	/* the epoch */
	struct ship_epoch epoch;
	struct ship_disk disks[256];
	struct ship_progress progress;
	size_t extent;	     /* generator: index, bytes done */
	uint64_t extent_done;
	uint32_t seq;
	uint64_t digest, payload_bytes;
	bool begun, filled;
	bool live; /* the images are lost */
	bool end_asked;
	struct ship_end end;
	/* a run of zeros that may still grow */
	struct wire_frame zero;
	/* the frame at hand, while the connection does not take it */
	struct wire_frame pending;
	bool has_pending;
	/* verification */
	struct wire_hasher *hasher;
	uint64_t hash_from, hash_bytes;
	uint32_t hash_disk;
	/* a read that failed */
	int failed_error, failed_disk;
	uint64_t failed_offset;
};

static void ship_kick(struct ship *ship)
{
	sd_event_source_set_enabled(ship->pump, SD_EVENT_ONESHOT);
}

static void window_free(struct window *window)
{
	struct ship *ship = window->ship;

	window->next = ship->free;
	ship->free = window;
	ship->free_count++;
	ship_kick(ship);
}

/* Free a window once nothing refers to it. It must be off the list. */
static void window_settle(struct window *window)
{
	if (!window->emitting && !window->pending && !window->frames)
		window_free(window);
}

static void window_released(void *arg)
{
	struct window *window = arg;

	window->frames--;
	window_settle(window);
}

static int read_fd(const struct ship *ship, uint32_t disk)
{
	const struct ship_disk *from = &ship->disks[disk];

	return ship->live || from->image_fd < 0 ? from->fd : from->image_fd;
}

/* A read through an image failed: again, from the disk, if the image is lost. */
static bool read_live(struct ship *ship, struct ship_read *read)
{
	struct io_request *request = &read->request;

	if (request->fd == ship->disks[read->disk].fd)
		return false;
	ship->live = ship->live || ship->hooks->image_lost(ship->user);
	if (!ship->live)
		return false;
	read->probing = false;
	request->fd = read_fd(ship, read->disk);
	request->offset = read->offset;
	request->bytes = read->bytes;
	request->data = read->window->data + read->at;
	io_submit(ship->io, request);
	return true;
}

/* All of @window is in memory: say so, disk by disk. */
static void window_was_read(struct ship *ship, const struct window *window)
{
	struct blkcbt_extent extents[SHIP_WINDOW_READS];

	for (unsigned i = 0; i < window->count;) {
		uint32_t disk = window->reads[i].disk;
		size_t count = 0;

		for (; i < window->count && window->reads[i].disk == disk; i++)
			extents[count++] = (struct blkcbt_extent){ window->reads[i].offset,
								   window->reads[i].bytes };
		ship->hooks->read(ship->user, disk, extents, count);
	}
}

static void read_done(struct io_request *request, int result)
{
	struct ship_read *read = request->user;
	struct window *window = read->window;
	struct ship *ship = window->ship;
	uint32_t granule = ship->disks[read->disk].granule_bytes;

	ship->progress.last_read_ms = util_now_ms();
	if (result < 0 && ship->state == SHIP_SENDING && !ship->failed_error && read_live(ship, read))
		return;
	if (ship->state == SHIP_SENDING && !ship->failed_error) {
		uint64_t next = request->offset + request->bytes;
		uint64_t end = read->offset + read->bytes;

		if (result < 0 && !read->probing && read->bytes > granule) {
			read->probing = true;
			next = read->offset;
			result = 0;
		}
		if (result < 0) {
			ship->failed_error = result;
			ship->failed_disk = (int)read->disk;
			ship->failed_offset = request->offset;
		} else if (read->probing && next < end) {
			request->offset = next;
			request->bytes = end - next < granule ? end - next : granule;
			request->data = window->data + read->at + (next - read->offset);
			io_submit(ship->io, request);
			return;
		}
	}
	ship->progress.reads--;
	ship->progress.read_bytes += read->bytes;
	window->pending--;
	if (!window->pending) {
		if (ship->state == SHIP_SENDING && !ship->failed_error && !ship->epoch.verify)
			window_was_read(ship, window);
		ship_kick(ship);
	}
	window_settle(window);
}

static void read_start(struct ship *ship, struct window *window, uint32_t disk, uint64_t offset,
		       uint32_t bytes, uint32_t at)
{
	struct ship_read *read = &window->reads[window->count++];

	read->window = window;
	read->disk = disk;
	read->offset = offset;
	read->bytes = bytes;
	read->at = at;
	read->probing = false;
	read->request = (struct io_request){
		.op = IO_READ,
		.fd = read_fd(ship, disk),
		.buffer = window->buffer,
		.data = window->data + at,
		.bytes = bytes,
		.offset = offset,
		.done = read_done,
		.user = read,
	};
	window->pending++;
	ship->progress.reads++;
	io_submit(ship->io, &read->request);
}

/* The next piece of work: false when there is none. Extents, or all of every disk. */
static bool work_next(struct ship *ship, uint32_t *disk, uint64_t *offset, uint64_t *bytes)
{
	if (ship->epoch.verify) {
		if (ship->extent >= ship->epoch.disk_count)
			return false;
		*disk = (uint32_t)ship->extent;
		*offset = ship->extent_done;
		*bytes = ship->disks[ship->extent].size_bytes - ship->extent_done;
	} else {
		const struct slice_extent *extent;

		if (ship->extent >= ship->epoch.slice->count)
			return false;
		extent = &ship->epoch.slice->extents[ship->extent];
		*disk = extent->disk;
		*offset = extent->offset_bytes + ship->extent_done;
		*bytes = extent->length_bytes - ship->extent_done;
	}
	return true;
}

static void work_took(struct ship *ship, uint64_t bytes, uint64_t of_bytes)
{
	ship->extent_done += bytes;
	if (bytes == of_bytes) {
		ship->extent++;
		ship->extent_done = 0;
	}
}

static void ship_fill(struct ship *ship)
{
	while (ship->free && !ship->filled && !ship->failed_error) {
		struct window *window;
		uint64_t offset, bytes;
		uint32_t disk, at = 0;

		if (!work_next(ship, &disk, &offset, &bytes)) {
			ship->filled = true;
			return;
		}
		window = ship->free;
		ship->free = window->next;
		ship->free_count--;
		window->count = window->pending = window->frames = window->read = 0;
		window->done = 0;
		window->emitting = true;
		window->next = NULL;
		*ship->tail = window;
		ship->tail = &window->next;
		do {
			uint64_t room = SHIP_WINDOW_BYTES - at;
			/* Large reads end on a boundary of the window's size. */
			uint64_t take = SHIP_WINDOW_BYTES - offset % SHIP_WINDOW_BYTES;

			if (take > bytes)
				take = bytes;
			if (take > room) {
				if (at)
					break;
				take = room;
			}
			read_start(ship, window, disk, offset, (uint32_t)take, at);
			work_took(ship, take, bytes);
			at += (uint32_t)((take + 4095) / 4096 * 4096);
		} while (at < SHIP_WINDOW_BYTES && window->count < SHIP_WINDOW_READS &&
			 work_next(ship, &disk, &offset, &bytes));
	}
}

/* Number a frame of the epoch and queue it. 0, -EAGAIN (call again with the same), or an error. */
static int ship_queue(struct ship *ship, struct wire_frame *frame, const void *payload,
		      struct window *window)
{
	int rc;

	frame->epoch = ship->epoch.number;
	frame->attempt = ship->epoch.attempt;
	frame->seq = ship->seq;
	if (window)
		window->frames++;
	rc = conn_send(ship->conn, frame, frame->payload_bytes > 0, payload,
		       window ? window_released : NULL, window);
	if (rc < 0) {
		if (window)
			window->frames--;
		return rc;
	}
	ship->seq++;
	if (wire_in_digest(frame->type))
		ship->digest = wire_digest_add(ship->digest, frame);
	if (frame->type == WIRE_DATA || frame->type == WIRE_ZERO)
		ship->payload_bytes += frame->length;
	if (frame->type == WIRE_DATA)
		ship->progress.data_bytes += frame->length;
	if (frame->type == WIRE_ZERO)
		ship->progress.zero_bytes += frame->length;
	ship->progress.queued_bytes += frame->type == WIRE_DATA || frame->type == WIRE_ZERO ||
						       frame->type == WIRE_VERIFY ?
					       frame->length :
					       0;
	return 0;
}

static int ship_flush_zero(struct ship *ship)
{
	int rc;

	if (!ship->zero.length)
		return 0;
	rc = ship_queue(ship, &ship->zero, NULL, NULL);
	if (!rc)
		ship->zero.length = 0;
	return rc;
}

/* Queue the rest of one read as DATA and ZERO frames. */
static int emit_read(struct ship *ship, struct window *window, const struct ship_read *read)
{
	while (window->done < read->bytes) {
		const uint8_t *data = window->data + read->at + window->done;
		uint64_t offset = read->offset + window->done;
		uint32_t id = ship->disks[read->disk].id;
		int rc;

		if (!ship->has_pending) {
			bool zero;
			size_t run = zero_next(data, read->bytes - window->done, &zero);

			if (zero) {
				struct wire_frame *z = &ship->zero;

				if (z->length && (z->disk != id || z->offset + z->length != offset ||
						  z->length + run > ZERO_FRAME_MAX)) {
					rc = ship_flush_zero(ship);
					if (rc)
						return rc;
				}
				if (!z->length)
					*z = (struct wire_frame){ .type = WIRE_ZERO,
								  .disk = id,
								  .offset = offset };
				z->length += run;
				window->done += (uint32_t)run;
				continue;
			}
			ship->pending = (struct wire_frame){ .type = WIRE_DATA,
							     .disk = id,
							     .offset = offset,
							     .length = run,
							     .payload_bytes = (uint32_t)run,
							     .payload_crc = wire_crc(data, run) };
			ship->has_pending = true;
		}
		rc = ship_flush_zero(ship);
		if (!rc)
			rc = ship_queue(ship, &ship->pending, data, window);
		if (rc)
			return rc;
		ship->has_pending = false;
		window->done += ship->pending.payload_bytes;
	}
	return 0;
}

/* Queue the VERIFY frame of what has been hashed. */
static int emit_hash(struct ship *ship)
{
	uint8_t hash[16];
	int rc;

	if (!ship->has_pending) {
		if (!ship->hash_bytes)
			return 0;
		wire_hasher_end(ship->hasher, hash);
		ship->pending = (struct wire_frame){ .type = WIRE_VERIFY,
						     .disk = ship->disks[ship->hash_disk].id,
						     .offset = ship->hash_from,
						     .length = ship->hash_bytes,
						     .payload_bytes = sizeof(hash),
						     .payload_crc = wire_crc(hash, sizeof(hash)) };
		ship->has_pending = true;
	} else {
		wire_hasher_end(ship->hasher, hash);
	}
	rc = ship_queue(ship, &ship->pending, hash, NULL);
	if (rc)
		return rc;
	ship->has_pending = false;
	ship->hash_bytes = 0;
	return 0;
}

static int emit_verify(struct ship *ship, struct window *window, const struct ship_read *read)
{
	if (ship->hash_bytes &&
	    (ship->hash_disk != read->disk || ship->hash_bytes + read->bytes > WIRE_VERIFY_BYTES_MAX)) {
		int rc = emit_hash(ship);

		if (rc)
			return rc;
	}
	if (!ship->hash_bytes) {
		wire_hasher_reset(ship->hasher);
		ship->hash_disk = read->disk;
		ship->hash_from = read->offset;
	}
	wire_hasher_add(ship->hasher, window->data + read->at, read->bytes);
	ship->hash_bytes += read->bytes;
	window->done = read->bytes;
	return 0;
}

static int ship_emit(struct ship *ship)
{
	int rc;

	if (!ship->begun) {
		struct wire_frame begin = { .type = WIRE_BEGIN,
					    .flags = ship->epoch.flags,
					    .offset = ship->epoch.previous,
					    .length = ship->epoch.verify ? 0 :
									   ship->epoch.slice->bytes };

		rc = ship_queue(ship, &begin, NULL, NULL);
		if (rc)
			return rc;
		ship->begun = true;
	}
	while (ship->head && !ship->head->pending && !ship->failed_error) {
		struct window *window = ship->head;

		for (; window->read < window->count; window->read++, window->done = 0) {
			const struct ship_read *read = &window->reads[window->read];

			rc = ship->epoch.verify ? emit_verify(ship, window, read) :
						  emit_read(ship, window, read);
			if (rc)
				return rc;
		}
		ship->head = window->next;
		if (!ship->head)
			ship->tail = &ship->head;
		window->emitting = false;
		window_settle(window);
	}
	return 0;
}

/* TAG, if there is one. */
static int ship_tag(struct ship *ship)
{
	struct wire_frame frame = { .type = WIRE_TAG };
	int rc;

	if (!ship->end.tag)
		return 0;
	frame.payload_bytes = (uint32_t)strlen(ship->end.tag);
	frame.payload_crc = wire_crc(ship->end.tag, frame.payload_bytes);
	rc = ship_queue(ship, &frame, ship->end.tag, NULL);
	if (rc)
		return rc;
	free(ship->end.tag);
	ship->end.tag = NULL;
	return 0;
}

/* END, when all is queued. 0 done, -EAGAIN not yet. */
static int ship_end(struct ship *ship)
{
	struct wire_frame end = { .type = WIRE_END };
	int rc;

	if (!ship->filled || ship->head)
		return -EAGAIN;
	rc = ship->epoch.verify ? emit_hash(ship) : ship_flush_zero(ship);
	if (rc)
		return rc;
	while (!ship->end_asked) {
		switch (ship->hooks->before_end(ship->user, &ship->end)) {
		case SHIP_END_GO:
			ship->end_asked = true;
			break;
		case SHIP_END_WAIT:
			return -EAGAIN;
		case SHIP_END_NO:
			return -ECANCELED;
		}
	}
	rc = ship_tag(ship);
	if (rc)
		return rc;
	end.flags = ship->end.flags;
	end.offset = ship->digest;
	end.length = ship->payload_bytes;
	return ship_queue(ship, &end, NULL, NULL);
}

static void ship_forget(struct ship *ship)
{
	free(ship->end.tag);
	ship->end.tag = NULL;
	ship->epoch.slice = NULL;
	ship->conn = NULL;
	ship->state = SHIP_IDLE;
}

static int ship_pump(sd_event_source *source, void *user)
{
	struct ship *ship = user;
	int rc;

	(void)source;
	switch (ship->state) {
	case SHIP_SENDING:
		if (!ship->failed_error) {
			ship_fill(ship);
			rc = ship_emit(ship);
			if (!rc)
				rc = ship_end(ship);
			if (!rc) {
				ship->state = SHIP_SENT;
				ship->hooks->sent(ship->user);
				break;
			}
			if (rc == -EAGAIN) {
				if (ship->free && !ship->filled && !ship->failed_error)
					ship_kick(ship);
				if (!ship->failed_error)
					break;
			} else if (rc == -ECANCELED || rc == -ENOTCONN) {
				break; /* the owner cancels, or hears of the connection's end */
			} else {
				ship->failed_error = rc;
				ship->failed_disk = -1;
			}
		}
		ship->state = SHIP_FAILED;
		ship->hooks->failed(ship->user, ship->failed_disk, ship->failed_offset,
				    ship->failed_error);
		break;
	case SHIP_DRAINING:
		if (ship->free_count == SHIP_WINDOWS) {
			ship_forget(ship);
			ship->hooks->idle(ship->user);
		}
		break;
	case SHIP_IDLE:
	case SHIP_SENT:
	case SHIP_FAILED:
		break;
	}
	return 0;
}

int ship_begin(struct ship *ship, struct conn *conn, const struct ship_epoch *epoch)
{
	if (ship->state != SHIP_IDLE || ship->free_count != SHIP_WINDOWS)
		return -EBUSY;
	if (epoch->disk_count > ARRAY_LENGTH(ship->disks))
		return -E2BIG;
	ship->epoch = *epoch;
	memcpy(ship->disks, epoch->disks, epoch->disk_count * sizeof(*epoch->disks));
	memset(&ship->progress, 0, sizeof(ship->progress));
	ship->progress.last_read_ms = util_now_ms();
	if (epoch->verify) {
		for (size_t i = 0; i < epoch->disk_count; i++)
			ship->progress.total_bytes += epoch->disks[i].size_bytes;
	} else {
		ship->progress.total_bytes = epoch->slice->bytes;
	}
	ship->conn = conn;
	ship->extent = 0;
	ship->extent_done = 0;
	ship->seq = 0;
	ship->digest = ship->payload_bytes = 0;
	ship->begun = ship->filled = ship->has_pending = false;
	ship->live = ship->end_asked = false;
	ship->end = (struct ship_end){ 0 };
	ship->zero.length = 0;
	ship->hash_bytes = 0;
	ship->failed_error = 0;
	ship->state = SHIP_SENDING;
	ship_kick(ship);
	return 0;
}

void ship_writable(struct ship *ship)
{
	if (ship->state == SHIP_SENDING)
		ship_kick(ship);
}

void ship_finish(struct ship *ship)
{
	if (ship->state != SHIP_SENT)
		return;
	/* An acknowledged epoch was written whole: every window is back. */
	if (ship->free_count == SHIP_WINDOWS)
		ship_forget(ship);
	else
		ship->state = SHIP_DRAINING;
	ship_kick(ship);
}

void ship_cancel(struct ship *ship, bool conn_alive)
{
	if (ship->state == SHIP_IDLE || ship->state == SHIP_DRAINING)
		return;
	if (conn_alive && ship->begun && ship->state != SHIP_SENT) {
		struct wire_frame abort_frame = { .type = WIRE_ABORT,
						  .epoch = ship->epoch.number,
						  .attempt = ship->epoch.attempt,
						  .seq = ship->seq };

		/* Not taken: the next BEGIN or the end of the connection says the same. */
		conn_send(ship->conn, &abort_frame, false, NULL, NULL, NULL);
	}
	ship->state = SHIP_DRAINING;
	while (ship->head) {
		struct window *window = ship->head;

		ship->head = window->next;
		window->emitting = false;
		window_settle(window);
	}
	ship->tail = &ship->head;
	ship_kick(ship);
}

bool ship_is_idle(const struct ship *ship)
{
	return ship->state == SHIP_IDLE;
}

void ship_progress(const struct ship *ship, struct ship_progress *progress)
{
	*progress = ship->progress;
}

int ship_new(struct ship **out, sd_event *event, struct io_engine *io,
	     const struct ship_hooks *hooks, void *user)
{
	struct iovec iov[SHIP_WINDOWS];
	struct ship *ship = calloc(1, sizeof(*ship));
	int rc;

	if (!ship)
		return -ENOMEM;
	ship->io = io;
	ship->hooks = hooks;
	ship->user = user;
	ship->tail = &ship->head;
	ship->hasher = wire_hasher_new();
	for (unsigned i = 0; i < SHIP_WINDOWS; i++) {
		struct window *window = &ship->windows[i];

		window->ship = ship;
		window->buffer = -1;
		window->data = io_buffer_alloc(SHIP_WINDOW_BYTES);
		if (!window->data || !ship->hasher) {
			ship_free(ship);
			return -ENOMEM;
		}
		iov[i] = (struct iovec){ window->data, SHIP_WINDOW_BYTES };
		window->next = ship->free;
		ship->free = window;
		ship->free_count++;
	}
	if (io_engine_register(io, iov, SHIP_WINDOWS) == 0)
		for (unsigned i = 0; i < SHIP_WINDOWS; i++)
			ship->windows[i].buffer = (int)i;
	rc = sd_event_add_defer(event, &ship->pump, ship_pump, ship);
	if (rc < 0) {
		ship_free(ship);
		return rc;
	}
	sd_event_source_set_enabled(ship->pump, SD_EVENT_OFF);
	*out = ship;
	return 0;
}

void ship_free(struct ship *ship)
{
	if (!ship)
		return;
	sd_event_source_disable_unref(ship->pump);
	for (unsigned i = 0; i < SHIP_WINDOWS; i++)
		free(ship->windows[i].data);
	wire_hasher_free(ship->hasher);
	free(ship->end.tag);
	free(ship);
}
