// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * spool: the writing half of spool.h: frames are appended to the window, written from it to
 * the newest segment in pieces of SPOOL_WRITE_BYTES, and made durable at END.
 *
 * Only whole blocks are written from the window. When an END must become durable, or a segment is
 * closed, the block that it ends in is written from a bounce buffer, with at least WIRE_HEADER_BYTES of zeros
 * behind it (the seal, see segment.h), and once more when it is full. Both writes carry the
 * same bytes before END, so a torn second write harms nothing; they are never in flight together.
 *
 * A segment is durable when its header is written, its name is (fsync of the directory), and its
 * frames are. A failed sync is never repeated and trusted: what it was for is aborted.
 */
#include "spool.h"
#include "log.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

static const char *const wait_texts[] = {
	[SPOOL_GO] = "nothing",
	[SPOOL_WAIT_WINDOW] = "the spool disk (writing)",
	[SPOOL_WAIT_QUOTA] = "room in the spool (spool_bytes is reached)",
	[SPOOL_WAIT_SPACE] = "space on the spool's file system",
	[SPOOL_WAIT_IO] = "the spool disk (it reports errors)",
	[SPOOL_WAIT_EPOCHS] = "the master target (too many epochs in the spool)",
};

static void writes_advance(struct spool *spool);

const char *spool_wait_text(enum spool_wait wait)
{
	return wait_texts[wait];
}

int spool_segment_open_flags(const struct spool_store *store)
{
	return O_RDWR | O_CLOEXEC | O_NOFOLLOW | (store->direct ? O_DIRECT : 0);
}

struct spool_segment *spool_segment_at(struct spool *spool, uint64_t pos)
{
	for (struct spool_segment *s = spool->first; s; s = s->next)
		if (pos >= s->base && pos < (s->closed ? s->end : UINT64_MAX))
			return s;
	return NULL;
}

static void space(struct spool *spool)
{
	if (spool->ops->space && !spool->closing)
		spool->ops->space(spool->user);
}

/* ---- durability -------------------------------------------------------------------------- */

uint64_t spool_durable(const struct spool *spool)
{
	for (const struct spool_segment *s = spool->first; s; s = s->next) {
		if (!s->named || !s->headed)
			return s->base;
		if (!s->closed || s->synced < s->end || s->sealed_durable != s->end)
			return s->synced;
	}
	return spool->head;
}

static void complete_epochs(struct spool *spool)
{
	struct spool_epoch *e = spool->epochs;

	/* From the start after each: what is told may change the list. */
	while (e) {
		if (e->state != SPOOL_ENDED || e->end > spool_durable(spool)) {
			e = e->next;
			continue;
		}
		e->state = SPOOL_COMPLETE;
		if (e->epoch > spool->last_complete)
			spool->last_complete = e->epoch;
		for (struct spool_segment *s = spool->first; s; s = s->next)
			if (e->end > s->base && e->start < (s->closed ? s->end : spool->head) && e->epoch > s->holds_complete)
				s->holds_complete = e->epoch;
		spool->ops->complete(e, spool->user);
		e = spool->epochs;
	}
}

static void sync_done(struct io_request *io, int result);

static void sync_kick(struct spool *spool)
{
	for (struct spool_segment *s = spool->first; s; s = s->next) {
		uint64_t written = s->closed && spool->written > s->end ? s->end : spool->written;
		bool whole = s->closed && s->sealed == s->end && (s->synced < s->end || s->sealed_durable != s->end);
		bool part = spool->sync_wanted > s->synced && spool->sync_wanted > s->base &&
			    spool->sync_wanted <= written && (!s->closed || spool->sync_wanted <= s->end);

		if (s->syncing || s->broken || s->fd < 0 || !s->headed || (!whole && !part))
			continue;
		s->syncing = true;
		s->busy++;
		s->sync_target = written;
		s->sync_sealed = s->sealed;
		s->sync_io = (struct io_request){ .op = IO_SYNC, .fd = s->fd, .buffer = -1, .done = sync_done, .user = s };
		io_submit(spool->store->io, &s->sync_io);
	}
}

/* What is not acknowledged and lies in @s is not to be relied on. */
static void segment_broken(struct spool_segment *s, int error, const char *what)
{
	struct spool *spool = s->spool;
	uint64_t end;

	log_error("spool of machine %s: segment %016" PRIx64 ": cannot %s: %s (its unacknowledged epochs are "
		  "dropped and sent again by the agent; check the disk under %s)",
		  spool->machine, s->number, what, strerror(-error), spool->store->path);
	s->broken = true;
	if (!s->closed) {
		s->closed = true;
		s->end = spool->head;
	}
	end = s->end;
	s->synced = s->sealed_durable = end;
	s->named = s->headed = true;
	for (struct spool_epoch *e = spool->epochs; e;) {
		if ((e->state != SPOOL_OPEN && e->state != SPOOL_ENDED) || e->start >= end ||
		    (e->end && e->end <= s->base)) {
			e = e->next;
			continue;
		}
		e->state = SPOOL_ABORTED;
		spool->aborted_epochs++;
		if (!e->end)
			e->end = spool->head;
		if (spool->open == e)
			spool->open = NULL;
		spool->ops->failed(e, error, spool->user);
		e = spool->epochs; /* what is told may change the list */
	}
}

static void sync_done(struct io_request *io, int result)
{
	struct spool_segment *s = io->user;
	struct spool *spool = s->spool;

	s->busy--;
	s->syncing = false;
	if (result) {
		segment_broken(s, result, "make it durable");
	} else {
		if (s->sync_target > s->synced)
			s->synced = s->sync_target;
		if (!s->broken)
			s->sealed_durable = s->sync_sealed;
		complete_epochs(spool);
	}
	sync_kick(spool);
	spool_reclaim(spool, false);
	space(spool);
}

static void name_done(struct io_request *io, int result)
{
	struct spool_segment *s = io->user;

	s->busy--;
	if (result)
		segment_broken(s, result, "make its name durable");
	else
		s->named = true;
	complete_epochs(s->spool);
	spool_reclaim(s->spool, false);
}

static void header_done(struct io_request *io, int result)
{
	struct spool_segment *s = io->user;

	s->busy--;
	free(s->header);
	s->header = NULL;
	if (result)
		segment_broken(s, result, "write its header");
	else
		s->headed = true;
	sync_kick(s->spool);
}

/* ---- writing ----------------------------------------------------------------------------- */

static void write_done(struct io_request *io, int result)
{
	struct spool_write *w = io->user;
	struct spool *spool = w->segment->spool;

	if (result) {
		if (!spool->io_error)
			log_error("spool of machine %s: segment %016" PRIx64 ": cannot write: %s (tried again every "
				  "second; the agent waits; check the disk and the space under %s)",
				  spool->machine, w->segment->number, strerror(-result), spool->store->path);
		spool->io_error = result;
		w->failed = true;
		return; /* spool_retry() */
	}
	w->segment->busy--;
	w->done = true;
	if (w == &spool->tail) {
		spool->tail_busy = false;
		spool->written = w->segment->sealed = w->end;
	}
	writes_advance(spool);
	spool_kick(spool);
	space(spool);
	if (spool->read_waiting) {
		spool->read_waiting = false;
		spool->ops->readable(spool->user);
	}
}

static void submit(struct spool *spool, struct spool_write *w, struct spool_segment *s, void *data, uint64_t start,
		   uint64_t bytes, uint64_t end)
{
	w->segment = s;
	w->start = start;
	w->end = end;
	w->done = w->failed = false;
	w->io = (struct io_request){ .op = IO_WRITE, .fd = s->fd, .buffer = -1, .data = data, .bytes = bytes,
				     .offset = SEGMENT_HEADER_BYTES + start - s->base, .done = write_done, .user = w };
	s->busy++;
	io_submit(spool->store->io, &w->io);
}

/* The segment that is being written: the first that is not closed, written and sealed. */
static struct spool_segment *segment_written(struct spool *spool)
{
	for (struct spool_segment *s = spool->first; s; s = s->next) {
		if (s->closed && s->sealed == s->end)
			continue;
		if (spool->issued < s->base)
			spool->issued = spool->written = s->base;
		return s;
	}
	return NULL;
}

/* How many blocks' bytes make @n bytes at spool->issued a sealed end: 0 if the end of the file is there. */
static uint64_t tail_bytes(const struct spool *spool, const struct spool_segment *s, uint64_t n)
{
	uint64_t left = s->base + s->file_bytes - SEGMENT_HEADER_BYTES - spool->issued;
	uint64_t bytes = spool_round_up(n + WIRE_HEADER_BYTES);

	return bytes < left ? bytes : left;
}

static void writes_advance(struct spool *spool)
{
	while (spool->write_count && spool->writes[spool->write_first].done) {
		spool->written = spool->writes[spool->write_first].end;
		spool->write_first = (spool->write_first + 1) % SPOOL_WRITES;
		spool->write_count--;
	}
	sync_kick(spool);
}

void spool_kick(struct spool *spool)
{
	if (!spool->window || spool->closing)
		return;
	while (spool->write_count < SPOOL_WRITES && !spool->tail_busy) {
		struct spool_segment *s = segment_written(spool);
		struct spool_write *w;
		uint64_t end, n;
		bool all;

		if (!s)
			break;
		end = s->closed ? s->end : spool->head;
		all = s->closed || spool->sync_wanted > spool->written;
		n = end > spool->issued ? spool_round_down(end - spool->issued) : 0;
		if (n > SPOOL_WRITE_BYTES)
			n = SPOOL_WRITE_BYTES;
		if (n == SPOOL_WRITE_BYTES || (n && all)) {
			w = &spool->writes[(spool->write_first + spool->write_count++) % SPOOL_WRITES];
			submit(spool, w, s, ring_at(spool->window, spool->issued), spool->issued, n, spool->issued + n);
			spool->issued += n;
			continue;
		}
		/* The block that is not full, and the seal: alone, after everything before it. */
		if (all && s->sealed != end && !spool->write_count) {
			uint64_t bytes;

			n = end - spool->issued;
			bytes = tail_bytes(spool, s, n);
			if (!bytes) {
				s->sealed = end;
				sync_kick(spool);
				continue;
			}
			memcpy(spool->bounce, ring_at(spool->window, spool->issued), n);
			memset(spool->bounce + n, 0, bytes - n);
			spool->tail_busy = true;
			submit(spool, &spool->tail, s, spool->bounce, spool->issued, bytes, end);
		}
		break;
	}
}

void spool_retry(struct spool *spool)
{
	bool tried = spool->io_error != 0;

	spool_spare_drop(spool->store, spool, SPOOL_SPARE_MS);

	if (tried) {
		spool->io_error = 0;
		for (unsigned i = 0; i < spool->write_count; i++) {
			struct spool_write *w = &spool->writes[(spool->write_first + i) % SPOOL_WRITES];

			if (w->failed) {
				w->failed = false;
				io_submit(spool->store->io, &w->io);
			}
		}
		if (spool->tail_busy && spool->tail.failed) {
			spool->tail.failed = false;
			io_submit(spool->store->io, &spool->tail.io);
		}
	}
	if (spool->waits != SPOOL_GO)
		space(spool);
}

/* ---- segments ---------------------------------------------------------------------------- */

static int segment_new(struct spool *spool)
{
	struct spool_store *store = spool->store;
	struct spool_segment *s;
	struct segment_header header = { .number = spool->next_number, .last_complete = spool->last_complete,
					 .last_applied = spool->last_applied, .max_epoch = spool->max_epoch };
	uint64_t bytes = store->segment_bytes;
	char name[SEGMENT_NAME_BYTES];
	bool spare;
	int error;

	if (!spool_store_room(store))
		return -EDQUOT;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->header = io_buffer_alloc(SEGMENT_HEADER_BYTES);
	s->spool = spool;
	s->number = spool->next_number;
	s->header_complete = header.last_complete;
	s->fd = -1;
	if (!s->header) {
		free(s);
		return -ENOMEM;
	}
	memcpy(header.machine, spool->machine, sizeof(header.machine));
	if (spool->open) {
		header.epoch = spool->open->epoch;
		header.attempt = spool->open->attempt;
		header.seq = spool->open->frames;
	}
	segment_encode(&header, s->header);
	segment_name(s->number, name);
	s->fd = spool_spare_take(spool, name, &bytes);
	spare = s->fd >= 0;
	while (!spare && store->used_bytes + store->segment_bytes > store->quota_bytes)
		spool_spare_drop(store, NULL, 0);
	if (!spare)
		s->fd = openat(spool->dirfd, name, spool_segment_open_flags(store) | O_CREAT | O_EXCL, 0600);
	if (s->fd < 0 && errno == EINVAL && store->direct) {
		log_notice("spool %s: its file system has no O_DIRECT: the page cache is used", store->path);
		store->direct = false;
		unlinkat(spool->dirfd, name, 0);
		s->fd = openat(spool->dirfd, name, spool_segment_open_flags(store) | O_CREAT | O_EXCL, 0600);
	}
	error = s->fd < 0 ? -errno : 0;
	/* A nearly full file system may still have room for a small one. */
	while (!error && !spare && fallocate(s->fd, 0, 0, (off_t)bytes) < 0 && errno != EOPNOTSUPP) {
		if (errno == EINTR || (errno == ENOSPC && spool_spare_drop(store, NULL, 0)))
			continue;
		if (errno != ENOSPC || bytes < 2 * SPOOL_SEGMENT_MIN)
			error = -errno;
		bytes = spool_round_down(bytes / 2);
	}
	if (error) {
		if (s->fd >= 0) {
			close(s->fd);
			unlinkat(spool->dirfd, name, 0);
		}
		free(s->header);
		free(s);
		return error;
	}
	spool->next_number++;
	s->file_bytes = bytes;
	s->room_bytes = bytes - SEGMENT_HEADER_BYTES;
	if (!spare) {
		store->used_bytes += s->file_bytes;
		spool->bytes += s->file_bytes;
	}
	spool->head = spool_round_up(spool->head);
	s->base = s->synced = spool->head;
	s->sealed = s->sealed_durable = UINT64_MAX;
	if (spool->last)
		spool->last->next = s;
	else
		spool->first = s;
	spool->last = s;
	spool->segment_count++;
	s->busy += 2;
	s->header_io = (struct io_request){ .op = IO_WRITE, .fd = s->fd, .buffer = -1, .data = s->header,
					    .bytes = SEGMENT_HEADER_BYTES, .done = header_done, .user = s };
	s->name_io = (struct io_request){ .op = IO_SYNC, .fd = spool->dirfd, .buffer = -1, .done = name_done, .user = s };
	io_submit(store->io, &s->header_io);
	io_submit(store->io, &s->name_io);
	return 0;
}

/* Give back what was preallocated and is not used, unless it is so little that the file is better kept whole. */
static void segment_trim(struct spool_segment *s)
{
	uint64_t bytes = SEGMENT_HEADER_BYTES + spool_round_up(s->end - s->base);

	if (s->file_bytes - bytes <= s->spool->store->segment_bytes / 4)
		return;
	if (ftruncate(s->fd, (off_t)bytes) < 0) {
		log_warning("spool of machine %s: segment %016" PRIx64 ": cannot cut to its length: %s (it takes more "
			    "space until it is freed)", s->spool->machine, s->number, strerror(errno));
		return;
	}
	s->spool->store->used_bytes -= s->file_bytes - bytes;
	s->spool->bytes -= s->file_bytes - bytes;
	s->file_bytes = bytes;
}

static void segment_close(struct spool *spool)
{
	struct spool_segment *s = spool->last;

	if (!s || s->closed)
		return;
	s->closed = true;
	s->end = spool->head;
	segment_trim(s);
	spool_kick(spool);
}

static enum spool_wait wait_of(int error)
{
	return error == -EDQUOT ? SPOOL_WAIT_QUOTA : error == -ENOSPC ? SPOOL_WAIT_SPACE : SPOOL_WAIT_IO;
}

/* Make room for @bytes in the newest segment, leaving @slack. */
static bool segment_room(struct spool *spool, uint64_t bytes, uint64_t slack)
{
	struct spool_segment *s = spool->last;
	int error;

	if (s && !s->closed && spool->head + bytes + slack <= s->base + s->room_bytes)
		return true;
	if (spool_store_room(spool->store))
		segment_close(spool);
	error = segment_new(spool);
	if (!error) {
		if (spool->waits == SPOOL_WAIT_SPACE || spool->waits == SPOOL_WAIT_QUOTA || spool->waits == SPOOL_WAIT_IO)
			log_notice("spool of machine %s: there is room again, going on", spool->machine);
		writes_advance(spool);
		spool_kick(spool);
		return true;
	}
	if (spool->waits != wait_of(error))
		log_error("spool of machine %s: cannot begin a new segment in %s: %s (reading from its agent stops "
			  "until there is room; %s)",
			  spool->machine, spool->store->path,
			  error == -EDQUOT ? "the quota is reached" : strerror(-error),
			  error == -EDQUOT ? "bring the master target up, or raise spool_bytes" :
			  error == -ENOSPC ? "free space there, or bring the master target up" :
					     "check the disk and the permissions");
	spool->waits = wait_of(error);
	return false;
}

static bool window_room(struct spool *spool, uint64_t bytes)
{
	uint64_t floor = spool_round_down(spool->written < spool->issued ? spool->written : spool->issued);
	uint64_t low = spool->window ? ring_low(spool->window) : UINT64_MAX;

	if (low < floor)
		floor = low;
	return spool->head + bytes <= floor + spool->store->window_bytes;
}

static void window_released(void *user)
{
	struct spool *spool = user;

	if (spool->closing)
		return;
	if (spool->waits == SPOOL_WAIT_WINDOW)
		space(spool);
	spool->ops->readable(spool->user);
}

static bool window_get(struct spool *spool)
{
	if (spool->window)
		return true;
	if (!spool->bounce)
		spool->bounce = io_buffer_alloc(SPOOL_BOUNCE_BYTES);
	if (!spool->bounce || ring_new(&spool->window, spool->store->window_bytes)) {
		log_error("spool of machine %s: no memory for its window (lower window_bytes or max_machines)",
			  spool->machine);
		return false;
	}
	spool->window->released = window_released;
	spool->window->user = spool;
	spool->window_start = spool->head = spool->issued = spool->written = spool->reserved =
		spool_round_up(spool->head);
	return true;
}

static bool ready(struct spool *spool, uint64_t bytes, uint64_t slack)
{
	if (!window_get(spool)) {
		spool->waits = SPOOL_WAIT_IO;
		return false;
	}
	if (spool->io_error && !window_room(spool, bytes + SPOOL_SLACK)) {
		spool->waits = spool->io_error == -ENOSPC ? SPOOL_WAIT_SPACE : SPOOL_WAIT_IO;
		return false;
	}
	if (spool->epoch_count >= SPOOL_EPOCHS_MAX && !spool->open) {
		spool->waits = SPOOL_WAIT_EPOCHS;
		return false;
	}
	if (!segment_room(spool, bytes, slack))
		return false;
	if (!window_room(spool, bytes + SPOOL_SLACK)) {
		spool->waits = SPOOL_WAIT_WINDOW;
		return false;
	}
	spool->waits = SPOOL_GO;
	return true;
}

bool spool_ready(struct spool *spool)
{
	return ready(spool, WIRE_HEADER_BYTES, SPOOL_SLACK / 2);
}

void *spool_reserve(struct spool *spool, uint32_t payload_bytes)
{
	uint64_t bytes = WIRE_HEADER_BYTES + payload_bytes;

	if (!ready(spool, bytes, SPOOL_SLACK))
		return NULL;
	spool->reserved = spool->head + bytes;
	return ring_at(spool->window, spool->head) + WIRE_HEADER_BYTES;
}

void spool_unreserve(struct spool *spool)
{
	/* What the reservation has overwritten in the window stays overwritten: keep its mark. */
	if (spool->window && spool->reserved > spool->head) {
		uint64_t low = spool->reserved > spool->window->bytes ? spool->reserved - spool->window->bytes : 0;

		if (low > spool->window_start)
			spool->window_start = low;
	}
	spool->reserved = spool->head;
}

/* ---- the index --------------------------------------------------------------------------- */

void spool_add_epoch(struct spool *spool, struct spool_epoch *e)
{
	e->next = NULL;
	if (spool->epochs_last)
		spool->epochs_last->next = e;
	else
		spool->epochs = e;
	spool->epochs_last = e;
	spool->epoch_count++;
	if (e->epoch > spool->max_epoch)
		spool->max_epoch = e->epoch;
}

static void remove_epochs(struct spool *spool, bool (*gone)(const struct spool *, const struct spool_epoch *))
{
	struct spool_epoch **at = &spool->epochs, *last = NULL;

	while (*at) {
		struct spool_epoch *e = *at;

		if (!gone(spool, e)) {
			last = e;
			at = &e->next;
			continue;
		}
		*at = e->next;
		spool->epoch_count--;
		if (spool->open == e)
			spool->open = NULL;
		free(e);
	}
	spool->epochs_last = last;
}

static int append(struct spool *spool, const struct wire_frame *frame)
{
	char *at;

	if (!frame->payload_bytes) { /* into the slack */
		struct spool_segment *s = spool->last;

		if (!window_get(spool))
			return -ENOMEM;
		if (!s || s->closed || spool->head + WIRE_HEADER_BYTES > s->base + s->room_bytes) {
			if (!segment_room(spool, WIRE_HEADER_BYTES, SPOOL_SLACK))
				return -ENOSPC;
		}
		if (!window_room(spool, WIRE_HEADER_BYTES))
			return -ENOSPC;
	}
	at = ring_at(spool->window, spool->head);
	wire_encode(frame, at);
	segment_mark(at, spool->last->number);
	spool->head += WIRE_HEADER_BYTES + frame->payload_bytes;
	spool->reserved = spool->head;
	return 0;
}

int spool_append(struct spool *spool, const struct wire_frame *frame)
{
	struct spool_epoch *e = spool->open;
	int r;

	if (frame->type == WIRE_BEGIN) {
		e = calloc(1, sizeof(*e));
		if (!e)
			return -ENOMEM;
	}
	r = append(spool, frame);
	if (r) {
		if (frame->type == WIRE_BEGIN)
			free(e);
		return r;
	}
	if (frame->type == WIRE_BEGIN) {
		e->epoch = frame->epoch;
		e->attempt = frame->attempt;
		e->previous = frame->offset;
		e->flags = frame->flags;
		e->start = spool->head - WIRE_HEADER_BYTES;
		spool->open = e;
		spool_add_epoch(spool, e);
	}
	e->frames++;
	if (frame->type == WIRE_DATA || frame->type == WIRE_ZERO)
		e->data_bytes += frame->length;
	if (frame->type == WIRE_END) {
		e->end = spool->head;
		e->state = SPOOL_ENDED;
		spool->sync_wanted = spool->head;
		spool->open = NULL;
	}
	spool_kick(spool);
	return 0;
}

void spool_abort(struct spool *spool)
{
	struct spool_epoch *e = spool->open;
	struct wire_frame frame = { .type = WIRE_ABORT };
	int r;

	spool_unreserve(spool);
	if (!e)
		return;
	frame.epoch = e->epoch;
	frame.attempt = e->attempt;
	frame.seq = e->frames;
	r = append(spool, &frame);
	if (r) /* whoever reads the spool later takes the epoch for unfinished all the same */
		log_debug("spool of machine %s: no room for ABORT of epoch %" PRIu64, spool->machine, e->epoch);
	e->state = SPOOL_ABORTED;
	e->end = spool->head;
	spool->open = NULL;
	spool->aborted_epochs++;
	spool_kick(spool);
	spool_reclaim(spool, false);
}

static bool is_applied(const struct spool *spool, const struct spool_epoch *e)
{
	return e->epoch <= spool->last_applied && e->state == SPOOL_COMPLETE;
}

static bool is_aborted(const struct spool *spool, const struct spool_epoch *e)
{
	return e->state == SPOOL_ABORTED && e != spool->held;
}

static bool is_any(const struct spool *spool, const struct spool_epoch *e)
{
	(void)spool;
	(void)e;
	return true;
}

void spool_applied(struct spool *spool, uint64_t epoch)
{
	if (epoch > spool->last_applied)
		spool->last_applied = epoch;
	if (epoch > spool->last_complete)
		spool->last_complete = epoch;
	if (epoch > spool->max_epoch)
		spool->max_epoch = epoch;
	remove_epochs(spool, is_applied);
	spool_reclaim(spool, false);
	space(spool);
}

void spool_hold(struct spool *spool, const struct spool_epoch *epoch)
{
	spool->held = epoch;
	spool_reclaim(spool, false);
}

static bool segment_needed(const struct spool *spool, const struct spool_segment *s)
{
	if (!s->closed || s->busy || s->synced < s->end)
		return true;
	for (const struct spool_epoch *e = spool->epochs; e; e = e->next)
		if (e->start < s->end && (!e->end || e->end > s->base))
			return true;
	return false;
}

/*
 * Whether what @s says of the machine's state is also said by something durable that stays: the header
 * of a newer segment, or state.json, which is written now if need be. Without it a
 * restarted process server would take an older epoch for the last one.
 */
static bool segment_expendable(struct spool *spool, const struct spool_segment *s)
{
	if (s->holds_complete <= spool->saved_complete && s->header_complete <= spool->saved_complete)
		return true;
	for (const struct spool_segment *newer = s->next; newer; newer = newer->next)
		if (newer->headed && newer->named && !newer->broken && newer->header_complete >= s->holds_complete &&
		    newer->header_complete >= s->header_complete)
			return true;
	return !spool->ops->save(spool->user);
}

static void segment_free(struct spool *spool, struct spool_segment *s, bool keep)
{
	char name[SEGMENT_NAME_BYTES];

	if (!keep || !spool_spare_keep(spool, s)) {
		segment_name(s->number, name);
		if (unlinkat(spool->dirfd, name, 0) < 0 && errno != ENOENT)
			log_error("spool of machine %s: cannot remove %s: %s (its space stays in use; remove it once "
				  "the process server is stopped)", spool->machine, name, strerror(errno));
		if (s->fd >= 0)
			close(s->fd);
		spool->store->used_bytes -= s->file_bytes;
		spool->bytes -= s->file_bytes;
	}
	spool->segment_count--;
	free(s->header);
	free(s);
}

void spool_reclaim(struct spool *spool, bool all)
{
	struct spool_segment **at = &spool->first, *last = NULL;
	bool freed = false;

	if (spool->closing)
		return;
	remove_epochs(spool, is_aborted);
	if (all && !spool->epochs && spool->reserved == spool->head)
		segment_close(spool);
	spool_kick(spool);
	while (*at) {
		struct spool_segment *s = *at;

		if (segment_needed(spool, s) || (!s->next && !all) || !segment_expendable(spool, s)) {
			last = s;
			at = &s->next;
			continue;
		}
		*at = s->next;
		segment_free(spool, s, !all);
		freed = true;
	}
	spool->last = last;
	while (all && spool_spare_drop(spool->store, spool, 0))
		freed = true;
	if (freed && spool_store_room(spool->store))
		space(spool);
}

int spool_reset(struct spool *spool, uint64_t epoch)
{
	uint64_t complete = spool->last_complete, applied = spool->last_applied, first = spool->first_number;
	int r;

	spool->last_complete = spool->last_applied = epoch;
	spool->first_number = spool->next_number; /* what has a lower number is void, also after a crash */
	r = spool->ops->save(spool->user);
	if (r) {
		spool->last_complete = complete;
		spool->last_applied = applied;
		spool->first_number = first;
		return r;
	}
	spool_unreserve(spool);
	spool->held = NULL;
	remove_epochs(spool, is_any);
	segment_close(spool);
	spool_reclaim(spool, true);
	return 0;
}

uint64_t spool_epochs_bytes(const struct spool *spool)
{
	uint64_t bytes = 0;

	for (const struct spool_epoch *e = spool->epochs; e; e = e->next)
		if (e->state != SPOOL_ABORTED)
			bytes += e->data_bytes;
	return bytes;
}

void spool_free(struct spool *spool)
{
	if (!spool)
		return;
	spool->closing = true;
	for (struct spool_segment *s = spool->first, *next; s; s = next) {
		next = s->next;
		close(s->fd);
		free(s->header);
		free(s);
	}
	spool->first = spool->last = NULL;
	spool_spare_forget(spool);
	spool->held = NULL;
	remove_epochs(spool, is_any);
	ring_free(spool->window);
	ring_free(spool->read_ring);
	free(spool->bounce);
	if (spool->dirfd >= 0)
		close(spool->dirfd);
	free(spool);
}
